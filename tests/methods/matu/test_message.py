"""Task messages: small, read back as sent, and refused where they are not what all know of them."""

import math
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.gossip.errors import RemoteViolation
from shoal.methods.coding.bit_coding import deflate, pack_bits
from shoal.methods.learning.task_identity import Identity
from shoal.methods.matu.message import (
    Coding,
    Form,
    Message,
    Part,
    read,
    read_numbers,
    tau_bytes,
    write,
    write_numbers,
)
from shoal.methods.matu.task_vectors import unify

NUMEL = 1000
BASE = bytes(range(16))
FORM = Form(BASE, NUMEL, "float16", 4)
ENCODE = msgspec.msgpack.Encoder().encode


def identities(count: int) -> list[Identity]:
    return [Identity(name=f"task {i}", classes=("a", "b"), head=b"h" * 32) for i in range(count)]


def message(count: int, form: Form = FORM) -> bytes:
    vectors = np.random.default_rng(0).normal(size=(count, form.numel)).astype(np.float32)
    return write(unify(list(vectors)), identities(count), range(1, count + 1), form)


def part(**changes: Any) -> Part:
    fields = {
        "identity": identities(1)[0],
        "mask": bytes(125),
        "is_deflated": False,
        "scale": 1.0,
        "examples": 3,
    }
    return Part(**{**fields, **changes})


def sent(*parts: Part, base: bytes = BASE, tau: bytes = bytes(2 * NUMEL)) -> bytes:
    return ENCODE(Message(base, tau, parts))


@pytest.mark.parametrize("coding", ["float32", "float16", "int8"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_what_is_told_is_heard(coding: Coding, count: int) -> None:
    form = Form(BASE, NUMEL, coding, 4)
    vectors = np.random.default_rng(0).normal(size=(count, NUMEL)).astype(np.float32)
    unified = unify(list(vectors))
    body = write(unified, identities(count), range(1, count + 1), form)
    heard = read(body, form)
    assert len(body) <= form.bound
    tolerance = {"float32": 0, "float16": 2e-3, "int8": 0.02}[coding]
    np.testing.assert_allclose(heard.tau, unified.tau, atol=tolerance)
    assert list(heard.tasks) == [identity.id for identity in identities(count)]
    for i, told in enumerate(heard.tasks.values()):
        assert told.mask.tolist() == unified.masks[i].tolist()
        assert told.scale == np.float32(unified.scales[i])
        assert told.examples == i + 1


@pytest.mark.parametrize(("coding", "share"), [("float32", 0.30), ("float16", 0.17), ("int8", 0.11)])
def test_four_tasks_take_a_fraction_of_four_vectors(coding: Coding, share: float) -> None:
    form = Form(BASE, 16_576, coding, 4)
    assert len(message(4, form)) <= share * 4 * 4 * form.numel


@given(st.integers(0, 600), st.integers(0, 100))
def test_numbers_in_eight_bits_are_within_half_a_step(numel: int, seed: int) -> None:
    vector = np.random.default_rng(seed).normal(size=numel).astype(np.float32)
    data = write_numbers(vector, "int8")
    assert len(data) == tau_bytes(numel, "int8")
    error = np.abs(read_numbers(data, numel, "int8") - vector)
    assert (error <= 0.51 * np.abs(vector).max(initial=0) / 127).all()


def test_numbers_that_are_all_zero_come_back() -> None:
    for coding in ("float32", "float16", "int8"):
        assert (
            read_numbers(write_numbers(np.zeros(300, np.float32), coding), 300, coding).tolist() == [0] * 300
        )


def test_numbers_too_large_for_the_coding_are_cut_not_infinite() -> None:
    cut = read_numbers(write_numbers(np.array([1e9, -1e9], np.float32), "float16"), 2, "float16")
    assert cut.tolist() == [1024, -1024]


@pytest.mark.parametrize("coding", ["float32", "float16"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2000.0])
def test_numbers_out_of_bounds_are_refused(coding: Coding, value: float) -> None:
    data = np.array([0.0, value], {"float32": "<f4", "float16": "<f2"}[coding]).tobytes()
    with pytest.raises(RemoteViolation, match="out of bounds"):
        read_numbers(data, 2, coding)


@pytest.mark.parametrize("scale", [math.nan, math.inf, 3e38])
def test_scales_of_blocks_out_of_bounds_are_refused(scale: float) -> None:
    data = np.array([scale], "<f4").tobytes() + np.array([1, 127, 0], np.int8).tobytes()
    with pytest.raises(RemoteViolation, match="out of bounds"):
        read_numbers(data, 3, "int8")


@pytest.mark.parametrize(
    "body",
    [
        sent(part(scale=1e6)),
        sent(part(scale=math.nan)),
        sent(part(scale=math.inf)),
        sent(part(scale=-1.0)),
        sent(part(examples=0)),
        sent(part(examples=1 << 40)),
        sent(part(mask=bytes(124))),
        sent(part(mask=bytes(1 << 16))),
        sent(part(mask=deflate(bytes(64 << 20)), is_deflated=True)),
        sent(part(mask=b"noise", is_deflated=True)),
        sent(part(), part()),
        sent(*(part(identity=identity) for identity in identities(5))),
        sent(),
        sent(part(), base=bytes(16)),
        sent(part(), base=b"short"),
        sent(part(), tau=bytes(2 * NUMEL - 1)),
        sent(part(), tau=np.full(NUMEL, np.nan, "<f2").tobytes()),
        sent(part(identity=Identity(name="x" * 101))),
        sent(part(identity=Identity(name="x", classes=("y",) * 1001))),
        b"",
        b"noise",
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_bad_messages_are_refused_in_bounded_memory(body: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(RemoteViolation):
        read(body, FORM)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@settings(max_examples=300)
@given(st.integers(0, 1 << 30), st.integers(1, 255))
def test_flipped_bytes_are_refused_or_stay_in_bounds(at: int, flip: int) -> None:
    body = bytearray(message(2))
    body[at % len(body)] ^= flip
    try:
        heard = read(bytes(body), FORM)
    except RemoteViolation:
        return
    assert np.isfinite(heard.tau).all()
    assert all(0 <= told.scale <= 8 and told.mask.shape == (NUMEL,) for told in heard.tasks.values())


def test_a_mask_is_compressed_where_that_is_shorter() -> None:
    mask = np.zeros(NUMEL, np.bool_)
    mask[3] = True
    body = sent(part(mask=deflate(pack_bits(mask)), is_deflated=True))
    (told,) = read(body, FORM).tasks.values()
    assert np.flatnonzero(told.mask).tolist() == [3]
    zeros = unify([np.zeros(NUMEL, np.float32)])
    assert len(write(zeros, identities(1), [1], FORM)) < 2 * NUMEL + 125


def test_an_id_is_that_of_all_that_makes_the_task() -> None:
    one = Identity(name="digits", classes=("0", "1"), head=b"h")
    others = [
        Identity(name="digit", classes=("0", "1"), head=b"h"),
        Identity(name="digits", classes=("1", "0"), head=b"h"),
        Identity(name="digits", classes=("0", "1"), head=b"g"),
    ]
    assert len({each.id for each in (one, *others)}) == 4
    assert one.id == Identity(name="digits", classes=("0", "1"), head=b"h").id
    assert one.id.hex() == "56456a384c05e7940c4e1f61e65cf65c"
