"""Bit coding: sets, masks and bytes in few bits, and read back within bounds known beforehand.

    packed bits   a mask as one bit per entry
    Rice code     a set as its gaps: each gap as quotient (so many zeros and a one) and `k` lower bits
    image         bytes as a near-square grayscale PNG, whose DEFLATE takes out what repeats
    deflate       the same without the picture

Rice, "Some Practical Universal Noiseless Coding Techniques", JPL 79-22, 1979. For a random set of n out of
d the gaps are geometric, and the code is within about 0.03 of the fewest possible bits per member.

Everything here that reads is given bytes of a peer. It is told how large the outcome may be, allocates no
more than that, and raises `RemoteViolation` for what no writer of ours makes.
"""

import io
import math
import struct
import zlib
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from shoal.gossip.errors import RemoteViolation

Bits: TypeAlias = npt.NDArray[np.bool_]
Indices: TypeAlias = npt.NDArray[np.int64]
Bytes: TypeAlias = npt.NDArray[np.uint8]

MAX_RICE_BITS: Final = 32
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHUNK_OVERHEAD: Final = 12


def pack_bits(bits: Bits) -> bytes:
    """Return a mask as bytes, eight entries in each, the first in the lowest bit."""
    return np.packbits(bits, bitorder="little").tobytes()


def unpack_bits(data: bytes, count: int) -> Bits:
    """Read a mask of so many entries.

    Raises:
        RemoteViolation: there are more or fewer bytes than that takes, or bits beyond the end.
    """
    if len(data) != -(-count // 8):
        raise RemoteViolation("mask of another length", f"{len(data)} bytes for {count} bits")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").astype(np.bool_)
    if bits[count:].any():
        raise RemoteViolation("mask of another length", "bits beyond the last entry")
    return bits[:count]


def rice_bits(count: int, limit: int) -> int:
    """Return the `k` that makes a random set of `count` out of `limit` short."""
    # The median gap's power of two; ln 2 is the median of an exponential distribution.
    return max(0, math.floor(math.log2(max(1.0, math.log(2) * limit / max(1, count))) + 0.5))


def rice_encode(indices: Indices, k: int) -> bytes:
    """Return a sorted set as its gaps: all quotients, then all lower bits."""
    gaps = np.diff(indices, prepend=-1) - 1
    ends = np.cumsum(gaps >> k) + np.arange(len(gaps))
    unary = np.zeros(int(ends[-1]) + 1 if len(ends) else 0, np.bool_)
    unary[ends] = True
    lower = (gaps[:, None] >> np.arange(k)) & 1
    return pack_bits(np.concatenate([unary, lower.reshape(-1).astype(np.bool_)]))


def rice_decode(data: bytes, k: int, count: int, limit: int) -> Indices:
    """Read a set of `count` members, each below `limit`.

    Raises:
        RemoteViolation: it is no such set.
    """
    if not (0 <= k <= MAX_RICE_BITS and 0 <= count <= limit):
        raise RemoteViolation("set of no known form", f"{count} of {limit} members, k = {k}")
    longest = count * (k + 1) + (limit >> k)
    if len(data) > -(-longest // 8):
        raise RemoteViolation("set is too long", f"{len(data)} bytes for {count} members")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    ends = np.flatnonzero(bits)[:count]
    start = int(ends[-1]) + 1 if len(ends) else 0
    if len(ends) < count or len(data) != -(-(start + count * k) // 8):
        raise RemoteViolation("set is cut short", f"{len(data)} bytes for {count} members")
    lower = bits[start : start + count * k].reshape(count, k).astype(np.int64) @ (1 << np.arange(k))
    gaps = ((np.diff(ends, prepend=-1) - 1) << k) + lower
    # One by one first: a sum of numbers that are too large could wrap around.
    if (gaps >= limit).any() or gaps.sum() + count > limit:
        raise RemoteViolation("set has members beyond the last", f"of {limit}")
    return np.cumsum(gaps + 1) - 1


def to_png(data: Bytes) -> bytes:
    """Return bytes as a near-square grayscale image, the last row filled with zeros."""
    width, height = _image_size(len(data))
    pixels = np.zeros(width * height, np.uint8)
    pixels[: len(data)] = data
    out = io.BytesIO()
    Image.fromarray(pixels.reshape(height, width)).save(out, format="PNG", optimize=True)
    return out.getvalue()


def from_png(data: bytes, count: int) -> Bytes:
    """Read `count` bytes from an image of ours.

    Raises:
        RemoteViolation: it is no such image, or larger than that.
    """
    width, height, pixels = _png_parts(data)
    if (width, height) != _image_size(count):
        raise RemoteViolation("image of another size", f"{width} by {height} for {count} bytes")
    try:
        # A row is its filter's number and its pixels. Of an image cut short the library leaves the rest open.
        inflate(pixels, height * (width + 1))
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return np.asarray(image).reshape(-1)[:count].copy()
    except (OSError, SyntaxError, ValueError, RemoteViolation) as error:
        raise RemoteViolation("image is damaged", str(error)) from error


def _image_size(count: int) -> tuple[int, int]:
    width = math.isqrt(max(0, count - 1)) + 1
    return width, max(1, -(-count // width))


def _png_parts(data: bytes) -> tuple[int, int, bytes]:
    """Return width, height and compressed pixels of a grayscale PNG that has nothing else.

    The library that decodes the pixels reads text, colour profiles and animations too, all of them
    compressed; an image of ours has none, and one that has is a bomb.
    """
    if not data.startswith(_SIGNATURE):
        raise RemoteViolation("image is no PNG")
    chunks: list[tuple[bytes, bytes]] = []
    at = len(_SIGNATURE)
    while at < len(data):
        if at + _CHUNK_OVERHEAD > len(data):
            raise RemoteViolation("image is damaged", "cut in a chunk's head")
        length, kind = struct.unpack_from("!I4s", data, at)
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += _CHUNK_OVERHEAD + length
    kinds = [kind for kind, _ in chunks]
    if at != len(data) or kinds[:1] != [b"IHDR"] or kinds[-1] != b"IEND" or set(kinds[1:-1]) != {b"IDAT"}:
        raise RemoteViolation("image has parts that none of ours has")
    # Header: width, height, 8 bits a pixel, grayscale, DEFLATE, the usual filters, not interlaced.
    if len(chunks[0][1]) != 13 or chunks[0][1][8:] != bytes([8, 0, 0, 0, 0]):
        raise RemoteViolation("image has parts that none of ours has", "not plain 8-bit grayscale")
    width, height = struct.unpack_from("!II", chunks[0][1])
    return width, height, b"".join(content for _, content in chunks[1:-1])


def deflate(data: bytes) -> bytes:
    """Return bytes compressed."""
    return zlib.compress(data, 9)


def inflate(data: bytes, count: int) -> bytes:
    """Read exactly so many bytes from compressed ones.

    Raises:
        RemoteViolation: they are damaged, or hold more or less.
    """
    stream = zlib.decompressobj()
    try:
        out = stream.decompress(data, count + 1)
    except zlib.error as error:
        raise RemoteViolation("compressed bytes are damaged", str(error)) from error
    if len(out) != count or not stream.eof or stream.unused_data:
        raise RemoteViolation("compressed bytes of another length", f"not {count}")
    return out
