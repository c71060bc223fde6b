"""Integer grid: float32 numbers as whole ones that can be added under a mask, several to a 64-bit word.

    code     round((number + clip) / step), where step = 2 clip / (2^bits - 1): 0 to 2^bits - 1, after the
             number was clipped to [-clip, clip]; rounded at random to one of its neighbours, so that the
             mean has no bias
    field    factor * code; wide enough for the sum of all members' fields: nothing is carried to the next
    word     as many fields as fit in 64 bits: number k * words + j of a span is field k of word j, the
             lowest field first

Of members whose factors come to T the sum of fields is from 0 to T (2^bits - 1). The mean of a number is
(sum / T) * step - clip, which lies in [-clip, clip]. What is outside was made by somebody
who did not keep to this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.gossip.events import Vector

Words = npt.NDArray[np.uint64]
MAX_FACTOR: Final = 16
"""The largest factor of a member: how much one may count beside another."""
PIECE: Final = 65_536
"""Numbers that are worked on at a time: what is in between stays in the cache."""


def factors_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Return by how much members count, as small whole numbers: weights to a sixteenth of the largest.

    A member with a weight has a factor; where all weights are alike every factor is 1.
    """
    most = max(weights)
    rounded = [max(1, round(MAX_FACTOR * weight / most)) if weight > 0 else 0 for weight in weights]
    common = int(np.gcd.reduce(rounded))
    return tuple(factor // common for factor in rounded)


@dataclass(frozen=True, slots=True)
class Grid:
    """How one span of a vector travels. Equal on all members."""

    count: int
    """Numbers in the span."""
    clip: float
    """The largest magnitude; 0: all numbers are zero."""
    bits: int
    """Of a code."""
    total: int
    """The sum of the factors of all members that may take part."""

    @property
    def width(self) -> int:
        """Bits of a field."""
        return (self.total * self._top).bit_length()

    @property
    def fields(self) -> int:
        """Fields in a word."""
        return 64 // self.width

    @property
    def n_words(self) -> int:
        """Words of the span."""
        return -(-self.count // self.fields)

    def encode(self, numbers: Vector, factor: int, dice: "np.random.Generator") -> Words:
        """Return the words of numbers, float32 [count], finite, for a member with this factor."""
        words = np.zeros(self.n_words, np.uint64)
        for field in range(self.fields):
            for lo in range(0, self.n_words, PIECE):
                start = field * self.n_words + lo
                stop = min(start + PIECE, (field + 1) * self.n_words, self.count)
                if start < stop:
                    codes = self._codes(numbers[start:stop], dice)
                    if factor != 1:
                        codes *= np.uint64(factor)
                    codes <<= np.uint64(field * self.width)
                    words[lo : lo + codes.size] |= codes
        return words

    def decode(self, words: Words, lo: int, total: int, mean: Vector) -> bool:
        """Write the mean of the numbers in sums of words that begin at word `lo`, float32 [count].

        `total`: the sum of the factors of those in the sums. False where a number is outside [-clip, clip].
        """
        most = np.uint64(total * self._top)
        mask = np.uint64((1 << self.width) - 1)
        scale = np.float64(self.step / total) if total else np.float64(0)
        for field in range(self.fields):
            start = field * self.n_words + lo
            stop = min(start + words.size, self.count)
            if start >= stop:
                break
            sums = (words[: stop - start] >> np.uint64(field * self.width)) & mask
            if sums.size and sums.max() > most:
                return False
            mean[start:stop] = sums * scale - self.clip
        return True

    @property
    def step(self) -> float:
        """The distance of neighbours on the grid."""
        return 2 * self.clip / self._top

    @property
    def _top(self) -> int:
        return (1 << self.bits) - 1

    def _codes(self, numbers: Vector, dice: "np.random.Generator") -> Words:
        """Return codes, each one of the two neighbours of a number; the nearer one is the likelier."""
        if not self.clip:
            return np.zeros(numbers.size, np.uint64)
        scaled = numbers + np.float32(self.clip)
        scaled *= np.float32(1 / self.step)
        lots = np.frombuffer(dice.bytes(numbers.size), np.uint8).astype(np.float32)
        lots += np.float32(0.5)
        lots *= np.float32(1 / 256)
        scaled += lots
        # After the sum, since float32 may round it up at the upper end.
        np.clip(scaled, 0, self._top, out=scaled)
        # In two steps: there is no fast way from float32 to 64 bits.
        return scaled.astype(np.int32).astype(np.uint64)
