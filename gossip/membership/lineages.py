"""Lineages: which state the swarm goes by, and whose word counts for that.

States form lineages: a record names its state and the one before. Peers whose states touch are one
cluster; the swarm goes by the cluster of most voters, among equals by the higher round, and so on.
In it the round that counts is the highest that at least half have reached, so that one who ran ahead alone
does not lead the many, and the state is the one that most hold there. Only those count that have finished a
round since they were started, and those that are ahead of them: neither a crowd of newcomers nor one that
comes back with an old state undoes what was made without it. Where nobody has finished a round yet, as after
a power cut, the highest round counts.

Records cost nothing, so a node does not count everybody. Besides itself it counts its voters, who are

    its colleagues                 those that live: it goes by the lineage of more than half of them
    else those its user named      the rest of the swarm decides only between their lineage and its own
    else those it has met          if none of its colleagues lives, and only in its own lineage
    else the most                  it has nothing to lose yet: it is unanchored until it has colleagues

So no number of peers moves a node from its colleagues.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import MappingProxyType

from shoal.crypto.keys import PeerId
from shoal.gossip.membership.colleagues import Colleagues
from shoal.gossip.messages import Presence

_COMPLEMENT = bytes(range(255, -1, -1))


class Basis(Enum):
    """Whose word a node goes by."""

    COLLEAGUES = "colleagues"
    NAMED = "named"
    MET = "met before"
    MOST = "the most"


@dataclass(frozen=True, slots=True)
class Voters:
    """The peers whose word on the swarm's state counts, beside our own."""

    basis: Basis = Basis.MOST
    peers: frozenset[PeerId] = frozenset()
    """Nobody in particular where the node goes by the most."""


@dataclass(frozen=True, slots=True)
class SwarmState:
    """The state that a swarm goes by."""

    round: int
    state: bytes
    holders: tuple[PeerId, ...]
    """To whom of those that have it now we have links."""
    includes_us: bool
    """Whether our own state is of the same lineage."""
    basis: Basis = Basis.MOST
    """By whose word."""
    voters: frozenset[PeerId] = frozenset()
    """Those of them that stand in its lineage."""


Peers = list[tuple[PeerId, Presence]]


def voters_of(colleagues: Colleagues, peers: Iterable[tuple[PeerId, Presence]]) -> Voters:
    """Return whose word counts among the peers of our run that have a live record."""
    # A peer without a trainer keeps a state that is made no further.
    living = {peer: presence for peer, presence in peers if presence.state and presence.phase != "helping"}
    everyone = colleagues.colleagues()
    if found := everyone & living.keys():
        return Voters(Basis.COLLEAGUES, found)
    if found := frozenset(p for p in colleagues.named & living.keys() if not living[p].is_unanchored):
        return Voters(Basis.NAMED, found)
    if everyone:
        return Voters(Basis.MET, frozenset(peer for peer in living if colleagues.rounds_with(peer)))
    return Voters()


def swarm_state(
    peers: Iterable[tuple[PeerId, Presence]],
    me: PeerId,
    ours: Presence,
    linked: AbstractSet[PeerId],
    voters: Voters | None = None,
    *,
    states_differ: bool = False,
) -> SwarmState | None:
    """Return the state that the run goes by, or nothing while nobody has one.

    `peers` are the others of our run; see the module's docstring for the rule. A lineage of which we are
    linked to nobody does not count yet: it could not be fetched, and may be hearsay. `states_differ`: whether
    peers of one round have different states, as in many groups.
    """
    voters, everyone = voters or Voters(), [(me, ours), *peers]
    counted = [
        (peer, presence)
        for peer, presence in everyone
        if voters.basis is Basis.MOST or peer == me or peer in voters.peers
    ]
    near = linked | {me}
    clusters = [c for c in _clusters(counted) if any(peer in near for peer, _ in c)]
    if not clusters:
        return None
    by_name = voters.basis is Basis.NAMED
    own = next((each for each in clusters if any(peer == me for peer, _ in each)), [])
    best = clusters[0]
    if voters.basis is Basis.MET:
        # Those it has met tell how far its own lineage is, and do not lead it to another.
        best = own or best
    elif states_differ and voters.basis is not Basis.MOST:
        # One lineage of all: none of their states is wrong, and each meets the others in means.
        best = [(peer, presence) for peer, presence in counted if peer in near and presence.state]
        best = _by_round(best, everyone) if by_name else best
    elif len(clusters) > 1:
        best = max(clusters, key=partial(_by_name, me, everyone) if by_name else _by_makers)
    round_, state = _settled(best, _held(everyone) if by_name else {})
    holders = tuple(sorted(p for p, presence in everyone if presence.state == state and p in linked))
    is_ours = own is best or any(presence.state == state for _, presence in own)
    stands = frozenset(peer for peer, _ in best if peer != me)
    return SwarmState(round_, state, holders, is_ours, voters.basis, stands)


