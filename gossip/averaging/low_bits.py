"""Low bits: float32 numbers as small whole numbers, each block with a scale of its own.

    block     64 numbers, the last one filled with zeros
    scale     as bfloat16: of int4 the largest magnitude / 7; of int2 the mean magnitude of the large numbers,
              those above 0.7 of the mean of all 64
    code      the number / scale, rounded to the nearest whole number, ties to even, from -levels to levels
    bytes     all scales, then all codes; code + levels takes `bits` bits, the first number the lowest ones,
              and the last byte is filled with codes of zero

int4 (7 levels) is blockwise absmax quantization as in Dettmers et al., 8-bit Optimizers via Block-wise
Quantization (ICLR 2022), section 2.1, with blocks so small that one large number spoils few others. int2
(1 level) takes the scale of Li, Zhang, Liu, Ternary Weight Networks (2016), section 2.2. With the largest
magnitude as its scale it would lose more than half of a vector of normal numbers, more than sign does, and
error feedback then makes up for it so late that training diverges (docs/codecs.md).

A code times its scale is exact in float32, so that all who read the same bytes hold the same numbers.

Bytes come from peers. Their count is checked before anything is allocated, and what no encoder writes is
refused: a scale that is negative, not finite or so large that a number overflows, and a code above `levels`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.gossip.buffers import BUFFERS
from shoal.gossip.events import Data, Vector

BLOCK: Final = 64
PIECE: Final = 2048 * BLOCK
"""Numbers that are worked on at a time: what is in between stays in the cache."""
LARGE: Final = 0.7
"""Of the mean magnitude of a block: above it a number of int2 counts for the scale."""
SMALLEST: Final = np.float32(2.0**-120)
"""A block of a smaller scale is sent as zeros: the inverse would not be finite."""
_HALF: Final = np.uint32(0x7FFF)

_Bytes = npt.NDArray[np.uint8]


class BadCode(ValueError):
    """These bytes are no chunk in this codec."""


@dataclass(frozen=True, slots=True)
class LowBits:
    """One such codec: 4 bits and 7 levels, or 2 bits and 1 level."""

    bits: int
    levels: int
    scales: Callable[[Vector], Vector]
    """Returns the scale of each block before it is rounded, of magnitudes [n] that it may write over."""

    def size(self, count: int) -> int:
        """Return the bytes of so many numbers."""
        return 2 * -(-count // BLOCK) + -(-count * self.bits // 8)

    def encode(self, vector: Vector) -> Data:
        """Return the bytes of a vector, float32 [n], whose numbers are finite."""
        n_blocks = -(-vector.size // BLOCK)
        data = BUFFERS.take(self.size(vector.size))
        scales = np.frombuffer(data, np.uint16, n_blocks)
        codes = np.frombuffer(data, np.uint8, offset=scales.nbytes)
        whole = vector.size // BLOCK * BLOCK
        for lo in range(0, whole, PIECE):
            piece = vector[lo : min(lo + PIECE, whole)]
            self._encode(piece, scales[lo // BLOCK :], codes[lo * self.bits // 8 :])
        if whole < vector.size:
            last = np.zeros(BLOCK, np.float32)
            last[: vector.size - whole] = vector[whole:]
            self._encode(last, scales[-1:], codes[whole * self.bits // 8 :])
        return data

    def decode(self, data: Data, count: int) -> Vector:
        """Return so many numbers.

        Raises:
            BadCode: not the bytes of so many numbers.
        """
        if len(data) != self.size(count):
            raise BadCode(f"{len(data)} bytes, not {self.size(count)}")
        bits = np.frombuffer(data, np.uint16, -(-count // BLOCK))
        if bits.size and bits.max() > self._largest_scale:
            raise BadCode("a scale is negative, not finite or too large")
        scales = _as_float32(bits)
        codes = np.frombuffer(data, np.uint8, offset=bits.nbytes)
        vector = np.frombuffer(BUFFERS.take(4 * count), np.float32)
        whole = count // BLOCK * BLOCK
        for lo in range(0, whole, PIECE):
            rows = vector[lo : min(lo + PIECE, whole)].reshape(-1, BLOCK)
            numbers = self._unpacked(codes[lo * self.bits // 8 :][: rows.size * self.bits // 8])
            np.multiply(numbers.reshape(-1, BLOCK), scales[lo // BLOCK :][: len(rows), None], out=rows)
        if whole < count:
            numbers = self._unpacked(codes[whole * self.bits // 8 :])
            np.multiply(numbers[: count - whole], scales[-1], out=vector[whole:])
        return vector

    @property
    def _largest_scale(self) -> np.uint16:
        """Bits of the largest bfloat16 that is finite times `levels`; those of all refused ones are more."""
        return np.uint16((np.finfo(np.float32).max / np.float32(self.levels)).view(np.uint32) >> 16)

    def _encode(self, piece: Vector, scales: npt.NDArray[np.uint16], codes: _Bytes) -> None:
        """Write the scales and the codes of whole blocks to the beginning of these arrays."""
        bits = self.scales(np.abs(piece)).view(np.uint32)
        rounded = ((bits + (_HALF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
        np.minimum(rounded, self._largest_scale, out=rounded)
        scale = _as_float32(rounded)
        is_sent = scale >= SMALLEST
        scales[: rounded.size] = np.where(is_sent, rounded, 0)
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=is_sent)
        numbers = piece.reshape(-1, BLOCK) * inverse[:, None]
        np.rint(numbers, out=numbers)
        np.clip(numbers, -self.levels, self.levels, out=numbers)
        numbers += np.float32(self.levels)
        packed = self._packed(numbers.astype(np.uint8).reshape(-1))
        fitting = min(packed.size, codes.size)
        codes[:fitting] = packed[:fitting]

    def _packed(self, codes: _Bytes) -> _Bytes:
        """Return 8 / `bits` codes in a byte."""
        words = codes.view(np.uint16 if self.bits == 4 else np.uint32)
        packed = words.copy()
        for place in range(1, 8 // self.bits):
            np.bitwise_or(packed, np.right_shift(words, (8 - self.bits) * place), out=packed)
        return packed.astype(np.uint8)

    def _unpacked(self, packed: _Bytes) -> npt.NDArray[np.float32]:
        """Return the codes of these bytes, less `levels`."""
        words = packed.astype(np.uint16 if self.bits == 4 else np.uint32)
        spread = words.copy()
        for place in range(1, 8 // self.bits):
            np.bitwise_or(spread, np.left_shift(words, (8 - self.bits) * place), out=spread)
        codes = spread.view(np.uint8)
        codes &= np.uint8((1 << self.bits) - 1)
        if codes.size and codes.max() > 2 * self.levels:
            raise BadCode("a code is out of range")
        numbers = codes.astype(np.float32)
        numbers -= np.float32(self.levels)
        return numbers


def _as_float32(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Return bfloat16 numbers as float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _largest(magnitudes: Vector) -> Vector:
    largest: Vector = np.maximum.reduceat(magnitudes, np.arange(0, magnitudes.size, BLOCK))
    return largest / np.float32(7)


def _mean_of_the_large(magnitudes: Vector) -> Vector:
    starts = np.arange(0, magnitudes.size, BLOCK)
    sums: Vector = np.add.reduceat(magnitudes, starts)
    means = sums / np.float32(BLOCK)
    rows = magnitudes.reshape(-1, BLOCK)
    is_large = rows > np.float32(LARGE) * means[:, None]
    rows *= is_large
    count = np.maximum(is_large.sum(axis=1, dtype=np.float32), np.float32(1))
    np.add.reduceat(magnitudes, starts, out=sums)
    sums /= count
    return sums


INT4: Final = LowBits(4, 7, _largest)
INT2: Final = LowBits(2, 1, _mean_of_the_large)
