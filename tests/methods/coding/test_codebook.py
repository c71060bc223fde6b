"""Codebooks: exact and canonical, and nothing a liar writes is believed."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Vector
from shoal.gossip.run_spec import TensorSpec
from shoal.methods.coding import codebook
from shoal.methods.coding.kmeans1d import Clusters, cluster

SPECS = (
    TensorSpec("0.weight", "float32", (40, 30)),
    TensorSpec("0.bias", "float32", (40,)),
    TensorSpec("scale", "float32", ()),
)
NUMEL = sum(spec.numel for spec in SPECS)
ONE = (TensorSpec("w", "float32", (64,)),)


def vector(seed: int = 0, kind: str = "standard_normal") -> Vector:
    numbers: Vector = getattr(np.random.default_rng(seed), kind)(size=NUMEL).astype(np.float32)
    return numbers


@pytest.mark.parametrize("kappa", [1, 2, 3, 8, 16, 32, 255, 256])
@pytest.mark.parametrize("kind", ["standard_normal", "laplace", "random"])
def test_a_clustered_model_comes_back_exactly(kappa: int, kind: str) -> None:
    body = codebook.encode_vector(vector(1, kind), SPECS, kappa)
    found = codebook.decode(body, SPECS, kappa=kappa)
    assert codebook.encode_vector(found, SPECS, kappa) == body
    assert len(body) <= codebook.max_bytes(SPECS, kappa)
    assert np.array_equal(found[:1200], cluster(vector(1, kind)[:1200], kappa).values)


def test_permuted_codebooks_give_the_same_bytes() -> None:
    codes, places = np.array([3, 1, 2], np.float32), np.array([0, 1, 2, 2, 1, 0, 0, 0], np.uint8)
    order = np.array([2, 0, 1])
    permuted = Clusters(codes[order], np.argsort(order)[places].astype(np.uint8))
    unused = Clusters(np.append(codes, np.float32(9)), places)
    bodies = {codebook.encode([each], [(8,)]) for each in (Clusters(codes, places), permuted, unused)}
    assert len(bodies) == 1


def test_the_form_is_as_written() -> None:
    clusters = Clusters(np.array([1, 2], np.float32), np.tile(np.array([0, 1], np.uint8), 32))
    body = codebook.encode([clusters], [(64,)])
    assert body == b"SHC1\x01\x00" + b"\x01\x01\x40\x00\x00\x00" + b"\x01" + struct.pack("<2f", 1, 2) + (
        b"\xaa" * 8
    )


def test_a_frequent_index_costs_less_than_a_rare_one() -> None:
    dice = np.random.default_rng(0)
    places = np.minimum(dice.geometric(0.6, 4000) - 1, 7).astype(np.uint8)
    body = codebook.encode([Clusters(np.arange(8, dtype=np.float32), places)], [(4000,)])
    assert len(body) < 4000 * 3 / 8 * 0.65


def test_a_tensor_without_clusters_is_written_raw() -> None:
    many = np.arange(64, dtype=np.float32)
    body = codebook.encode([many], [(64,)])
    assert np.array_equal(codebook.decode(body, ONE), many)


def packed(codes: list[float], indices: bytes) -> bytes:
    head = b"SHC1\x01\x00" + b"\x01\x01\x40\x00\x00\x00"
    return head + bytes([len(codes) - 1]) + struct.pack(f"<{len(codes)}f", *codes) + indices


def coded(data: bytes, length: int | None = None) -> bytes:
    head = b"SHC1\x01\x00" + b"\x02\x01\x40\x00\x00\x00" + b"\x01" + struct.pack("<2f", 1, 2)
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = coder.compress(data) + coder.flush()
    return head + struct.pack("<I", len(stream) if length is None else length) + stream


GOOD = b"\xaa" * 8
BAD = {
    "empty": b"",
    "other magic": b"SHC2" + packed([1, 2], GOOD)[4:],
    "other count": b"SHC1\x02\x00" + packed([1, 2], GOOD)[6:],
    "other kind": packed([1, 2], GOOD)[:6] + b"\x09" + packed([1, 2], GOOD)[7:],
    "other shape": packed([1, 2], GOOD)[:8] + b"\x41" + packed([1, 2], GOOD)[9:],
    "2^32 announced": packed([1, 2], GOOD)[:8] + b"\xff\xff\xff\xff" + packed([1, 2], GOOD)[12:],
    "more dimensions": packed([1, 2], GOOD)[:7] + b"\x02" + packed([1, 2], GOOD)[8:],
    "NaN": packed([1, float("nan")], GOOD),
    "infinite": packed([1, float("inf")], GOOD),
    "a scale of 10^7": packed([1, 1e7], GOOD),
    "descending": packed([2, 1], GOOD),
    "twice the same": packed([1, 1], GOOD),
    "index without value": packed([1, 2, 3], b"\xff" * 16),
    "value without index": packed([1, 2], bytes(8)),
    "too short": packed([1, 2], GOOD[:-1]),
    "too long": packed([1, 2], GOOD + b"\x00"),
    "too large a codebook": packed([float(i) for i in range(9)], b"\x10\x32\x54\x76\x08" + bytes(27)),
    "not inflatable": coded(b"")[:-2] + b"\xff\xff",
    "bomb": coded(bytes(10_000_000)),
    "too few indices": coded(bytes([0, 1]) * 31),
    "index out of range": coded(bytes([0, 2]) * 32),
    "length beyond the end": coded(bytes([0, 1]) * 32, length=1 << 31),
    "length short": coded(bytes([0, 1]) * 32, length=2),
    "raw with too many values": b"SHC1\x01\x00" + b"\x00\x01\x40\x00\x00\x00"
    + np.arange(64, dtype="<f4").tobytes(),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_no_correct_peer_writes_is_refused(name: str) -> None:
    with pytest.raises(RemoteViolation):
        codebook.decode(BAD[name], ONE, kappa=8)


def test_bits_after_the_last_index_are_refused() -> None:
    spec = (TensorSpec("w", "float32", (3,)),)
    head = b"SHC1\x01\x00" + b"\x01\x01\x03\x00\x00\x00" + b"\x01" + struct.pack("<2f", 1, 2)
    assert codebook.decode(head + b"\x05", spec).tolist() == [2, 1, 2]
    with pytest.raises(RemoteViolation, match="left over"):
        codebook.decode(head + b"\x15", spec)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteViolation):
        codebook.decode(data, SPECS)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_gives_another_clustered_model(place: int, change: int) -> None:
    body = bytearray(codebook.encode_vector(vector(2), SPECS, 8))
    body[place % len(body)] ^= change
    try:
        found = codebook.decode(bytes(body), SPECS, kappa=8)
    except RemoteViolation:
        return
    assert found.shape == (NUMEL,)
    assert np.unique(found[:1200]).size <= 8
    assert np.abs(found).max() <= codebook.MAX_VALUE
