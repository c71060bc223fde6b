"""Fuse filters: every member is in, few others are, and what a peer announces is checked first."""

import subprocess
import sys
from hashlib import blake2b

import numpy as np
import pytest

from shoal.gossip.errors import RemoteViolation
from shoal.methods.coding.fuse_filter import Keys, build, check_geometry, largest_array

KNOWN = "431f007c00c300000000000000000000"

PRINT_DIGEST = """
import numpy as np
from hashlib import blake2b
from shoal.methods.coding.fuse_filter import build
keys = np.random.default_rng(7).choice(1_000_000, 10_000, replace=False).astype(np.uint64)
print(blake2b(build(keys).fingerprints.tobytes()).hexdigest())
"""


def some_keys(count: int, seed: int = 0) -> Keys:
    return np.random.default_rng(seed).choice(100 * count, count, replace=False).astype(np.uint64)


@pytest.mark.parametrize("count", [1, 2, 3, 1_000, 100_000])
def test_every_member_is_in(count: int) -> None:
    keys = some_keys(count)
    assert build(keys).contains(keys).all()


@pytest.mark.parametrize("count", [1_000, 100_000])
def test_one_in_256_others_seems_to_be_in(count: int) -> None:
    keys = some_keys(count)
    others = np.setdiff1d(np.arange(200_000, dtype=np.uint64), keys)
    share = build(keys).contains(others).mean()
    assert 0.8 / 256 < share < 1.2 / 256


@pytest.mark.parametrize(("count", "bits"), [(100, 13.5), (1_000, 11.1), (10_000, 9.9), (100_000, 9.1)])
def test_a_large_filter_has_about_nine_bits_per_member(count: int, bits: float) -> None:
    assert 8 * build(some_keys(count)).fingerprints.size / count <= bits


def test_what_comes_twice_is_in_once_and_order_is_no_matter() -> None:
    keys = some_keys(500)
    twice = np.concatenate([keys[::-1], keys])
    assert build(twice).fingerprints.tobytes() == build(keys).fingerprints.tobytes()


def test_two_processes_build_the_same_bytes() -> None:
    keys = np.random.default_rng(7).choice(1_000_000, 10_000, replace=False).astype(np.uint64)
    ours = blake2b(build(keys).fingerprints.tobytes()).hexdigest()
    theirs = subprocess.run([sys.executable, "-c", PRINT_DIGEST], capture_output=True, text=True, check=True)
    assert theirs.stdout.strip() == ours


def test_the_bytes_of_a_known_set_are_known() -> None:
    built = build(np.array([3, 141, 59, 2653], np.uint64))
    assert (built.seed, built.segment_length, built.segment_count) == (0, 4, 1)
    assert built.fingerprints.tobytes().hex() == KNOWN


def test_a_big_set_built_twice_is_the_same() -> None:
    keys = some_keys(100_000, seed=3)
    assert build(keys).fingerprints.tobytes() == build(keys.copy()).fingerprints.tobytes()


def test_an_empty_set_has_no_filter() -> None:
    with pytest.raises(ValueError, match="empty"):
        build(np.array([], np.uint64))


@pytest.mark.parametrize("count", [1, 7, 300, 50_000])
def test_what_we_build_is_what_a_reader_allows(count: int) -> None:
    built = build(some_keys(count))
    length = check_geometry(built.seed, built.segment_length, built.segment_count, count)
    assert length == built.fingerprints.size <= largest_array(count)


@pytest.mark.parametrize(
    ("seed", "segment_length", "segment_count", "members"),
    [
        (0, 4, 1 << 40, 10),
        (0, 1 << 40, 1, 1 << 40),
        (0, 3, 1, 10),
        (0, 0, 1, 10),
        (0, 4, 0, 10),
        (256, 4, 1, 10),
        (-1, 4, 1, 10),
    ],
)
def test_an_announced_filter_of_no_known_form_is_refused(
    seed: int, segment_length: int, segment_count: int, members: int
) -> None:
    with pytest.raises(RemoteViolation):
        check_geometry(seed, segment_length, segment_count, members)
