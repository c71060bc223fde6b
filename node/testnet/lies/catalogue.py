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


PEACE: Final = 96.9
"""Per cent that six digits nodes reach where nobody lies: see scripts/byzantine.py."""


def _measured(accuracy: float) -> str:
    return f"one of six: {accuracy} % on digits in place of {PEACE} %"


class NoSuchLie(UserError):
    """There is no lie of this name, or it is not told by a node."""

    exit_code = 2


LIES: Final = (
    Lie(
        "convene",
        "outsider",
        "makes groups of itself and one node, and hands noise back",
        "nothing: no proposal out of turn is taken",
    ),
    Lie(
        "fake-quorum",
        "outsider",
        "the same, with members that never existed",
        "nothing: a member is one whose signed Ready is held",
    ),
    Lie(
        "silent-proposals",
        "outsider",
        "proposes to everyone again and again, and never commits",
        "nothing: no proposal out of turn is taken",
    ),
    Lie(
        "sybil-lineage",
        "outsider",
        "20 made-up identities hold a later state",
        "nothing where a node has colleagues, or peers that its user named",
    ),
    Lie(
        "nan-state",
        "outsider",
        "4 made-up identities hold a later state that is no number",
        "nothing: a state is checked before it is taken over",
    ),
    Lie(
        "heavy-push",
        "outsider",
        "gives mass of weight 1e10 in a run that averages pairwise",
        "all newcomers together bring a quarter of a node's weight, clipped around its estimate",
    ),
    Lie("sign-flip", "member", "contributes the opposite of what it learned", _measured(95.4)),
    Lie("sign-flip-10", "member", "the opposite, ten times as large", _measured(95.4)),
    Lie("scale-10", "member", "contributes ten times what it learned", _measured(96.9)),
    Lie("scale-1000", "member", "contributes a thousand times what it learned", _measured(96.9)),
    Lie("weight", "member", "says that the opposite of what it learned counts 1e15 times", _measured(91.2)),
    Lie("zeros", "member", "contributes nothing that it learned", _measured(96.4)),
    Lie("noise", "member", "contributes noise as large as what it learned", _measured(96.5)),
    Lie("drift", "member", "pulls in one direction in every round, as far as it learned", _measured(96.8)),
    Lie("label-flip", "member", "trains on wrong labels: 9 minus the right one", _measured(96.6)),
    Lie(
        "cut",
        "member",
        "tells all others in every exchange that it waits for them no longer",
        "nothing: a cut binds when more than half say so, and the liar is left out",
    ),
    Lie("turned-owner", "owner", "turns the mean of its part into the opposite", _measured(96.6)),
    Lie("lying-owner", "owner", "the opposite, ten times as large", _measured(96.3)),
    Lie("greedy-uplink", "owner", "claims a line of 1 TB/s, and turns the mean of its part", _measured(94.9)),
    Lie(
        "greedy-convener",
        "convener",
        "proposes groups in which it owns everything; returns zeros",
        "nothing: shares follow from signed words",
    ),
    Lie(
        "silent-convener",
        "convener",
        "proposes groups when it is its turn, and never commits",
        "a wait in the rounds that it convenes",
    ),
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
