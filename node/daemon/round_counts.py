"""RoundCounts: how many rounds have ended and how long their parts took, since the start of the node.

The history of a status is of the last rounds alone. These numbers only grow, so that whoever reads them from
time to time can tell what happened between two looks.
"""

from bisect import bisect_left
from collections import Counter
from typing import Final

from shoal.node.status import RoundStatus, RoundTotals

BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 400.0, 900.0, 1800.0)
"""Seconds: the upper bounds of the buckets; a last one has no bound."""
PARTS: Final = ("work", "matchmaking", "exchange")
MADE: Final = ("averaged", "alone")
"""Outcomes of rounds whose parts were timed."""


class RoundCounts:
    """See the module's docstring."""

    def __init__(self) -> None:
        """No round has ended."""
        self._outcomes: Counter[str] = Counter()
        self._buckets = {part: [0] * (len(BOUNDS) + 1) for part in PARTS}
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def add(self, done: RoundStatus) -> None:
        """Count a round that ended."""
        self._outcomes[done.outcome] += 1
        if done.outcome not in MADE:
            return
        for part in PARTS:
            seconds = max(0.0, float(getattr(done, f"{part}_seconds")))
            self._buckets[part][bisect_left(BOUNDS, seconds)] += 1
            self._seconds[part] += seconds

    @property
    def totals(self) -> RoundTotals:
        """All that was counted."""
        return RoundTotals(
            outcomes=dict(self._outcomes),
            bounds=list(BOUNDS),
            buckets={part: list(counts) for part, counts in self._buckets.items()},
            seconds=dict(self._seconds),
        )
