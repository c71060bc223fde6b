"""Histograms that peers add up: a percentile of everyone's scores, without anyone's scores.

All count into the same bins, so the sum does not depend on who came first, and all find the same percentile.
What lies outside of the range counts in the first or the last bin.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.gossip.errors import RemoteViolation

BINS: Final = 64
MAX_COUNT: Final = 1 << 24
"""A bin's count is kept as a float32 of the shared state, exactly up to here."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Range:
    """Where the bins lie."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """Of a bin."""
        return (self.high - self.low) / BINS

    def count(self, scores: npt.NDArray[np.float32]) -> Counts:
        """Return how many scores fall in each bin."""
        places = np.floor((scores.astype(np.float64) - self.low) / self.width)
        return np.bincount(np.clip(places, 0, BINS - 1).astype(np.int64), minlength=BINS)

    def percentile(self, counts: Counts, percent: float) -> float:
        """Return the least bin edge that has at least `percent` of the counts below it."""
        below = np.cumsum(counts)
        # In integers, so that the edge does not depend on how a quotient is rounded.
        place = int(np.searchsorted(below * 1000, below[-1] * round(percent * 10)))
        return self.low + (place + 1) * self.width


def pack(counts: Counts) -> bytes:
    """Return counts as bytes."""
    return np.minimum(counts, MAX_COUNT).astype("<u4").tobytes()


def unpack(body: bytes) -> Counts:
    """Return a peer's counts.

    Raises:
        RemoteViolation: these are no counts.
    """
    if len(body) != 4 * BINS:
        raise RemoteViolation("histogram is of another size")
    counts = np.frombuffer(body, "<u4").astype(np.int64)
    if counts.max() > MAX_COUNT:
        raise RemoteViolation("count is too large")
    return counts


def merge(histograms: list[Counts], most: int) -> Counts:
    """Add histograms up, each scaled down to at most `most` examples."""
    total = np.zeros(BINS, np.int64)
    for counts in histograms:
        examples = int(counts.sum())
        # Rounded from bin to bin as a whole, or each bin would lose an example.
        total += counts if examples <= most else np.diff(np.cumsum(counts) * most // examples, prepend=0)
    return total
