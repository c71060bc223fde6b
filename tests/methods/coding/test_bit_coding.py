"""Bit coding: what is written is read back, and what no writer of ours makes is refused in bounded memory."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shoal.gossip.errors import RemoteViolation
from shoal.methods.coding.bit_coding import (
    deflate,
    from_png,
    inflate,
    pack_bits,
    rice_bits,
    rice_decode,
    rice_encode,
    to_png,
    unpack_bits,
)


@given(st.lists(st.booleans(), max_size=100))
def test_masks_come_back(bits: list[bool]) -> None:
    mask = np.array(bits, np.bool_)
    assert unpack_bits(pack_bits(mask), len(bits)).tolist() == bits


@pytest.mark.parametrize("data", [b"", b"\x00\x00", b"\x10"])
def test_a_mask_of_another_length_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteViolation, match="mask"):
        unpack_bits(data, 4)


@given(st.sets(st.integers(0, 4999), max_size=400), st.integers(0, 14))
def test_sets_come_back_whatever_the_parameter(members: set[int], k: int) -> None:
    indices = np.array(sorted(members), np.int64)
    decoded = rice_decode(rice_encode(indices, k), k, len(members), 5000)
    assert decoded.tolist() == sorted(members)


def test_a_random_set_of_one_percent_takes_about_eight_bits_per_member() -> None:
    indices = np.sort(np.random.default_rng(0).choice(1_000_000, 10_000, replace=False))
    k = rice_bits(10_000, 1_000_000)
    sizes = {other: len(rice_encode(indices, other)) for other in (k - 1, k, k + 1)}
    assert min(sizes, key=lambda other: sizes[other]) == k
    assert 8 * sizes[k] / 10_000 < 8.15


def test_the_bytes_of_a_known_set_are_known() -> None:
    # Gaps 2 and 5 with k = 2: quotients 0 and 1 as 1 and 01, lower bits 2 and 1 as 01 and 10; the first
    # bit of the stream is the lowest of the byte.
    assert rice_encode(np.array([2, 8]), 2) == bytes([0b0_01_10_10_1])


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 40), st.integers(0, 500))
def test_noise_is_no_set_or_a_sorted_one(data: bytes, k: int, count: int) -> None:
    try:
        members = rice_decode(data, k, count, 400)
    except RemoteViolation:
        return
    assert len(members) == count
    assert (np.diff(members) > 0).all()
    assert count == 0 or 0 <= members[0] <= members[-1] < 400


def test_an_announced_giant_set_allocates_nothing() -> None:
    tracemalloc.start()
    with pytest.raises(RemoteViolation):
        rice_decode(b"\xff" * 10, 3, 1 << 40, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 16


def test_gaps_that_would_wrap_around_are_refused() -> None:
    with pytest.raises(RemoteViolation, match="beyond"):
        rice_decode(b"\x01" + b"\xff" * 4, 32, 1, 100)


@given(st.binary(max_size=3000))
def test_images_come_back(data: bytes) -> None:
    pixels = np.frombuffer(data, np.uint8)
    assert from_png(to_png(pixels), len(data)).tobytes() == data


def test_an_image_is_near_square_and_shorter_where_bytes_repeat() -> None:
    image = to_png(np.zeros(10_000, np.uint8))
    assert Image.open(io.BytesIO(image)).size == (100, 100)
    assert len(image) < 200


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, *extra: bytes, depth: int = 8, color: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack("!IIBBBBB", width, height, depth, color, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body + chunk(b"IEND", b"")


ROWS = b"\x00" + bytes(10)


def test_a_hand_made_image_is_read() -> None:
    assert from_png(png(10, 10, ROWS * 10), 100).tobytes() == bytes(100)


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"GIF89a",
        png(10, 10, ROWS * 10)[:-6],
        png(10, 10, ROWS * 10) + b"more",
        png(20_000, 20_000, ROWS * 10),
        png(1 << 31, 1, ROWS),
        png(1, 100, b"\x00\x00" * 100),
        png(10, 10, ROWS * 10, chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(1 << 20)))),
        png(10, 10, ROWS * 10, chunk(b"iCCP", b"k\x00\x00" + zlib.compress(bytes(1 << 20)))),
        png(10, 10, ROWS * 10, depth=16),
        png(10, 10, ROWS * 10, color=2),
        png(10, 10, ROWS * 9),
        png(10, 10, ROWS * 10).replace(b"IEND", b"IDAT"),
    ],
)
def test_other_images_are_refused(image: bytes) -> None:
    with pytest.raises(RemoteViolation, match="image"):
        from_png(image, 100)


def test_pixels_beyond_the_last_row_are_never_inflated() -> None:
    bomb = png(10, 10, ROWS * 10 + bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(RemoteViolation, match="image"):
        from_png(bomb, 100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@given(st.binary(max_size=3000))
def test_compressed_bytes_come_back(data: bytes) -> None:
    assert inflate(deflate(data), len(data)) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"noise",
        deflate(bytes(100))[:-3],
        deflate(bytes(101)),
        deflate(bytes(99)),
        deflate(bytes(100)) + b"x",
    ],
)
def test_compressed_bytes_of_another_length_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteViolation, match="compressed"):
        inflate(data, 100)


def test_a_bomb_is_not_inflated() -> None:
    tracemalloc.start()
    with pytest.raises(RemoteViolation, match="length"):
        inflate(deflate(bytes(32 << 20)), 100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 << 20
