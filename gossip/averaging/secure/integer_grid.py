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
from shoal.gossip.policies.masking import MAX_LEVELS

Words = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.int32]
MAX_FACTOR: Final = MAX_LEVELS
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


def factors_of(weights: Sequence[float], levels: int = MAX_FACTOR) -> tuple[int, ...]:
    """Return by how much members count, as whole numbers up to `levels`, in proportion to the weights.

    A member with a weight has a factor; where all weights are alike every factor is 1.
    """
    most = max(weights)
    rounded = [max(1, round(levels * weight / most)) if weight > 0 else 0 for weight in weights]
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
        n_words, together = self.n_words, self._together
        words, coder = np.frombuffer(BUFFERS.take(8 * n_words), np.uint64), _Coder(self, factor, dice)
        wide = np.empty(min(PIECE, n_words), np.uint64)
        for at in range(0, n_words, PIECE):
            here = words[at : at + PIECE]
            for first in range(0, self.fields, together):
                some = range(first, min(first + together, self.fields))
                joined = coder.joined(numbers, base, [field * n_words + at for field in some], here.size)
                if first == 0:
                    np.copyto(here, joined, casting="unsafe")
                    continue
                some_wide = wide[: here.size]
                np.copyto(some_wide, joined, casting="unsafe")
                some_wide <<= np.uint64(first * self.width)
                here |= some_wide
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

    @property
    def _together(self) -> int:
        """How many fields are joined in 32 bits, before they are moved into words of twice the size."""
        return max(1, 31 // self.width)

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

    def __init__(self, grid: Grid, factor: int, dice: Dice) -> None:
        self._grid, self._factor, self._dice = grid, np.int32(factor), dice
        size = min(PIECE, grid.n_words)
        self._scaled, self._lots = np.empty(size, np.float32), np.empty(size, np.int32)
        self._codes, self._joined = np.empty(size, np.int32), np.empty(size, np.int32)

    def joined(self, numbers: Vector, base: Vector | None, starts: list[int], size: int) -> Codes:
        """Return the fields of numbers from these starts, the first lowest, int32 [size].

        What is returned is the buffer: the next call writes it anew.
        """
        joined, width = self._joined[:size], self._grid.width
        for place, start in enumerate(starts):
            stop = max(start, min(start + size, self._grid.count))
            codes = self._fields(numbers[start:stop], None if base is None else base[start:stop])
            if place == 0:
                joined[: codes.size] = codes
                joined[codes.size :] = 0
                continue
            codes <<= np.int32(place * width)
            joined[: codes.size] |= codes
        return joined

    def _fields(self, numbers: Vector, base: Vector | None) -> Codes:
        """Return factors times codes, each one of the two neighbours of a number; the nearer is the likelier.

        In 256ths of a step a number is whole. A number from 0 to 255 is added, and what is left of a step
        is cut off.
        """
        grid, size = self._grid, numbers.size
        codes = self._codes[:size]
        if not grid.clip:
            codes[:] = 0
            return codes
        scaled, lots = self._scaled[:size], self._lots[:size]
        np.subtract(numbers, np.float32(0) if base is None else base, out=scaled)
        scaled *= np.float32(LOTS / grid.step)
        scaled += np.float32(LOTS * grid.clip / grid.step + 0.5)
        np.clip(scaled, 0, np.float32(LOTS * ((1 << grid.bits) - 1)), out=scaled)
        np.copyto(codes, scaled, casting="unsafe")
        np.copyto(lots, np.frombuffer(self._dice.draw(size), np.uint8))
        codes += lots
        codes >>= LOTS_BITS
        if self._factor != 1:
            codes *= self._factor
        return codes
