"""K-means in one dimension, exact, and the same to the last bit on every machine.

In one dimension clusters are intervals of the sorted values, so the best ones are found by dynamic
programming (Wang, Song, "Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic
Programming", The R Journal 3/2, 2011, https://doi.org/10.32614/RJ-2011-015):

    D[k][j] = min over i of  D[k-1][i-1] + cost(i, j)       cost: squared distances to the mean of i..j

The best i never falls when j grows, so that halving the range of j (divide and conquer) needs n log n
costs per cluster, not n².

Values are rounded to integers at a scale of their own, a power of two that leaves 24 bits to the largest:
the deltas of a round may be 10⁴ times smaller than the weights, for which a fixed scale of 2^-20 would be
too coarse. Sums are exact integers; costs are made of them by single operations that IEEE 754 defines. So
unlike machines choose the same clusters, whatever the order or the width of their vector units.

More than `MAX_POINTS` distinct values are put in bins first; clusters then begin and end at a bin's edge,
and are the best of those.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.gossip.events import Vector

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MAX_POINTS: Final = 2048
"""A 2048th of the range is far below the width of a cluster, and 32 clusters take some 30 ms."""
MAX_CLUSTERS: Final = 256
"""An index fits in a byte."""
VALUE_BITS: Final = 24
"""As many as a float32 has, so that every centroid is one."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Values that are few: a codebook, and for every value its place in it."""

    codebook: Vector
    """float32 [k], strictly ascending."""
    indices: npt.NDArray[np.uint8]
    """uint8 [n]."""

    @property
    def values(self) -> Vector:
        """The clustered values, float32 [n]."""
        return self.codebook[self.indices]

    @classmethod
    def of(cls, values: Vector) -> "Clusters | None":
        """Return values as they are, if they are few enough; else None."""
        # Adding zero turns -0.0, which is equal but has other bytes, into 0.0.
        codebook, indices = np.unique(values + np.float32(0), return_inverse=True)
        if codebook.size > MAX_CLUSTERS:
            return None
        return cls(codebook, indices.reshape(-1).astype(np.uint8))


def cluster(values: Vector, k: int) -> Clusters:
    """Return the values in at most `k` clusters, each at its mean, with the least sum of squared errors.

    Raises:
        ValueError: `k` is out of range, or a value is not finite.
    """
    if not 1 <= k <= MAX_CLUSTERS:
        raise ValueError(f"{k} clusters; choose 1 to {MAX_CLUSTERS}")
    if not np.isfinite(values).all():
        raise ValueError("a value to be clustered is not finite")
    few = Clusters.of(values) if values.size <= MAX_CLUSTERS or np.unique(values).size <= k else None
    if few is not None and few.codebook.size <= k:
        return few
    whole, exponent = _to_integers(values)
    points = _Points.of(whole)
    starts = _best_starts(points, k)
    edges = np.append(starts, points.size)
    sums = points.sums[edges[1:]] - points.sums[edges[:-1]]
    counts = points.counts[edges[1:]] - points.counts[edges[:-1]]
    # Rounded to the nearest integer, by integers.
    centroids = (2 * sums + counts) // (2 * counts)
    codebook = np.ldexp(centroids.astype(np.float64), -exponent).astype(np.float32)
    indices = np.searchsorted(points.lowest[starts], whole, side="right") - 1
    return Clusters(codebook, indices.astype(np.uint8))


def _to_integers(values: Vector) -> tuple[Integers, int]:
    """Return rint(values · 2^e) and e, chosen so that no sum of squares overflows 63 bits."""
    bits = min(VALUE_BITS, (62 - values.size.bit_length()) // 2)
    _, exponent = np.frexp(np.abs(values).max())
    shift = bits - int(exponent)
    return np.rint(np.ldexp(values.astype(np.float64), shift)).astype(np.int64), shift


@dataclass(frozen=True, slots=True)
class _Points:
    """Sorted distinct integers, or bins of them, with sums over all before each."""

    lowest: Integers
    """[n]: the least integer of each point."""
    counts: Integers
    """[n + 1]: how many values lie before it."""
    sums: Integers
    squares: Integers

    @property
    def size(self) -> int:
        return self.lowest.size

    @classmethod
    def of(cls, whole: Integers) -> "_Points":
        distinct, counts = np.unique(whole, return_counts=True)
        shift = 0
        starts = np.arange(distinct.size)
        while starts.size > MAX_POINTS:
            shift += 1
            bins = distinct >> shift
            starts = np.flatnonzero(np.append(True, bins[1:] != bins[:-1]))
        totals = [
            np.append(0, np.cumsum(terms)) for terms in (counts, counts * distinct, counts * distinct**2)
        ]
        edges = np.append(starts, distinct.size)
        return cls(distinct[starts], *(total[edges] for total in totals))

    def cost(self, first: Integers, last: Integers) -> Floats:
        """Return the sum of squared distances to their mean of points first..last."""
        counts = (self.counts[last + 1] - self.counts[first]).astype(np.float64)
        sums = (self.sums[last + 1] - self.sums[first]).astype(np.float64)
        squares = (self.squares[last + 1] - self.squares[first]).astype(np.float64)
        return np.subtract(squares, np.divide(np.multiply(sums, sums), counts))


def _best_starts(points: _Points, k: int) -> Integers:
    """Return where each of the best k intervals begins."""
    k = min(k, points.size)
    ends = np.arange(points.size)
    costs = points.cost(np.zeros_like(ends), ends)
    begins = []
    for layer in range(1, k):
        costs, begin = _next_layer(points, costs, layer)
        begins.append(begin)
    starts, last = [], points.size - 1
    for begin in reversed(begins):
        starts.append(int(begin[last]))
        last = starts[-1] - 1
    return np.array([0, *reversed(starts)], np.int64)


def _next_layer(points: _Points, before: Floats, layer: int) -> tuple[Floats, Integers]:
    """Return, for every last point, the least cost with one more interval, and where that one begins.

    All halves of a level are looked at together: `low`, `high` bound the last points of each, `from_` and
    `to` where the interval may begin.
    """
    costs = np.full(points.size, np.inf)
    begin = np.zeros(points.size, np.int64)
    low, high = np.array([layer]), np.array([points.size - 1])
    from_, to = low.copy(), high.copy()
    while low.size:
        middle = (low + high) // 2
        costs[middle], best = _cheapest(points, before, middle, from_, np.minimum(to, middle))
        begin[middle] = best
        left, right = low < middle, middle < high
        low, high, from_, to = (
            np.append(low[left], middle[right] + 1),
            np.append(middle[left] - 1, high[right]),
            np.append(from_[left], best[right]),
            np.append(best[left], to[right]),
        )
    return costs, begin


def _cheapest(
    points: _Points, before: Floats, last: Integers, from_: Integers, to: Integers
) -> tuple[Floats, Integers]:
    """Return the least cost for every last point, and the first place where an interval of it begins."""
    sizes = to - from_ + 1
    offsets = np.cumsum(sizes) - sizes
    first = np.arange(int(sizes.sum())) - np.repeat(offsets - from_, sizes)
    costs = np.add(before[first - 1], points.cost(first, np.repeat(last, sizes)))
    least = np.minimum.reduceat(costs, offsets)
    hits = np.flatnonzero(costs == np.repeat(least, sizes))
    return least, first[hits[np.searchsorted(hits, offsets)]]
