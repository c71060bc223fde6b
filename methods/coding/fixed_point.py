"""Fixed point: weighted means of peers' vectors, the same bits on every peer, without an all-reduce.

Every number becomes an integer at a scale of 2^-24, the sum of integers does not depend on the order, and
the one division at the end is defined by IEEE 754. For methods that gather bodies and reduce them alone.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from shoal.gossip.events import Vector

FRACTION_BITS: Final = 24
MAX_VALUE_BITS: Final = 21
"""No number is above 2^21: codebook.py refuses what is above 2^20, and differences are taken."""
WEIGHT_BITS: Final = 62 - FRACTION_BITS - MAX_VALUE_BITS
"""What is left of 62 bits for the sum of the weights."""


def shares(weights: Sequence[int]) -> list[int]:
    """Return weights, scaled down where a sum of vectors would pass 62 bits; all alike if none counts."""
    total = sum(weights)
    if total == 0:
        return [1] * len(weights)
    most = 1 << WEIGHT_BITS
    return list(weights) if total <= most else [weight * most // total for weight in weights]


def weighted_mean(vectors: Sequence[Vector], weights: Sequence[int]) -> Vector:
    """Return the mean of vectors, whose numbers lie within ±2^21, as exact integers give it."""
    counts = shares(weights)
    total = np.zeros(vectors[0].shape, np.int64)
    for vector, count in zip(vectors, counts, strict=True):
        total += count * np.rint(np.ldexp(vector.astype(np.float64), FRACTION_BITS)).astype(np.int64)
    mean: Vector = np.ldexp(np.divide(total, sum(counts)), -FRACTION_BITS).astype(np.float32)
    return mean
