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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from shoal.gossip.buffers import BUFFERS
from shoal.gossip.events import Vector

Words = npt.NDArray[np.uint64]
MAX_FACTOR: Final = 16
"""The largest factor of a member: how much one may count beside another."""
PIECE: Final = 32_768
"""Numbers that are worked on at a time: what is in between stays in the cache."""
LOTS_BITS: Final = 8
LOTS: Final = 1 << LOTS_BITS
"""Chances by which a number between two codes becomes one of them."""
TABLE_BITS: Final = 13
"""Of a field whose sums are looked up in a table: 32 KiB."""


class Dice(Protocol):
    """What rounds at random."""

    def draw(self, n_bytes: int) -> bytes:
        """Return so many bytes, each value as likely as the others."""
        ...


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

    def encode(self, numbers: Vector, factor: int, dice: Dice, base: Vector | None = None) -> Words:
        """Return the words of numbers, for a member with this factor. `base`: what they are measured from.

        Both float32 [count], finite.
        """
        n_words, width = self.n_words, self.width
        words, coder = np.frombuffer(BUFFERS.take(8 * n_words), np.uint64), _Coder(self, dice)
        for field, start, stop in self._pieces(n_words, 0):
            here = numbers[start:stop]
            codes = coder.codes(here, None if base is None else base[start:stop])
            if factor != 1:
                codes *= np.uint64(factor)
            lo = start - field * n_words
            if field == 0:
                # It is in every word.
                words[lo : lo + codes.size] = codes
                continue
            codes <<= np.uint64(field * width)
            words[lo : lo + codes.size] |= codes
        return words

    def decode(self, words: Words, lo: int, total: int, mean: Vector) -> bool:
        """Write the mean of the numbers in sums of words that begin at word `lo`, float32 [count].

        `total`: the sum of the factors of those in the sums. False where a number is outside [-clip, clip].
        """
        table = self._table(total) if self.width <= TABLE_BITS else None
        n_words, width, buffer = self.n_words, self.width, np.empty(min(words.size, PIECE), np.uint64)
        mask = np.uint64((1 << width) - 1)
        for field, start, stop in self._pieces(words.size, lo):
            at, here = start - field * n_words - lo, mean[start:stop]
            sums = buffer[: stop - start]
            np.right_shift(words[at : at + sums.size], np.uint64(field * width), out=sums)
            np.bitwise_and(sums, mask, out=sums)
            if table is None:
                np.subtract(sums * self._scale(total), self.clip, out=here, casting="same_kind")
                if sums.max() > total * self._top:
                    return False
                continue
            np.take(table, sums.view(np.int64), out=here, mode="clip")
            if here.max() == inf:
                return False
        return True

    def _pieces(self, n_words: int, lo: int) -> Iterator[tuple[int, int, int]]:
        """Yield a field, and the span of numbers of a piece of it, for so many words from word `lo`."""
        all_words, count = self.n_words, self.count
        for field in range(self.fields):
            for first in range(lo, lo + n_words, PIECE):
                start = field * all_words + first
                stop = min(start + PIECE, field * all_words + lo + n_words, count)
                if start < stop:
                    yield field, start, stop

    def _scale(self, total: int) -> np.float64:
        return np.float64(self.step / total) if total else np.float64(0)

    def _table(self, total: int) -> Vector:
        """Return the mean of each sum, float32 [2^width]; infinity where it is outside the range."""
        sums = np.arange(1 << self.width, dtype=np.uint64)
        means: Vector = (sums * self._scale(total) - self.clip).astype(np.float32)
        means[sums > total * self._top] = inf
        return means

    @property
    def step(self) -> float:
        """The distance of neighbours on the grid."""
        return 2 * self.clip / self._top

    @property
    def _top(self) -> int:
        return (1 << self.bits) - 1


class _Coder:
    """Puts pieces of a vector on the grid, in buffers that stay in the cache."""

    def __init__(self, grid: Grid, dice: Dice) -> None:
        self._grid, self._dice = grid, dice
        size = min(PIECE, grid.count)
        self._scaled, self._whole = np.empty(size, np.float32), np.empty(size, np.int32)
        self._lots, self._codes = np.empty(size, np.int32), np.empty(size, np.uint64)

    def codes(self, numbers: Vector, base: Vector | None) -> Words:
        """Return codes, each one of the two neighbours of a number; the nearer one is the likelier.

        In 256ths of a step a number is whole. A number from 0 to 255 is added, and what is left of a step
        is cut off. The words are the buffer's: the next call writes them anew.
        """
        grid, size = self._grid, numbers.size
        codes = self._codes[:size]
        if not grid.clip:
            codes[:] = 0
            return codes
        scaled, whole, lots = self._scaled[:size], self._whole[:size], self._lots[:size]
        np.subtract(numbers, np.float32(0) if base is None else base, out=scaled)
        scaled *= np.float32(LOTS / grid.step)
        scaled += np.float32(LOTS * grid.clip / grid.step + 0.5)
        np.clip(scaled, 0, np.float32(LOTS * ((1 << grid.bits) - 1)), out=scaled)
        np.copyto(whole, scaled, casting="unsafe")
        np.copyto(lots, np.frombuffer(self._dice.draw(size), np.uint8))
        whole += lots
        whole >>= LOTS_BITS
        np.copyto(codes, whole, casting="unsafe")
        return codes
