"""Codecs: how a chunk of float32 numbers travels in the all-reduce.

| name     | bytes a number | error                                                              |
|----------|----------------|--------------------------------------------------------------------|
| float32  | 4              | none                                                               |
| float16  | 2              | 2^-11 relative; 2^-25 absolute below 6e-5; at most 65504           |
| bfloat16 | 2              | 2^-8 relative, the whole range of float32                          |
| int8     | 1.004          | half a step: largest of its block of 1024 / 254                    |
| int4     | 0.531          | half a step: largest of its block of 64 / 14                       |
| int2     | 0.281          | each number becomes 0 or plus or minus the size of a large one     |
| topk     | 0.06           | all but the largest 1 % of a chunk are left out                    |
| sign     | 0.129          | each number becomes plus or minus the mean magnitude of its block  |

int8 is the blockwise absmax quantization of Dettmers et al., 8-bit Optimizers via Block-wise Quantization
(ICLR 2022), with a linear code. int4 and int2 have smaller blocks (gossip/averaging/low_bits.py). sign is
that of Seide et al., 1-bit Stochastic Gradient Descent (Interspeech 2014), with the scale of Karimireddy et
al., Error Feedback Fixes SignSGD (ICML 2019). The last five need error feedback: what was not sent is added
to the next contribution (`Feedback`).

What belongs to a model's buffers travels as float32 in all of them (`with_exact_end`).

Encoded sizes follow from the count alone, so that a receiver knows what to expect before it reads.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.gossip.averaging.low_bits import INT2, INT4
from shoal.gossip.averaging.low_bits import BadCode as BadCode
from shoal.gossip.buffers import BUFFERS
from shoal.gossip.events import Data, Vector

BLOCK: Final = 1024
PIECE: Final = 64 * BLOCK
"""Numbers that are worked on at a time: what is in between stays in the cache."""
SMALLEST_SCALE: Final = np.float32(2.0**-120)
"""A block of int8 with a smaller scale is sent as zeros: the inverse would not be finite."""
MOST_HALF: Final = 65504
"""The largest float16."""
HALVES: Final = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""Every float16 by its bits. What is no number is none here, too."""
TOPK_SHARE: Final = 100
"""One number in this many travels."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to write numbers."""

    name: str
    needs_feedback: bool
    """Whether the error is too large to be forgotten."""
    deltas_only: bool
    """Whether it only makes sense for vectors that are small changes, not for params themselves."""
    size: Callable[[int], int]
    """Bytes for so many numbers."""
    encode: Callable[[Vector], Data]
    """Numbers to bytes; float32 returns a view."""
    decode: Callable[[Data, int], Vector]
    """Bytes to numbers, which are finite if the sender's were; may be a read-only view."""


def _vector(count: int) -> Vector:
    """Return memory for so many numbers."""
    return np.frombuffer(BUFFERS.take(4 * count), np.float32)


