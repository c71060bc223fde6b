"""Deadlines that are learned from arrivals instead of configured.

A deadline is the median of recent durations plus `SPREAD` times their median absolute deviation
(MAD), which a few stragglers hardly move (Hampel, 1974). Before anything is known, and as an upper
bound ever after, it is `patience`: the one knob a user has. When somebody alive was missed all the same, the
next waits are doubled, until nobody is missed any more: the slow are not left out for ever, and cost
little while there are none.

Bulk has no deadline of its own: it may take minutes on a slow line, and whoever sends it shows that it is
there. So each byte that moves renews the patience with a member by what a byte may take (`Progress`). A
member that stops is waited for as long as ever; one that moves a byte now and then earns less than the time
takes, and is found out.
"""

from collections import deque
from typing import Final

SPREAD: Final = 6.0
"""MADs above the median. A normal spread exceeds six MADs (four sigmas) once in 30,000."""
MARGIN: Final = 2.0
"""Never below this many medians: on quiet machines the MAD is near zero."""
WINDOW: Final = 12
"""Observations that count: after half as many the deadline follows a network that changed."""
SHORTEST_TIMEOUT: Final = 2.0
"""Seconds: nobody learns to wait for less, since a busy machine pauses for as long."""
BEAT: Final = SHORTEST_TIMEOUT / 4
"""Seconds between signs of life."""
SLOWEST_LINE: Final = 8000.0
"""Bytes per second: where nothing is learned yet, bulk is waited for as if lines carried 64 kbit/s."""
LONGEST: Final = 3600.0
"""Seconds that bulk may take at most, however large it is."""
SLOWER: Final = 2.0
"""Bulk may take so many times as long as its learned deadline, which is at least twice as long as usual."""


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


def bulk_seconds(n_bytes: float, line: float, usual: Deadline, patience: float) -> float:
    """Return how long bulk may take that keeps moving, in seconds; `patience` at least.

    `n_bytes`: what each line carries of it; `line`: the slowest that is waited for, in bytes per second;
    `usual`: how long it took before, at most `LONGEST`.
    """
    most = min(n_bytes / line, LONGEST, SLOWER * usual.seconds())
    return max(most, patience)


class Progress:
    """How long a member is waited for whose bulk is on its way."""

    def __init__(self, now: float, patience: float, longest: float, n_bytes: int) -> None:
        """`patience`: seconds without a byte; `n_bytes`: of bulk, which may take `longest` seconds more."""
        self.due = now + patience
        """When it is given up, if nothing more comes."""
        self._patience = patience
        self._left = longest
        self._seconds_per_byte = longest / max(1, n_bytes)

    @property
    def is_spent(self) -> bool:
        """Whether it has had all the time that its bulk may take."""
        return self._left <= 0

    def moved(self, n_bytes: int, now: float) -> None:
        """So many bytes have come: they earn as much time as so many may take, and never more patience."""
        earned = min(n_bytes * self._seconds_per_byte, now + self._patience - self.due, self._left)
        if earned > 0:
            self.due += earned
            self._left -= earned

    def put_off(self, seconds: float) -> None:
        """Our own process slept for so long."""
        self.due += seconds
