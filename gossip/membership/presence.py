"""Presence: who is there, in which run, at which state, and which state the swarm goes by.

Every peer signs small records with a lease and pushes them to its neighbours when something
changes; beside that, neighbours swap samples of what they know, so that news crosses any connected
network and two halves that touch become one. A record handed on carries its age, so no record outlives
its author by more than a lease, whoever repeats it honestly.

States form lineages: a record names its state and the one before. Peers whose states touch are one
cluster; the swarm goes by the cluster of most peers, among equals by the higher round, and so on.
In it the round that counts is the highest that at least half have reached, so that one who ran ahead alone
does not lead the many, and the state is the one that most hold there. Only those count that have finished a
round since they were started, and those that are ahead of them: neither a crowd of newcomers nor one that
comes back with an old state undoes what was made without it. Where nobody has finished a round yet, as after
a power cut, the highest round counts.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from shoal.crypto.keys import PeerId
from shoal.gossip.messages import Presence, Record

_COMPLEMENT = bytes(range(255, -1, -1))
MAX_LEASE = 60.0
"""Seconds: no record is believed for longer, whatever its author asks for."""
MAX_RECORDS = 1024
"""Records kept; the oldest of peers without a link go first."""


@dataclass(slots=True)
class Entry:
    """What is known of one peer."""

    record: Record
    presence: Presence
    """The record's body."""
    expires: float
    heard: float
    """When its author made it, by our clock."""
    lease: float
    is_own: bool
    """Whether its author told us itself."""


@dataclass(frozen=True, slots=True)
class SwarmState:
    """The state that a swarm goes by."""

    round: int
    state: bytes
    holders: tuple[PeerId, ...]
    """To whom of those that have it now we have links."""
    includes_us: bool
    """Whether our own state is of the same lineage."""


class PresenceTable:
    """The records of others, each with its lease."""

    def __init__(self, me: PeerId) -> None:
        """Start knowing nobody."""
        self.me = me
        self.connected: set[PeerId] = set()
        self._entries: dict[PeerId, Entry] = {}
        self._left: OrderedDict[PeerId, tuple[int, float]] = OrderedDict()
        """Who is gone: the sequence of their last record, and until when others may still hand it on."""

    def update(self, record: Record, age: float, now: float, *, teller: PeerId | None = None) -> bool:
        """Take a record in that `teller` handed us; tells whether it was news."""
        author, presence = record.author, record.presence
        lease = min(presence.lease, MAX_LEASE)
        left = lease - age
        known = self._entries.get(author)
        if author == self.me or left <= 0 or (known and known.record.sequence >= record.sequence):
            return False
        sequence, until = self._left.get(author, (-1, 0.0))
        # Who says it itself is back, perhaps with a clock that was set back.
        is_back = teller == author and author in self.connected
        if record.sequence <= sequence and now < until and not is_back:
            return False
        self._left.pop(author, None)
        self._entries[author] = Entry(record, presence, now + left, now - age, lease, teller == author)
        if len(self._entries) > MAX_RECORDS:
            strangers = (peer for peer in self._entries if peer not in self.connected and peer != author)
            oldest = min(strangers, key=lambda peer: self._entries[peer].heard, default=None)
            del self._entries[oldest if oldest is not None else author]
        return True

    def is_of_before(self, record: Record, age: float, now: float, *, teller: PeerId) -> bool:
        """Whether a record that claims to be newer was said before what its author has told us itself.

        Then the author was started again meanwhile, with its clock set back: whoever heard nothing of that
        hands on what it said before.
        """
        known = self._entries.get(record.author)
        if known is None or not known.is_own or record.author not in self.connected:
            return False
        return teller != record.author and known.record.sequence < record.sequence and now - age < known.heard

    def touch(self, peer: PeerId, now: float) -> None:
        """Prolong the lease of a peer that has just spoken to us itself."""
        entry = self._entries.get(peer)
        if entry is not None and entry.expires < now + entry.lease:
            entry.expires = now + entry.lease

    def forgive(self, seconds: float, now: float) -> None:
        """Prolong all leases: our own process slept for so long, and heard nobody."""
        for entry in self._entries.values():
            # What waited for us to wake may have been heard already.
            entry.expires = max(entry.expires, min(entry.expires + seconds, now + entry.lease))

    def forget(self, peer: PeerId, now: float) -> None:
        """Drop the record of a peer that is gone: it counts again with a newer one, whoever brings it."""
        entry = self._entries.pop(peer, None)
        if entry is not None:
            self._left[peer] = (entry.record.sequence, now + entry.lease)
        while len(self._left) > MAX_RECORDS:
            self._left.popitem(last=False)

    def gone(self, now: float) -> set[PeerId]:
        """Return who left or lost its link a short time ago, and has not been heard of since."""
        return {peer for peer, (_, until) in self._left.items() if now < until}

    def expire(self, now: float) -> bool:
        """Drop records whose lease is over; tells whether there were any."""
        over = [peer for peer, entry in self._entries.items() if entry.expires <= now]
        for peer in over:
            del self._entries[peer]
        return bool(over)

    def get(self, peer: PeerId) -> Entry | None:
        """Return what is known of a peer."""
        return self._entries.get(peer)

    def __iter__(self) -> Iterator[tuple[PeerId, Entry]]:
        """Go through all live records."""
        return iter(self._entries.items())

    def __len__(self) -> int:
        """Return how many peers are known."""
        return len(self._entries)

    def in_run(self, run: bytes) -> Iterator[tuple[PeerId, Entry]]:
        """Go through the live records of one run's trainers."""
        return ((peer, entry) for peer, entry in self._entries.items() if entry.presence.run == run)


def swarm_state(
    peers: Iterable[tuple[PeerId, Presence]], me: PeerId, ours: Presence, linked: AbstractSet[PeerId]
) -> SwarmState | None:
    """Return the state that the run goes by, or nothing while nobody has one.

    `peers` are the others of our run; see the module's docstring for the rule. A lineage of which we are
    linked to nobody does not count yet: it could not be fetched, and may be hearsay.
    """
    near = linked | {me}
    clusters = [c for c in _clusters([(me, ours), *peers]) if any(peer in near for peer, _ in c)]
    if not clusters:
        return None

    def standing(members: list[tuple[PeerId, Presence]]) -> tuple[int, int, int, bytes]:
        round_, state = _settled(members)
        makers = sum(presence.has_finished_round for _, presence in members)
        return makers, round_, len(members), _inverted(state)

    best = max(clusters, key=standing) if len(clusters) > 1 else clusters[0]
    round_, state = _settled(best)
    holders = tuple(sorted(p for p, presence in best if presence.state == state and p in linked))
    return SwarmState(round_, state, holders, any(peer == me for peer, _ in best))


def _clusters(everyone: list[tuple[PeerId, Presence]]) -> list[list[tuple[PeerId, Presence]]]:
    """Return the peers by lineage."""
    lineages: dict[bytes, list[tuple[PeerId, Presence]]] = {}
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


def _settled(members: list[tuple[PeerId, Presence]]) -> tuple[int, bytes]:
    """Return the round that a cluster goes by, and the state that stands for it."""
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
    return settled, max(counts, key=lambda state: (counts[state], _inverted(state)))


def _inverted(state: bytes) -> bytes:
    return state.translate(_COMPLEMENT)
