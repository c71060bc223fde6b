"""Deadlines that are learned from arrivals instead of configured.

A deadline is the median of recent durations plus `SPREAD` times their median absolute deviation
(MAD), which a few stragglers hardly move (Hampel, 1974). Before anything is known, and as an upper
bound ever after, it is `patience`: the one knob a user has. When somebody alive was missed all the same, the
next waits are doubled, until nobody is missed any more: the slow are not left out for ever, and cost
little while there are none.
"""

from collections import deque
from typing import Final

SPREAD: Final = 6.0
"""MADs above the median. A normal spread exceeds six MADs (four sigmas) once in 30,000."""
MARGIN: Final = 2.0
"""Never below this many medians: on quiet machines the MAD is near zero."""
WINDOW: Final = 12
"""Observations that count: after half as many the deadline follows a network that changed."""


def median(values: list[float]) -> float:
    """Return the middle of a non-empty list."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


class Deadline:
    """How long to wait for something that was waited for before."""

    def __init__(self, patience: float, floor: float, enough: int = 3) -> None:
        """`floor`: never shorter than this many seconds; `enough`: observations before it is trusted."""
        self._patience = patience
        self._floor = floor
        self._enough = enough
        self._seen: deque[float] = deque(maxlen=WINDOW)
        self._stretch = 1.0

    def observe(self, seconds: float) -> None:
        """Add how long it took this time, when nobody was missed."""
        self._seen.append(min(max(seconds, 0.0), self._patience))
        self._stretch = max(1.0, self._stretch / 2)

    def miss(self) -> None:
        """Somebody was missed who is alive: wait longer next time."""
        if self.seconds() < self._patience:
            self._stretch *= 2

    def seconds(self) -> float:
        """Return how long to wait from the start."""
        if len(self._seen) < self._enough:
            return self._patience
        values = list(self._seen)
        middle = median(values)
        spread = median([abs(value - middle) for value in values])
        learned = max(middle + SPREAD * spread, MARGIN * middle, self._floor)
        return min(self._stretch * learned, self._patience)
