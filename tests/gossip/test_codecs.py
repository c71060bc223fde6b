"""Codecs keep their promised sizes and errors, and error feedback loses nothing."""

import numpy as np
import pytest

from gossip.codecs import BLOCK, CODECS, PIECE, BadCode, Feedback, encode_with_feedback, topk_count
from gossip.core import Vector

COUNTS = [1, 7, BLOCK, BLOCK + 1, 5000, PIECE + BLOCK + 3]


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
    [("float32", 4), ("float16", 2), ("bfloat16", 2), ("int8", 1.005), ("topk", 0.061), ("sign", 0.13)],
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


@pytest.mark.parametrize("name", ["int8", "topk", "sign"])
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
