"""Grids, packed words and mappings: what is written is read, and what no writer writes is refused."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gossip.errors import RemoteViolation
from shoal.methods.coding.fuse_filter import Bits, build
from shoal.methods.enccluster.grid import Grid, pack_words, unpack_words
from shoal.methods.enccluster.mapping import Form, mapping_bound, read_mapping, write_mapping


@given(st.lists(st.integers(0, (1 << 13) - 1), max_size=50), st.integers(13, 40))
def test_words_are_read_as_they_were_written(words: list[int], bits: int) -> None:
    data = pack_words(np.array(words, np.uint64), bits)
    assert len(data) == -(-len(words) * bits // 8)
    assert unpack_words(data, len(words), bits).tolist() == words


@pytest.mark.parametrize("bad", [b"", b"\xff\xff", b"\x00\x00\x00", b"\x00\x80"])
def test_words_of_another_length_or_with_bits_beyond_are_refused(bad: bytes) -> None:
    with pytest.raises(RemoteViolation):
        unpack_words(bad, 3, 5)


def test_rounding_is_right_on_average_and_never_off_the_grid() -> None:
    grid = Grid(0.5, 6)
    vector = np.linspace(-1, 1, 41).astype(np.float32)
    drawn = np.array([grid.integers(vector, np.random.default_rng(seed)) for seed in range(2000)])
    assert np.abs(drawn).max() == grid.top == 31
    mean = drawn.mean(axis=0) * grid.step
    assert np.abs(mean - np.clip(vector, -0.5, 0.5)).max() < 0.001
    assert grid.clipped(vector) == 20


@pytest.mark.parametrize("form", get_args(Form))
@pytest.mark.parametrize("kappa", [2, 11, 16])
def test_a_mapping_is_read_as_it_was_written_but_for_false_members(form: Form, kappa: int) -> None:
    indices = np.random.default_rng(0).integers(0, kappa, 3000)
    data = write_mapping(indices, kappa, form)
    assert data == write_mapping(indices, kappa, form)
    assert len(data) <= mapping_bound(3000, kappa, form)
    found = read_mapping(data, 3000, kappa, form)
    assert (found <= indices).all()
    wrong = np.count_nonzero(found != indices) / 3000
    assert wrong <= {"packed": 0, "bfuse8": kappa / 256, "bfuse16": 0.01}[form]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_filter_takes_ten_or_twenty_bits_a_weight_and_one_in_2_to_the_bits_others_is_in_it(
    bits: Bits,
) -> None:
    dice = np.random.default_rng(0)
    keys = dice.choice(1 << 40, 10_000, replace=False).astype(np.uint64)
    made = build(keys, bits)
    assert made.fingerprints.tobytes() == build(keys, bits).fingerprints.tobytes()
    assert made.contains(keys).all()
    assert bits * len(made.fingerprints) / 10_000 <= 10 * bits / 8
    others = np.setdiff1d(dice.integers(1 << 40, 1 << 41, 400_000 * bits // 8).astype(np.uint64), keys)
    # Of 16 bits 12 false members are expected; three times their spread is 10.
    assert made.contains(others).mean() == pytest.approx(2.0**-bits, rel=0.2 if bits == 8 else 0.85)


def test_a_filter_of_the_other_width_is_refused() -> None:
    indices = np.zeros(64, np.int64)
    for form, other in (("bfuse8", "bfuse16"), ("bfuse16", "bfuse8")):
        with pytest.raises(RemoteViolation, match="another length"):
            read_mapping(write_mapping(indices, 11, form), 64, 11, other)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", get_args(Form))
def test_a_mapping_that_no_peer_writes_is_refused(form: Form) -> None:
    data = write_mapping(np.zeros(64, np.int64), 11, form)
    for bad in (b"", data[:-1], data + b"\x00", b"\xff" * len(data)):
        with pytest.raises(RemoteViolation):
            read_mapping(bad, 64, 11, form)
