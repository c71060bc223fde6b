"""int4 and int2: the bytes of the page, bounded errors, and refusal of what no encoder writes."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shoal.gossip.averaging.chunks import Chunks
from shoal.gossip.averaging.low_bits import BLOCK, INT2, INT4, PIECE, SMALLEST, BadCode, LowBits
from shoal.gossip.averaging.tensor_codecs import CODECS
from shoal.gossip.events import Vector

PAGE = Path(__file__).resolve().parents[3] / "docs" / "wire.md"
BOTH = pytest.mark.parametrize("codec", [INT4, INT2], ids=["int4", "int2"])
EITHER = st.sampled_from([INT4, INT2])
ANY = arrays(
    np.float32,
    st.one_of(st.integers(1, 40), st.integers(BLOCK - 2, 3 * BLOCK)),
    elements=st.floats(-(2.0**49), 2.0**49, width=32),
    fill=st.sampled_from([np.float32(0), np.float32(1e-3)]),
)
GOLDEN = {
    "1.0 -0.5 0.25": (INT4, "123e 3e79"),
    "0.0": (INT4, "0000 77"),
    "7 -7 3.5 2.5 -1 0.4": (INT4, "803f 0e9b76"),
    "4 -4 1 2 -2.5 0.5": (INT2, "1540 9254"),
    "-1e-3": (INT2, "833a 54"),
}
"""Numbers -> their codec and their bytes: scales, then codes."""


def scale_of(codec: LowBits, block: Vector) -> np.float32:
    """Return a block's scale before it is rounded; sums must be exact in float32."""
    magnitudes = [abs(number) for number in block]
    if codec is INT4:
        return np.float32(max(magnitudes) / np.float32(7))
    mean = np.float32(sum(map(float, magnitudes))) / np.float32(BLOCK)
    large = [float(each) for each in magnitudes if each > np.float32(0.7) * mean]
    return np.float32(np.float32(sum(large)) / np.float32(max(len(large), 1)))


