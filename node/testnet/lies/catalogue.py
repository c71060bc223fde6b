"""The lies that are told to shoal's nodes on purpose: who tells them, what they are, and what bounds them.

`shoal testnet lies` prints this table. An outsider has a fresh key and the address of one node. A member
trains in the run. An owner reduces a part of the vector, and a convener proposes groups: both are members.
"""

from typing import Final, Literal, TypeAlias

import msgspec

from shoal.node.errors import UserError

Who: TypeAlias = Literal["outsider", "member", "owner", "convener"]


class Lie(msgspec.Struct, frozen=True):
    """A lie."""

    name: str
    who: Who
    what: str
    bound: str
    """What it can do at most."""


class NoSuchLie(UserError):
    """There is no lie of this name, or it is not told by a node."""

    exit_code = 2


CAPPED: Final = "nothing bounds it yet"
LIES: Final = (
    Lie("convene", "outsider", "makes groups of itself and one node, and hands noise back", CAPPED),
    Lie("fake-quorum", "outsider", "the same, with members that never existed", CAPPED),
    Lie("silent-proposals", "outsider", "proposes to everyone again and again, and never commits", CAPPED),
    Lie("sybil-lineage", "outsider", "20 made-up identities hold a later state", CAPPED),
    Lie("nan-state", "outsider", "4 made-up identities hold a later state that is no number", CAPPED),
    Lie("heavy-push", "outsider", "gives mass of weight 1e10 in a run that averages pairwise", CAPPED),
    Lie("sign-flip", "member", "contributes the opposite of what it learned", CAPPED),
    Lie("sign-flip-10", "member", "the opposite, ten times as large", CAPPED),
    Lie("scale-10", "member", "contributes ten times what it learned", CAPPED),
    Lie("scale-1000", "member", "contributes a thousand times what it learned", CAPPED),
    Lie("weight", "member", "says that the opposite of what it learned counts 1e15 times", CAPPED),
    Lie("zeros", "member", "contributes nothing that it learned", CAPPED),
    Lie("noise", "member", "contributes noise as large as what it learned", CAPPED),
    Lie("drift", "member", "pulls in one direction in every round, as far as it learned", CAPPED),
    Lie("label-flip", "member", "trains on wrong labels: 9 minus the right one", CAPPED),
    Lie("cut", "member", "tells all others in every exchange that it waits for them no longer", CAPPED),
    Lie("turned-owner", "owner", "turns the mean of its part into the opposite", CAPPED),
    Lie("lying-owner", "owner", "the opposite, ten times as large", CAPPED),
    Lie("greedy-uplink", "owner", "claims a line of 1 TB/s, and turns the mean of what it is given", CAPPED),
    Lie("greedy-convener", "convener", "proposes groups in which it owns everything; returns zeros", CAPPED),
    Lie("silent-convener", "convener", "proposes groups when it is its turn, and never commits", CAPPED),
)


def lie_of(name: str) -> Lie:
    """Return a lie by its name.

    Raises:
        NoSuchLie: there is none.
    """
    for lie in LIES:
        if lie.name == name:
            return lie
    raise NoSuchLie(f"no lie {name}: choose one that shoal testnet lies names")


def lie_of_node(name: str) -> Lie:
    """Return a lie that a node of a testnet can tell.

    Raises:
        NoSuchLie: there is none, or it is told by outsiders.
    """
    lie = lie_of(name)
    if lie.who == "outsider":
        raise NoSuchLie(
            f"{name} is told by an outsider, not by a node: see python scripts/attacks.py --lie {name}"
        )
    return lie