def _n_blocks(count: int) -> int:
    return -(-count // BLOCK)


def _blocks(vector: Vector) -> npt.NDArray[np.float32]:
    """Return the numbers in rows of a block, the last one filled with zeros."""
    missing = -vector.size % BLOCK
    return np.pad(vector, (0, missing)).reshape(-1, BLOCK)


# --- float32, float16, bfloat16 -------------------------------------------------------------------


def _encode_float32(vector: Vector) -> Data:
    return vector.data.cast("B")


def _decode_float32(data: Data, count: int) -> Vector:
    return np.frombuffer(data, np.float32, count)


def _encode_float16(vector: Vector) -> Data:
    """Write the nearest float16, ties to even, as numpy does, which takes 65 ns for a number below 6e-5."""
    data = BUFFERS.take(2 * vector.size)
    codes = np.frombuffer(data, np.uint16)
    for lo in range(0, vector.size, PIECE):
        _write_halves(vector[lo : lo + PIECE], codes[lo : lo + PIECE])
    return data


def _write_halves(piece: Vector, codes: npt.NDArray[np.uint16]) -> None:
    rounded = np.abs(piece)
    if not rounded.max() <= MOST_HALF:
        # Clipped, not overflowed: an infinity would void the whole chunk.
        codes[:] = np.clip(piece, -MOST_HALF, MOST_HALF).astype(np.float16).view(np.uint16)
        return
    bits = rounded.view(np.uint32)
    # 2^13 times the power of two below a number, which is taken for 2^-14 at least. The last bit of their sum
    # is worth what the last bit of the float16 is: so the addition rounds, and the difference is the code.
    power = bits & np.uint32(0xFF << 23)
    np.maximum(power, np.uint32(113 << 23), out=power)
    np.add(power, np.uint32(13 << 23), out=power)
    np.add(rounded, power.view(np.float32), out=rounded)
    np.subtract(bits, power, out=bits)
    # And the exponent on top: 0 for 2^-14, one more for each power of two.
    np.right_shift(power, 13, out=power)
    np.add(bits, power, out=bits)
    np.subtract(bits, np.uint32(126 << 10), out=bits)
    signs = np.right_shift(piece.view(np.uint32), 16, out=power)
    np.bitwise_and(signs, 0x8000, out=signs)
    np.bitwise_or(bits, signs, out=codes, casting="unsafe")


def _decode_float16(data: Data, count: int) -> Vector:
    codes, vector = np.frombuffer(data, np.uint16, count), _vector(count)
    for lo in range(0, count, PIECE):
        np.take(HALVES, codes[lo : lo + PIECE], out=vector[lo : lo + PIECE], mode="clip")
    return vector


def _encode_bfloat16(vector: Vector) -> Data:
    bits = np.ascontiguousarray(vector).view(np.uint32)
    # To the nearest, ties to even.
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    return (rounded >> np.uint32(16)).astype(np.uint16).data.cast("B")


def _decode_bfloat16(data: Data, count: int) -> Vector:
    bits = np.frombuffer(data, np.uint16, count).astype(np.uint32) << np.uint32(16)
    return bits.view(np.float32)


# --- int8 -----------------------------------------------------------------------------------------


def _encode_int8(vector: Vector) -> Data:
    n_blocks = _n_blocks(vector.size)
    data = BUFFERS.take(4 * n_blocks + vector.size)
    scales = np.frombuffer(data, np.float32, n_blocks)
    codes = np.frombuffer(data, np.int8, offset=scales.nbytes)
    whole = vector.size // BLOCK * BLOCK
    for lo in range(0, whole, PIECE):
        blocks = vector[lo : min(lo + PIECE, whole)].reshape(-1, BLOCK)
        scales[lo // BLOCK :][: len(blocks)], codes[lo:][: blocks.size] = _quantized(blocks)
    if whole < vector.size:
        scales[-1:], last = _quantized(_blocks(vector[whole:]))
        codes[whole:] = last[: vector.size - whole]
    return data


def _quantized(blocks: npt.NDArray[np.float32]) -> tuple[Vector, npt.NDArray[np.float32]]:
    """Return the scale of each block and its whole numbers in a row."""
    scales = np.maximum(blocks.max(axis=1), -blocks.min(axis=1)) / np.float32(127)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales >= SMALLEST_SCALE)
    numbers = blocks * inverse[:, None]
    return scales, np.rint(numbers, out=numbers).reshape(-1)


def _decode_int8(data: Data, count: int) -> Vector:
    scales = np.frombuffer(data, np.float32, _n_blocks(count))
    codes = np.frombuffer(data, np.int8, count, offset=scales.nbytes)
    vector = _vector(count)
    whole = count // BLOCK * BLOCK
    rows = vector[:whole].reshape(-1, BLOCK)
    np.multiply(codes[:whole].reshape(-1, BLOCK), scales[: len(rows), None], out=rows)
    if whole < count:
        np.multiply(codes[whole:], scales[-1], out=vector[whole:])
    return vector


# --- topk -----------------------------------------------------------------------------------------


def topk_count(count: int) -> int:
    """Return how many of so many numbers travel: at least one."""
    return -(-count // TOPK_SHARE)


def _encode_topk(vector: Vector) -> Data:
    kept = topk_count(vector.size)
    largest = np.argpartition(np.abs(vector), vector.size - kept)[vector.size - kept :]
    indices = np.sort(largest).astype(np.uint32)
    return indices.tobytes() + bytes(_encode_bfloat16(vector[indices]))


def _decode_topk(data: Data, count: int) -> Vector:
    kept = topk_count(count)
    indices = np.frombuffer(data, np.uint32, kept)
    if indices.size and (indices[-1] >= count or np.any(indices[1:] <= indices[:-1])):
        raise BadCode("indices are not ascending below the count")
    vector = np.zeros(count, dtype=np.float32)
    vector[indices] = _decode_bfloat16(memoryview(data)[indices.nbytes :], kept)
    return vector


# --- sign -----------------------------------------------------------------------------------------


def _encode_sign(vector: Vector) -> Data:
    scales = np.abs(_blocks(vector)).sum(axis=1)
    lengths = np.full(scales.size, BLOCK, dtype=np.float32)
    if vector.size % BLOCK:
        lengths[-1] = vector.size % BLOCK
    return bytes((scales / lengths).tobytes() + np.packbits(vector >= 0).tobytes())


def _decode_sign(data: Data, count: int) -> Vector:
    scales = np.frombuffer(data, np.float32, _n_blocks(count))
    bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=scales.nbytes), count=count)
    signs = bits.astype(np.float32) * 2 - 1
    return np.asarray(signs * np.repeat(scales, BLOCK)[:count], dtype=np.float32)


