"""Mask updates: what is written is read, and what would turn the whole mask over is refused."""

import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.gossip.errors import RemoteViolation
from shoal.methods.coding.bit_coding import Indices
from shoal.methods.coding.fuse_filter import build
from shoal.methods.deltamask.mask_update import Bounds, Coding, Dense, Filter, Rice, read, write

BOUNDS = Bounds(50_000, 5_000)
ENCODE = msgspec.msgpack.Encoder().encode


def positions(count: int, seed: int = 0) -> Indices:
    return np.sort(np.random.default_rng(seed).choice(BOUNDS.positions, count, replace=False))


@pytest.mark.parametrize("coding", ["rice", "bits"])
@pytest.mark.parametrize("count", [0, 1, 2, 400, 5_000])
def test_exact_codings_come_back_exactly(coding: Coding, count: int) -> None:
    sent = positions(count)
    assert np.flatnonzero(read(write(sent, coding, BOUNDS), BOUNDS)).tolist() == sent.tolist()


@pytest.mark.parametrize("count", [0, 1, 2, 400, 5_000])
def test_a_filter_holds_all_that_was_sent_and_about_one_in_256_others(count: int) -> None:
    sent = positions(count)
    got = read(write(sent, "bfuse8", BOUNDS), BOUNDS)
    assert got[sent].all()
    others = int(got.sum()) - count
    assert others == 0 if count == 0 else 0.7 < others / (BOUNDS.positions / 256) < 1.3


def test_an_empty_update_has_no_bits() -> None:
    codings: tuple[Coding, ...] = ("bfuse8", "rice")
    for coding in codings:
        body = write(positions(0), coding, BOUNDS)
        assert msgspec.msgpack.decode(body)[-1] == b""
        assert len(body) <= 8


def test_the_bytes_of_a_known_update_are_known() -> None:
    sent = np.array([7, 100, 31_000])
    assert write(sent, "rice", BOUNDS).hex() == "94a172030dc406e301e002b318"
    filter_ = "97a16603000401c2c4105500e6bd000000000000000000000000"
    assert write(sent, "bfuse8", BOUNDS).hex() == filter_


def test_a_filter_with_more_in_it_than_it_announced_is_refused() -> None:
    with pytest.raises(RemoteViolation, match="other than it announced"):
        read(ENCODE(crowded()), BOUNDS)


def test_a_filter_that_announces_ten_and_matches_everything_is_refused() -> None:
    everything = build(np.arange(BOUNDS.positions, dtype=np.uint64))
    form = (10, everything.seed, everything.segment_length, everything.segment_count)
    with pytest.raises(RemoteViolation, match="too large"):
        read(ENCODE(Filter(*form, False, everything.fingerprints.tobytes())), BOUNDS)


def crowded() -> Filter:
    """Return a filter that announces 1,000 members, and holds 1,000 more than false positives explain."""
    built = build(positions(2_000).astype(np.uint64))
    form = (1_000, built.seed, built.segment_length, built.segment_count)
    return Filter(*form, False, built.fingerprints.tobytes())


@pytest.mark.parametrize(
    "form",
    [
        Filter(1 << 40, 0, 1 << 18, 1 << 30, False, b""),
        Filter(10, 0, 1 << 18, 1 << 40, False, b""),
        Filter(10, 0, 4, 4, True, b"\x89PNG\r\n\x1a\n"),
        Filter(10, 0, 4, 4, False, bytes(27)),
        Filter(1 << 47, 0, 4, 4, False, bytes(28)),
        Rice(1 << 40, 3, b"\xff"),
        Rice(5_001, 3, b"\xff"),
        Rice(3, 1 << 40, b"\xff"),
        Dense(bytes([255] * 6_250)),
        Dense(bytes(6_251)),
        ["x", 1],
        {"count": 1},
        None,
    ],
)
def test_bad_updates_are_refused_and_allocate_nothing(form: object) -> None:
    body = ENCODE(form)
    tracemalloc.start()
    with pytest.raises(RemoteViolation):
        read(body, BOUNDS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_noise_is_refused_or_read_within_bounds(body: bytes) -> None:
    try:
        bits = read(body, BOUNDS)
    except RemoteViolation:
        return
    assert bits.shape == (BOUNDS.positions,)
    assert bits.sum() <= BOUNDS.most + BOUNDS.false_positives


@pytest.mark.parametrize("coding", ["bfuse8", "rice", "bits"])
def test_flipped_bytes_never_escape_the_bounds(coding: Coding) -> None:
    body = bytearray(write(positions(300), coding, BOUNDS))
    for at in range(0, len(body), max(1, len(body) // 200)):
        body[at] ^= 0xFF
        try:
            bits = read(bytes(body), BOUNDS)
            assert bits.sum() <= BOUNDS.most + BOUNDS.false_positives
        except RemoteViolation:
            pass
        body[at] ^= 0xFF
