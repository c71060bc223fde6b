"""The grid: numbers within ±clip as integers within ±top, and what is packed of them.

    step = clip / top        top = 2^(bits - 1) - 1
    q    = stochastic rounding of clipped / step       its mean is the number itself

All peers hold the same grid, so that integers can be added. What an honest peer contributes is within ±clip
in every coordinate, and so is every mean of such.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Vector

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of 2^bits - 1 points."""

    clip: float
    bits: int

    @property
    def top(self) -> int:
        """The largest integer."""
        return (1 << (self.bits - 1)) - 1

    @property
    def step(self) -> float:
        """The distance of two points."""
        return self.clip / self.top

    def integers(self, vector: Vector, dice: np.random.Generator) -> Integers:
        """Return a vector's numbers as integers, clipped and stochastically rounded; int64 [n]."""
        scaled = np.clip(vector.astype(np.float64) / self.step, -self.top, self.top)
        below = np.floor(scaled)
        rounded: Integers = (below + (dice.random(scaled.shape) < scaled - below)).astype(np.int64)
        return rounded

    def floats(self, sums: Integers, total: int) -> Vector:
        """Return the mean of integers with weights of this sum, float32 [n]; the same bits everywhere."""
        mean: Vector = (sums.astype(np.float64) * self.step / total).astype(np.float32)
        return mean

    def clipped(self, vector: Vector) -> int:
        """Return how many numbers lie outside of the grid."""
        return int(np.count_nonzero(np.abs(vector) > self.clip))


def pack_words(words: Words, bits: int) -> bytes:
    """Return the lowest `bits` of each word, the first in the lowest bits."""
    table = (words[:, None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(table.reshape(-1).astype(np.uint8), bitorder="little").tobytes()


def unpack_words(data: bytes, count: int, bits: int) -> Words:
    """Return so many words, uint64 [count].

    Raises:
        RemoteViolation: there are more or fewer bytes than that takes, or bits beyond the end.
    """
    if len(data) != -(-count * bits // 8):
        raise RemoteViolation("words of another length", f"{len(data)} bytes for {count} of {bits} bits")
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if flat[count * bits :].any():
        raise RemoteViolation("words of another length", "bits beyond the last")
    table = flat[: count * bits].reshape(count, bits).astype(np.uint64)
    words: Words = table @ (np.uint64(1) << np.arange(bits, dtype=np.uint64))
    return words