CODECS: Final[dict[str, Codec]] = {
    codec.name: codec
    for codec in (
        Codec("float32", False, False, lambda n: 4 * n, _encode_float32, _decode_float32),
        Codec("float16", False, False, lambda n: 2 * n, _encode_float16, _decode_float16),
        Codec("bfloat16", False, False, lambda n: 2 * n, _encode_bfloat16, _decode_bfloat16),
        Codec("int8", True, False, lambda n: n + 4 * _n_blocks(n), _encode_int8, _decode_int8),
        Codec("int4", True, False, INT4.size, INT4.encode, INT4.decode),
        Codec("int2", True, True, INT2.size, INT2.encode, INT2.decode),
        Codec("topk", True, True, lambda n: 6 * topk_count(n), _encode_topk, _decode_topk),
        Codec("sign", True, True, lambda n: 4 * _n_blocks(n) + -(-n // 8), _encode_sign, _decode_sign),
    )
}


def with_exact_end(codec: Codec, exact: int) -> Codec:
    """Return a codec whose last `exact` numbers travel as float32: those of a model's buffers.

    An error in a weight is trained away; a variance that a codec made negative is not.
    """
    if not exact:
        return codec

    def size(count: int) -> int:
        return codec.size(count - exact) + 4 * exact

    def encode(vector: Vector) -> Data:
        start = vector.size - exact
        rest = bytes(_encode_float32(np.ascontiguousarray(vector[start:])))
        return bytes(codec.encode(vector[:start])) + rest if start else rest

    def decode(data: Data, count: int) -> Vector:
        start, view = count - exact, memoryview(data)
        rest = np.frombuffer(view[codec.size(start) :], np.float32, exact)
        if not start:
            return rest
        return np.concatenate([codec.decode(view[: codec.size(start)], start), rest])

    return replace(codec, size=size, encode=encode, decode=decode)


class Feedback:
    """What codecs left out so far, of our contributions and of the means we made; float32 [n] each.

    Error feedback: send C(x + e), keep e = x + e − C(x + e). The error is delayed, never lost.
    """

    def __init__(self, numel: int) -> None:
        """Start with nothing owed."""
        self.sent: Vector = np.zeros(numel, dtype=np.float32)
        self.made: Vector = np.zeros(numel, dtype=np.float32)


def encode_with_feedback(
    codec: Codec, vector: Vector, owed: Vector | None, most: float = float("inf")
) -> tuple[Data, Vector]:
    """Return the bytes for a chunk and what a receiver will read from them; `owed` is updated in place.

    `most`: the largest norm that a receiver may read; the rest stays owed.
    """
    if owed is None:
        data = codec.encode(vector)
        return data, codec.decode(data, vector.size)
    owed += vector
    data = codec.encode(owed)
    read = codec.decode(data, vector.size)
    norm = float(np.sqrt(np.dot(read, read))) if most < float("inf") else 0.0
    if norm > most:
        data = codec.encode(owed * np.float32(most / norm))
        read = codec.decode(data, vector.size)
    owed -= read
    return data, read
