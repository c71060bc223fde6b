"""Codecs keep their promised sizes and errors, and error feedback loses nothing."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shoal.gossip.averaging.tensor_codecs import (
    BLOCK,
    CODECS,
    PIECE,
    SMALLEST_SCALE,
    BadCode,
    Feedback,
    encode_with_feedback,
    topk_count,
)
from shoal.gossip.events import Vector

COUNTS = [1, 7, BLOCK, BLOCK + 1, 5000, PIECE + BLOCK + 3]
ANY = arrays(
    np.float32,
    st.one_of(st.integers(1, 40), st.integers(BLOCK - 2, BLOCK + 40)),
    elements=st.floats(-(2.0**49), 2.0**49, width=32),
    fill=st.sampled_from([np.float32(0), np.float32(1e-3)]),
)
"""Vectors as an exchange lets them in: finite, and of no absurd size."""
TINIEST = float(np.finfo(np.float32).tiny)
"""Below this float32 itself has fewer digits."""


def read_back(name: str, x: Vector) -> Vector:
    return CODECS[name].decode(CODECS[name].encode(x), x.size)


def exact(x: Vector) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return x.astype(np.float64)


def numbers(count: int, seed: int = 0, scale: float = 1.0) -> Vector:
    return np.random.default_rng(seed).normal(0, scale, count).astype(np.float32)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("count", COUNTS)
def test_the_size_follows_from_the_count(name: str, count: int) -> None:
    codec = CODECS[name]
    data = codec.encode(numbers(count))
    assert len(data) == codec.size(count)
    assert codec.decode(data, count).shape == (count,)


@pytest.mark.parametrize(
    ("name", "bytes_a_number"),
    [
        ("float32", 4),
        ("float16", 2),
        ("bfloat16", 2),
        ("int8", 1.005),
        ("int4", 0.53125),
        ("int2", 0.28125),
        ("topk", 0.061),
        ("sign", 0.13),
    ],
)
def test_a_codec_is_as_small_as_it_says(name: str, bytes_a_number: float) -> None:
    assert CODECS[name].size(1 << 18) <= bytes_a_number * (1 << 18)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("name", "relative"), [("float32", 0.0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_float_codecs_keep_their_relative_error(name: str, relative: float, scale: float) -> None:
    x = numbers(5000, scale=scale)
    read = CODECS[name].decode(CODECS[name].encode(x), x.size)
    assert np.all(np.abs(read - x) <= relative * np.abs(x) + 2**-25 * (relative > 0))


@pytest.mark.parametrize("count", COUNTS)
def test_int8_is_off_by_at_most_half_a_step_of_its_block(count: int) -> None:
    x = numbers(count)
    read = CODECS["int8"].decode(CODECS["int8"].encode(x), count)
    for start in range(0, count, BLOCK):
        block = slice(start, start + BLOCK)
        step = np.abs(x[block]).max() / 127
        assert np.abs(read[block] - x[block]).max() <= step / 2 * 1.001


def test_topk_keeps_the_largest() -> None:
    x = numbers(5000)
    read = CODECS["topk"].decode(CODECS["topk"].encode(x), x.size)
    kept = np.flatnonzero(read)
    assert kept.size == topk_count(x.size) == 50
    assert np.abs(x[kept]).min() >= np.sort(np.abs(x))[-50]


def test_sign_keeps_signs_and_mean_magnitudes() -> None:
    x = numbers(3000)
    read = CODECS["sign"].decode(CODECS["sign"].encode(x), x.size)
    assert np.array_equal(read > 0, x >= 0)
    assert np.abs(read[:BLOCK]).max() == pytest.approx(np.abs(x[:BLOCK]).mean(), rel=1e-5)


@pytest.mark.parametrize("name", CODECS)
def test_zeros_stay_zeros_in_size_and_are_finite(name: str) -> None:
    codec = CODECS[name]
    read = codec.decode(codec.encode(np.zeros(2000, dtype=np.float32)), 2000)
    assert not read.any()


@pytest.mark.parametrize("name", CODECS)
def test_large_numbers_stay_finite(name: str) -> None:
    codec = CODECS[name]
    x = np.array([3e38, -3e38, 1.0] * 500, dtype=np.float32)
    with np.errstate(over="ignore"):
        read = codec.decode(codec.encode(x), x.size)
    assert np.isfinite(read).all() or name in ("sign", "bfloat16")


def test_topk_indices_out_of_range_are_refused() -> None:
    data = bytearray(CODECS["topk"].encode(numbers(500)))
    data[16:20] = (500).to_bytes(4, "little")
    with pytest.raises(BadCode):
        CODECS["topk"].decode(bytes(data), 500)


def test_topk_indices_that_repeat_are_refused() -> None:
    data = bytearray(CODECS["topk"].encode(numbers(500)))
    data[4:8] = data[0:4]
    with pytest.raises(BadCode):
        CODECS["topk"].decode(bytes(data), 500)


@pytest.mark.parametrize("name", ["int8", "int4", "int2", "topk", "sign"])
def test_with_feedback_everything_is_sent_in_the_end(name: str) -> None:
    codec, x, feedback = CODECS[name], numbers(2000), Feedback(2000)
    total = np.zeros(2000)
    for _ in range(400):
        total += encode_with_feedback(codec, x, feedback.sent)[1]
    # What was read plus what is owed is exactly what was given, up to rounding.
    assert total + feedback.sent == pytest.approx(400 * x.astype(np.float64), abs=0.1)
    assert np.abs(total / 400 - x).mean() < 0.2 * np.abs(x).mean()


def test_without_feedback_nothing_is_remembered() -> None:
    x = numbers(100)
    data, read = encode_with_feedback(CODECS["float32"], x, None)
    assert np.array_equal(read, x)
    assert len(data) == 400


# --- error bounds, for vectors of any kind --------------------------------------------------------


@given(ANY)
def test_float32_loses_nothing(x: Vector) -> None:
    assert read_back("float32", x).tobytes() == x.tobytes()


@given(ANY)
def test_float16_is_off_by_its_last_digit_and_clips_what_it_cannot_hold(x: Vector) -> None:
    held = np.clip(x, -65504, 65504)
    error = np.abs(exact(read_back("float16", x)) - exact(held))
    assert np.all(error <= 2.0**-11 * np.abs(exact(held)) + 2.0**-25)


@given(ANY)
def test_bfloat16_is_off_by_its_last_digit_over_the_whole_range(x: Vector) -> None:
    error = np.abs(exact(read_back("bfloat16", x)) - exact(x))
    assert np.all(error <= 2.0**-8 * np.maximum(np.abs(exact(x)), TINIEST))


@given(ANY)
@example(np.array([1e-37, 0.0, -5e-38], np.float32))
@example(np.array([1e-42, 1e-44], np.float32))
def test_int8_is_off_by_half_a_step_of_its_block_whatever_is_in_it(x: Vector) -> None:
    read = read_back("int8", x)
    for start in range(0, x.size, BLOCK):
        block = slice(start, start + BLOCK)
        largest = float(np.abs(exact(x[block])).max())
        # Rounding of the scale and of the product, beside the half step; and what is too small to be sent.
        bound = largest / 254 * (1 + 1e-4) + 127 * float(SMALLEST_SCALE)
        assert np.abs(exact(read[block]) - exact(x[block])).max() <= bound


@given(ANY)
def test_topk_leaves_out_no_more_than_the_share_of_what_it_does_not_send(x: Vector) -> None:
    read = read_back("topk", x)
    left = 1 - topk_count(x.size) / x.size
    square = float((exact(x) ** 2).sum())
    error = float(((exact(read) - exact(x)) ** 2).sum())
    assert error <= (left + 2.0**-16) * square + x.size * TINIEST**2


@given(ANY)
def test_sign_never_makes_a_vector_worse_than_sending_nothing(x: Vector) -> None:
    read = read_back("sign", x)
    for start in range(0, x.size, BLOCK):
        block, count = exact(x[start : start + BLOCK]), min(BLOCK, x.size - start)
        # The mean magnitude is the best step; what it takes off the square is |x|_1^2 / n.
        gained = np.abs(block).sum() ** 2 / count
        square = float((block**2).sum())
        error = float(((exact(read[start : start + BLOCK]) - block) ** 2).sum())
        assert error <= square - gained + 1e-4 * square + count * TINIEST**2


@given(st.sampled_from(["int8", "int4", "int2", "topk", "sign"]), st.lists(ANY, min_size=1, max_size=4))
def test_what_is_owed_is_exactly_what_was_not_read(name: str, vectors: list[Vector]) -> None:
    size = min(vector.size for vector in vectors)
    owed = np.zeros(size, np.float32)
    given_, sent = np.zeros(size), np.zeros(size)
    largest = 0.0
    for vector in vectors:
        x = np.ascontiguousarray(vector[:size])
        sent += encode_with_feedback(CODECS[name], x, owed)[1]
        given_ += x
        largest = max(largest, float(np.abs(exact(x)).max()), float(np.abs(exact(owed)).max()))
    assert np.abs(sent + owed - given_).max() <= 1e-6 * len(vectors) * largest + TINIEST


def test_float16_is_bit_for_bit_that_of_numpy() -> None:
    codes = np.arange(1 << 16, dtype=np.uint16)
    halves = codes.view(np.float16).astype(np.float32)
    read = CODECS["float16"].decode(codes.data.cast("B"), codes.size)
    np.testing.assert_array_equal(read.view(np.uint32), halves.view(np.uint32))

    finite = halves[np.isfinite(halves)]
    between = (finite[:-1] + finite[1:]) * np.float32(0.5)  # ties, which go to the even one
    edges = [np.nextafter(between, np.float32(side)) for side in (-np.inf, np.inf)]
    odd = np.array([np.nan, 1.0, 2e9, -np.inf, 1e-40], np.float32)
    cases: list[Vector] = [finite, between, *edges, odd]
    for numbers in cases:
        expected = np.clip(numbers, -65504, 65504).astype(np.float16).view(np.uint16)
        written = np.frombuffer(CODECS["float16"].encode(numbers.astype(np.float32)), np.uint16)
        np.testing.assert_array_equal(written, expected)