def _by_round(members: Peers, everyone: Peers) -> Peers:
    """Return those of a round; of which one, the most decide that are near one of theirs."""

    makers = [presence.round for _, presence in everyone if presence.has_finished_round]

    def near(round_: int) -> tuple[int, int]:
        return sum(abs(other - round_) <= 1 for other in makers), round_

    # A newcomer has nothing that its own word could stand for.
    begun = {presence.round for _, presence in members if presence.has_finished_round or presence.round > 0}
    chosen = max(begun or {0}, key=near)
    return [(peer, presence) for peer, presence in members if presence.round == chosen]


def _by_makers(members: Peers) -> tuple[int, int, int, bytes]:
    round_, state = _settled(members)
    makers = sum(presence.has_finished_round for _, presence in members)
    return makers, round_, len(members), _inverted(state)


def _by_name(me: PeerId, everyone: Peers, members: Peers) -> tuple[int, int, int, int, bytes]:
    """Rank a lineage by those named in it, and us; then by the most, as in a run without names."""
    round_, state = _settled(members, _held(everyone))
    # A newcomer has nothing that its own word could stand for.
    weight = sum(peer != me or p.has_finished_round or p.round > 0 for peer, p in members)
    touched = {each for _, presence in members for each in (presence.state, presence.previous) if each}
    names = {peer for peer, _ in members}
    inside = [p for _, p in members] + [p for peer, p in everyone if peer not in names and p.state in touched]
    makers = sum(presence.has_finished_round for presence in inside)
    return weight, makers, len(inside), round_, _inverted(state)


def _held(everyone: Peers) -> dict[bytes, int]:
    """Return how many hold each state, of those that have finished a round."""
    states = [presence.state for _, presence in everyone if presence.has_finished_round]
    return dict(Counter(states))


def _clusters(everyone: Peers) -> list[Peers]:
    """Return the peers by lineage."""
    lineages: dict[bytes, Peers] = {}
    """By every hash that touches it; each peer is moved at most log n times."""
    hashes_of: dict[int, list[bytes]] = {}
    for peer, presence in everyone:
        if not presence.state:
            continue
        mine = lineages.get(presence.state)
        if mine is None:
            mine = lineages[presence.state] = []
            hashes_of[id(mine)] = [presence.state]
        other = lineages.get(presence.previous, mine) if presence.previous else mine
        if other is mine and presence.previous and presence.previous not in lineages:
            lineages[presence.previous] = mine
            hashes_of[id(mine)].append(presence.previous)
        if other is not mine:
            if len(other) > len(mine):
                mine, other = other, mine
            mine += other
            moved = hashes_of.pop(id(other))
            hashes_of[id(mine)] += moved
            lineages.update(dict.fromkeys(moved, mine))
        mine.append((peer, presence))
    return list({id(members): members for members in lineages.values()}.values())


def _settled(members: Peers, held: Mapping[bytes, int] = MappingProxyType({})) -> tuple[int, bytes]:
    """Return the round that a cluster goes by, and the state that stands for it.

    `held`: by how many each state is held, whose word does not count; it breaks ties.
    """
    reached = max((presence.round for _, presence in members if presence.has_finished_round), default=-1)
    members = [(peer, p) for peer, p in members if p.has_finished_round or p.round > reached]
    rounds = sorted((presence.round for _, presence in members), reverse=True)
    settled = rounds[(len(rounds) - 1) // 2] if reached >= 0 else rounds[0]
    counts = dict.fromkeys((p.state for _, p in members if p.round == settled), 0)
    for _, presence in members:
        # Who is a round ahead came from one of them.
        state = presence.state if presence.round == settled else presence.previous
        if state in counts:
            counts[state] += 1
    return settled, max(counts, key=lambda state: (counts[state], held.get(state, 0), _inverted(state)))


def _inverted(state: bytes) -> bytes:
    return state.translate(_COMPLEMENT)
