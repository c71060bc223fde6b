"""Sizing: how large a part of the vector each member of a group reduces, by what its line carries.

In an all-reduce of n members, who reduces the share p of N numbers sends its contribution to the others'
parts, N (1 - p), and the mean of its own to all, N p (n - 1): N (1 + p (n - 2)) together, and receives as
much. With lines of b it is through after (1 + p (n - 2)) / b. The slowest is soonest through if all that
reduce anything take equally long, T, and those that need longer than T for their contribution alone reduce
nothing: p = max(0, T b - 1) / (n - 2), with T such that the shares add up to one.

What a line carries is measured in the node's own exchanges (`UplinkEstimate`). Rounds that send for less
than a second do not raise the estimate, and rates are normalised by the size of the part. Rates are powers
of two, and those within a factor of two are taken for equal: parts must not follow noise. A peer that does
not know its line yet counts as the median of those that do.
"""

from collections import deque
from collections.abc import Sequence
from math import log2
from statistics import median
from typing import Final

FASTER: Final = 8
"""How much faster than the median line one may count at most, whatever its owner claims."""
PARTS: Final = 1024
"""Shares add up to about this."""
LEAST_BUSY: Final = 1.0
"""Seconds of sending in a round; less makes no difference to anyone."""
LEAST_BYTES: Final = 1 << 18
"""Sent in a round, below which nothing is learned of the line: the system's buffers take that at once."""
WINDOW: Final = 5
"""Rounds that count."""
STICKY: Final = 0.8
"""In powers of two: how far the measured rate must be from the one in use to change it."""
QUICK_LINE: Final = 6250
"""kB/s, 50 Mbit/s: a group of such lines has chunks of the run's full size, 2 MiB if nobody set another."""
MOST_HALVINGS: Final = 3
MAX_RATE: Final = 1 << 30
MOST: Final = {"open": 1.5, "invite": 1.5, "closed": 2.0}
"""By the mode of a run: how many equal shares one member may reduce at most, whatever line it claims."""


def shares_by(uplinks: Sequence[int]) -> tuple[int, ...]:
    """Return the shares of members by their lines: kB/s, 0 where that is not known."""
    equal = (1,) * len(uplinks)
    known = [uplink for uplink in uplinks if uplink]
    if not known or len(uplinks) < 3:
        return equal
    middle = median(known)
    rates = [min(uplink or middle, FASTER * middle) for uplink in uplinks]
    if max(rates) <= 2 * min(rates):
        return equal
    others = len(rates) - 2
    reducing = set(range(len(rates)))
    while True:
        time = (others + len(reducing)) / sum(rates[i] for i in reducing)
        idle = {i for i in reducing if time * rates[i] < 1}
        if not idle:
            break
        reducing -= idle
    sized = [(time * rate - 1) / others if i in reducing else 0.0 for i, rate in enumerate(rates)]
    return tuple(round(PARTS * share) for share in sized)


def halvings_by(uplinks: Sequence[int]) -> int:
    """Return how often the chunks of a group are halved for its slowest known line: kB/s, 0: not known.

    A chunk is checked and added when all of it is here; a slow line so does not wait for its own chunks.
    """
    slowest = min((uplink for uplink in uplinks if uplink), default=QUICK_LINE)
    return next((times for times in range(MOST_HALVINGS) if slowest << times >= QUICK_LINE), MOST_HALVINGS)


def capped(shares: tuple[int, ...], most: float) -> tuple[int, ...]:
    """Return shares of which none is above `most` equal ones; the others take what is above."""
    total, sized = sum(shares), [float(share) for share in shares]
    limit = total * most / len(shares)
    full: set[int] = set()
    while over := {i for i, size in enumerate(sized) if i not in full and size > limit}:
        full |= over
        free = [i for i in range(len(shares)) if i not in full]
        rest, known = total - limit * len(full), sum(shares[i] for i in free)
        for i in full:
            sized[i] = limit
        for i in free:
            sized[i] = rest * shares[i] / known if known else rest / len(free)
    return tuple(round(size) for size in sized) if full else shares


def load(shares: Sequence[int], member: int) -> float:
    """Return what a member of a group sends, in terms of what it would send if all parts were equal."""
    others = len(shares) - 2
    if others < 1:
        return 1.0
    return (1 + others * shares[member] / sum(shares)) / (1 + others / len(shares))


class UplinkEstimate:
    """What a node's own line carries to all others together."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._seen: deque[float] = deque(maxlen=WINDOW)
        self.rate = 0
        """kB/s, a power of two; 0: not known."""

    def observe(self, n_bytes: int, busy: float, load: float = 1.0) -> None:
        """Take note of a round: bytes of bulk that were sent, and the seconds in which some of it waited.

        `load`: see there.
        """
        if n_bytes < LEAST_BYTES:
            return
        rate = n_bytes / busy if busy >= LEAST_BUSY else n_bytes / load / LEAST_BUSY
        self._seen.append(rate / 1000)
        middle = max(median(self._seen), 1)
        if not self.rate or abs(log2(middle / self.rate)) > STICKY:
            self.rate = min(2 ** round(log2(middle)), MAX_RATE)
