"""Marks against peers: each holds for a while, twice as long with every one in a row, up to a bound."""

from typing import Final

from shoal.crypto.keys import PeerId

SHORTEST_MARK: Final = 2.0
"""Seconds for which the first mark against a peer holds."""
MAX_MARKED: Final = 128
"""Peers that are remembered; the one whose mark ends first is forgotten for another."""


class Marks:
    """Marks of one kind."""

    def __init__(self, max_doublings: int) -> None:
        """`max_doublings`: how often the time of a mark doubles."""
        self._max_doublings = max_doublings
        self._marks: dict[PeerId, tuple[int, float]] = {}
        """By peer: how many in a row, and until when the last one holds."""

    def add(self, peer: PeerId, now: float) -> None:
        """Mark a peer, for longer than the last time."""
        if len(self._marks) >= MAX_MARKED:
            del self._marks[min(self._marks, key=lambda each: self._marks[each][1])]
        count = self._marks.get(peer, (0, 0.0))[0]
        self._marks[peer] = (count + 1, now + SHORTEST_MARK * 2 ** min(count, self._max_doublings))

    def has(self, peer: PeerId, now: float) -> bool:
        """Tell whether a mark against a peer holds."""
        return now < self._marks.get(peer, (0, 0.0))[1]

    def end(self, peer: PeerId, now: float) -> None:
        """Let the mark end now. It still counts: a further one holds longer than it."""
        if peer in self._marks:
            self._marks[peer] = (self._marks[peer][0], now)

    def forget(self, peer: PeerId) -> None:
        """Forget all marks against a peer."""
        self._marks.pop(peer, None)
