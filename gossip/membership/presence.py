"""Presence: who is there, in which run, at which state. Which of those states the swarm goes by: lineages.py.

Every peer signs small records with a lease and pushes them to its neighbours when something
changes; beside that, neighbours swap samples of what they know, so that news crosses any connected
network and two halves that touch become one. A record handed on carries its age, so no record outlives
its author by more than a lease, whoever repeats it honestly.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from shoal.crypto.keys import PeerId
from shoal.gossip.messages import Presence, Record

MAX_LEASE = 60.0
"""Seconds: no record is believed for longer, whatever its author asks for."""
REMEMBERED = 600.0
"""Seconds for which a record that expired is remembered. It is no news for so long, and for as long again
whenever somebody brings it."""
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


class PresenceTable:
    """The records of others, each with its lease."""

    def __init__(self, me: PeerId) -> None:
        """Start knowing nobody."""
        self.me = me
        self.connected: set[PeerId] = set()
        self._entries: dict[PeerId, Entry] = {}
        self._left: OrderedDict[PeerId, tuple[int, float]] = OrderedDict()
        """Who is gone: the sequence of their last record, and until when others may still hand it on."""
        self._expired: OrderedDict[PeerId, tuple[int, float]] = OrderedDict()
        """Whose record ended: its sequence, and until when that is remembered."""

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
        if self._is_of_the_dead(record, now) and not is_back:
            return False
        self._left.pop(author, None)
        self._expired.pop(author, None)
        self._entries[author] = Entry(record, presence, now + left, now - age, lease, teller == author)
        if len(self._entries) > MAX_RECORDS:
            strangers = (peer for peer in self._entries if peer not in self.connected and peer != author)
            oldest = min(strangers, key=lambda peer: self._entries[peer].heard, default=None)
            del self._entries[oldest if oldest is not None else author]
        return True

    def _is_of_the_dead(self, record: Record, now: float) -> bool:
        """Whether a record has had its lease, whatever age it is said to have now."""
        sequence, until = self._expired.get(record.author, (-1, 0.0))
        if record.sequence > sequence or now >= until:
            return False
        self._remember(record.author, sequence, now)
        return True

    def _remember(self, peer: PeerId, sequence: int, now: float) -> None:
        known = self._expired.pop(peer, (-1, 0.0))[0]
        self._expired[peer] = (max(sequence, known), now + REMEMBERED)
        while len(self._expired) > MAX_RECORDS:
            self._expired.popitem(last=False)

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
            self._remember(peer, entry.record.sequence, now)
        while len(self._left) > MAX_RECORDS:
            self._left.popitem(last=False)

    def gone(self, now: float) -> set[PeerId]:
        """Return who left or lost its link a short time ago, and has not been heard of since."""
        return {peer for peer, (_, until) in self._left.items() if now < until}

    def expire(self, now: float) -> bool:
        """Drop records whose lease is over; tells whether there were any."""
        over = [peer for peer, entry in self._entries.items() if entry.expires <= now]
        for peer in over:
            self._remember(peer, self._entries.pop(peer).record.sequence, now)
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
