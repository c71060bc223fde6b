"""Presence: who is there, in which run, at which state, and which state the swarm goes by.

Every peer signs small records with a lease and pushes them to its neighbours when something
changes; beside that, neighbours swap samples of what they know, so that news crosses any connected
network and two halves that touch become one. A record handed on carries its age, so no record outlives
its author by more than a lease, whoever repeats it.

States form lineages: a record names its state and the one before. Peers whose states touch are one
cluster; the swarm goes by the largest cluster, among equals by the higher round, then the lower hash.
Size counts peers that are seen alive, so that a node that raced ahead alone does not lead the many.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from crypto.keys import PeerId
from gossip.messages import Presence, Record

MAX_RECORDS = 1024
"""Records kept; the oldest of peers without a link go first."""


@dataclass(slots=True)
class Entry:
    """What is known of one peer."""

    record: Record
    expires: float
    heard: float
    """When its author made it, by our clock."""

    @property
    def presence(self) -> Presence:
        """The record's body."""
        return self.record.presence


@dataclass(frozen=True, slots=True)
class SwarmState:
    """The state that a swarm goes by."""

    round: int
    state: bytes
    holders: tuple[PeerId, ...]
    """Who has it now, without ourselves."""
    includes_us: bool
    """Whether our own state is of the same lineage."""


class PresenceTable:
    """The records of others, each with its lease."""

    def __init__(self, me: PeerId) -> None:
        """Start knowing nobody."""
        self.me = me
        self.connected: set[PeerId] = set()
        self._entries: dict[PeerId, Entry] = {}

    def update(self, record: Record, age: float, now: float) -> bool:
        """Take a record in; tells whether it was news."""
        author, presence = record.author, record.presence
        left = presence.lease - age
        known = self._entries.get(author)
        if author == self.me or left <= 0 or (known and known.record.sequence >= record.sequence):
            return False
        self._entries[author] = Entry(record, now + left, now - age)
        if len(self._entries) > MAX_RECORDS:
            strangers = (peer for peer in self._entries if peer not in self.connected and peer != author)
            oldest = min(strangers, key=lambda peer: self._entries[peer].heard, default=None)
            del self._entries[oldest if oldest is not None else author]
        return True

    def touch(self, peer: PeerId, now: float) -> None:
        """Prolong the lease of a peer that has just spoken to us itself."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.expires = max(entry.expires, now + entry.presence.lease)

    def forget(self, peer: PeerId) -> None:
        """Drop the record of a peer that said goodbye."""
        self._entries.pop(peer, None)

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


def swarm_state(peers: Iterable[tuple[PeerId, Presence]], me: PeerId, ours: Presence) -> SwarmState | None:
    """Return the state that the run goes by, or nothing while nobody has one.

    `peers` are the others of our run; see the module's docstring for the rule.
    """
    everyone = [(me, ours), *peers]
    clusters: list[tuple[set[bytes], list[tuple[PeerId, Presence]]]] = []
    for peer, presence in everyone:
        if not presence.state:
            continue
        hashes = {presence.state} | ({presence.previous} if presence.previous else set())
        members = [(peer, presence)]
        apart = []
        for cluster in clusters:
            if cluster[0] & hashes:
                hashes |= cluster[0]
                members = cluster[1] + members
            else:
                apart.append(cluster)
        clusters = [*apart, (hashes, members)]
    if not clusters:
        return None

    def standing(members: list[tuple[PeerId, Presence]]) -> tuple[int, int, bytes]:
        newest = max(presence.round for _, presence in members)
        lowest = min(presence.state for _, presence in members if presence.round == newest)
        return len(members), newest, bytes(255 - byte for byte in lowest)

    _, best = max(clusters, key=lambda cluster: standing(cluster[1]))
    newest = max(presence.round for _, presence in best)
    counts: dict[bytes, int] = {}
    for _, presence in best:
        if presence.round == newest:
            counts[presence.state] = counts.get(presence.state, 0) + 1
    state = min(counts, key=lambda hash_: (-counts[hash_], hash_))
    holders = tuple(sorted(p for p, presence in best if presence.state == state and p != me))
    return SwarmState(newest, state, holders, any(peer == me for peer, _ in best))
