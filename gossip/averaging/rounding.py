"""Rounding: by how much a codec may move a mean, so that no honest owner is blamed for it."""

from functools import cache, lru_cache
from math import sqrt
from typing import Final

import numpy as np

from shoal.gossip.events import Vector

RELATIVE: Final = {"float32": 2.0**-20, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Error of every number, as a share of it; of float32, of sums that are added in any order."""
BLOCKS: Final = {"int8": (1024, 254), "int4": (64, 14)}
"""Numbers in a block, and twice the largest code of one: half a step is the largest number over that."""
GROWTH: Final = {"int8": 1.3, "int4": 2.0, "int2": 3.0, "sign": 3.0, "topk": 10.0}
"""Times its own norm that a mean may have which brings with it what was owed from earlier rounds."""
SMALLEST: Final = {"float16": 2.0**-25}
"""Error of a number, however small it is."""


def rounding(codec: str, numbers: Vector) -> float:
    """Return the norm by which these numbers may differ once they have travelled."""
    norm = float(np.sqrt(np.dot(numbers, numbers)))
    error = RELATIVE.get(codec, RELATIVE["float32"]) * norm
    if codec in BLOCKS and numbers.size:
        block, steps = BLOCKS[codec]
        largest = np.abs(np.pad(numbers, (0, -numbers.size % block))).reshape(-1, block).max(axis=1)
        # Twice: what was owed of the round before comes with it.
        error += 2 * float(np.sqrt(block * np.dot(largest, largest))) / steps
    return error + smallest(codec, numbers.size)


@lru_cache(1024)
def smallest(codec: str, numel: int) -> float:
    """Return the norm by which numbers may differ that are next to nothing."""
    return SMALLEST.get(codec, 2.0**-60) * sqrt(numel)


@cache
def growth(codec: str) -> float:
    """Return how many times its own norm a mean may have, for what is owed, and for rounding."""
    return GROWTH.get(codec, 1.0) * (1.0 + RELATIVE.get(codec, RELATIVE["float32"]))