def reference(codec: LowBits, x: Vector) -> bytes:
    """Encode number by number, as the page says it."""
    scales, codes = b"", []
    for start in range(0, x.size, BLOCK):
        block = x[start : start + BLOCK]
        bits = int(scale_of(codec, block).view(np.uint32))
        bits = bits + 0x7FFF + (bits >> 16 & 1) >> 16
        scale = np.uint32(bits << 16).view(np.float32)
        if scale < SMALLEST:
            bits = 0
        scales += bits.to_bytes(2, "little")
        steps = [int(np.rint(number * (np.float32(1) / scale))) if bits else 0 for number in block]
        codes += [min(max(step, -codec.levels), codec.levels) for step in steps]
    codes += [0] * (-len(codes) % (8 // codec.bits))
    packed = sum(code + codec.levels << codec.bits * place for place, code in enumerate(codes))
    return scales + packed.to_bytes(len(codes) * codec.bits // 8, "little")


def numbers(count: int, seed: int = 0, scale: float = 1.0) -> Vector:
    return np.random.default_rng(seed).normal(0, scale, count).astype(np.float32)


def read_back(codec: LowBits, x: Vector) -> npt.NDArray[np.float64]:
    return codec.decode(codec.encode(x), x.size).astype(np.float64)


@BOTH
@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-10, 1.0, 2.0**30])
def test_the_bytes_are_those_of_a_scalar_encoder(codec: LowBits, scale: float) -> None:
    for count in range(1, 201):
        # In steps of 1 / 256, so that the order of a sum changes nothing.
        x = (np.rint(numbers(count, seed=count) * 256) / 256 * scale).astype(np.float32)
        assert bytes(codec.encode(x)) == reference(codec, x)


@BOTH
@pytest.mark.parametrize("count", [PIECE - 1, PIECE, PIECE + BLOCK, 2 * PIECE + BLOCK + 3])
def test_pieces_change_nothing(codec: LowBits, count: int) -> None:
    x = numbers(count)
    cut = 7 * BLOCK
    whole, first, rest = (bytes(codec.encode(part)) for part in (x, x[:cut], x[cut:]))
    scales = 2 * -(-(count - cut) // BLOCK)
    assert whole == first[:14] + rest[:scales] + first[14:] + rest[scales:]
    apart = np.concatenate([codec.decode(first, cut), codec.decode(rest, count - cut)])
    assert codec.decode(whole, count).tobytes() == apart.tobytes()


@pytest.mark.parametrize("text", GOLDEN)
def test_the_bytes_are_those_of_the_page(text: str) -> None:
    codec, shown = GOLDEN[text]
    x = np.array(text.split(), dtype=np.float32)
    assert bytes(codec.encode(x)).hex() == shown.replace(" ", "")
    row = f"| {'int4' if codec is INT4 else 'int2'} | `{text}` | `{shown}` |"
    assert row in PAGE.read_text("utf-8")


@given(ANY)
@example(np.array([1e-37, 0.0, -5e-38], np.float32))
@example(np.array([7.0, 0.5, -0.5, 1.5], np.float32))
def test_int4_is_off_by_half_a_step_of_its_block_whatever_is_in_it(x: Vector) -> None:
    error = np.abs(read_back(INT4, x) - x)
    for start in range(0, x.size, BLOCK):
        block = slice(start, start + BLOCK)
        # Rounding of the scale, beside the half step; and what is too small to be sent.
        half = float(np.abs(x[block]).max()) / 14 * (1 + 2.0**-7) + 8 * float(SMALLEST)
        assert error[block].max() <= half


@given(ANY)
@example(np.array([1e-42, 1e-44], np.float32))
def test_int2_gains_as_much_as_its_large_numbers_have_in_common(x: Vector) -> None:
    read = read_back(INT2, x)
    for start in range(0, x.size, BLOCK):
        block = x[start : start + BLOCK].astype(np.float64)
        magnitudes = np.abs(block)
        large = magnitudes[magnitudes > 0.7001 * magnitudes.sum() / BLOCK]
        # A mean takes n · mean² off a sum of squares; the nearest code takes no less.
        gained = large.sum() ** 2 / large.size if large.size else 0.0
        square = float((block**2).sum())
        error = float(((read[start : start + BLOCK] - block) ** 2).sum())
        assert error <= square - gained + 1e-3 * square + block.size * (2 * float(SMALLEST)) ** 2


def test_of_normal_numbers_int2_loses_less_than_sign_and_int4_a_hundredth() -> None:
    x = numbers(64_000)
    lost = {}
    for name in ("int4", "int2", "sign"):
        error = CODECS[name].decode(CODECS[name].encode(x), x.size) - x
        lost[name] = float(error @ error) / float(x @ x)
    blocks = x.reshape(-1, BLOCK)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    error = (np.rint(blocks / largest) * largest).reshape(-1) - x
    lost["by the largest number"] = float(error @ error) / float(x @ x)
    assert lost["by the largest number"] > 0.5
    assert lost["int4"] < 0.012
    assert lost["int2"] < 0.19
    assert lost["sign"] > 0.36


@BOTH
def test_zeros_and_subnormal_numbers_are_read_as_zeros(codec: LowBits) -> None:
    for number in (0.0, -0.0, 1e-45, -1e-40, float(SMALLEST) / 2):
        assert not codec.decode(codec.encode(np.full(100, number, np.float32)), 100).any()


@BOTH
def test_the_largest_numbers_stay_finite(codec: LowBits) -> None:
    largest = float(np.finfo(np.float32).max)
    with np.errstate(over="ignore"):
        assert np.isfinite(read_back(codec, np.array([largest, -largest, 1.0] * 50, np.float32))).all()
    read = read_back(codec, np.array([largest, *[0.0] * 63], np.float32))
    assert read[0] == pytest.approx(largest, rel=2.0**-7)


# --- bytes of peers -------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "bits", [0x7F80, 0x7FC0, 0xFF80, 0x8000, 0xBF80, 0xFFFF], ids=["inf", "nan", "-inf", "-0", "-1", "-nan"]
)
@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_scale_that_is_not_finite_or_negative_is_refused(codec: LowBits, bits: int, block: int) -> None:
    data = bytearray(codec.encode(numbers(150)))
    data[2 * block : 2 * block + 2] = bits.to_bytes(2, "little")
    with pytest.raises(BadCode, match="scale"):
        codec.decode(bytes(data), 150)


def test_a_scale_with_which_a_number_would_overflow_is_refused() -> None:
    data = bytearray(INT4.encode(np.ones(64, np.float32)))
    for bits, is_good in ((0x7E12, True), (0x7E13, False)):
        data[:2] = bits.to_bytes(2, "little")
        if is_good:
            assert np.isfinite(INT4.decode(bytes(data), 64)).all()
        else:
            with pytest.raises(BadCode, match="scale"):
                INT4.decode(bytes(data), 64)


@BOTH
@pytest.mark.parametrize("place", [0, 70, 149])
def test_a_code_beyond_the_levels_is_refused(codec: LowBits, place: int) -> None:
    data = bytearray(codec.encode(numbers(150)))
    mask = (1 << codec.bits) - 1
    data[6 + place * codec.bits // 8] |= mask << place * codec.bits % 8
    with pytest.raises(BadCode, match="code"):
        codec.decode(bytes(data), 150)


@BOTH
@pytest.mark.parametrize("change", [-1, 1, 2, 1 << 20])
def test_another_count_of_bytes_is_refused_before_anything_is_allocated(codec: LowBits, change: int) -> None:
    data = bytes(codec.encode(numbers(150)))
    with pytest.raises(BadCode, match="bytes"):
        codec.decode(data + bytes(change) if change > 0 else data[:change], 150)
    with pytest.raises(BadCode, match="bytes"):
        codec.decode(data, 1 << 50)


@given(EITHER, st.integers(1, 200), st.data())
def test_any_bytes_are_refused_or_give_finite_numbers(
    codec: LowBits, count: int, drawn: st.DataObject
) -> None:
    data = drawn.draw(st.binary(min_size=codec.size(count), max_size=codec.size(count)))
    try:
        read = codec.decode(data, count)
    except BadCode:
        return
    assert read.shape == (count,)
    assert np.isfinite(read).all()


@pytest.mark.parametrize("name", ["int4", "int2"])
def test_a_chunk_of_another_size_or_of_no_code_is_none_of_the_exchange(name: str) -> None:
    chunks = Chunks(numbers(1000), (1, 1), 256, name, None, exact=10)
    good = bytes(chunks.contribution(1, 1))
    assert chunks.fits(1, 1, good)
    assert not chunks.fits(1, 1, bytes(good)[:-1])
    assert not chunks.fits(1, 1, bytes(good) + b"\0")
    assert chunks.read(1, 1, b"\xff" * len(good)) is None
