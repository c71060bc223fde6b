"""Caps: how much one of a group may count where a method reduces bodies itself, beside the median of all.

What goes through an all-reduce is bounded by the exchange (gossip/averaging/bounds.py), or by the clip of a
run. Bodies of a gather are read by the method alone, so it bounds them; how is here, for all methods alike.
A median of an even number is the lower of the middle two: half of a group cannot raise it.
"""

from collections.abc import Sequence
from math import fsum
from typing import Final

import numpy as np

from shoal.gossip.events import Vector

CAP: Final = 3
"""A peer counts at most this many times the median: more is more often a lie than a treasure of data."""


def cap(counts: Sequence[int], times: int = CAP) -> int:
    """Return the most examples that a peer may count: `times` the median of those who count at all."""
    counted = sorted(count for count in counts if count > 0)
    return times * counted[(len(counted) - 1) // 2] if counted else 0


def longest_of(lengths: Sequence[float], times: float) -> float:
    """Return the length that no vector may pass: `times` the median of at least one."""
    return times * sorted(lengths)[(len(lengths) - 1) // 2]


def norm(vector: Vector) -> float:
    """Return the Euclidean norm; `fsum` rounds once, so that the width of vector units does not show."""
    return float(np.sqrt(fsum(np.square(vector.astype(np.float64)).tolist())))


def shortened(vector: Vector, length: float, longest: float) -> Vector:
    """Return a vector of this length, float32 [n], no longer than `longest`; itself where it is not."""
    return vector if length <= longest else np.multiply(vector, np.float32(longest / length))


def clip_to_median(vectors: Sequence[Vector], times: float) -> list[Vector]:
    """Return vectors, none longer than `times` the median norm."""
    norms = [norm(vector) for vector in vectors]
    bound = longest_of(norms, times)
    return [shortened(vector, length, bound) for vector, length in zip(vectors, norms, strict=True)]
