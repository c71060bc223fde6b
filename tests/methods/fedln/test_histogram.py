"""Histograms: percentiles of everyone's scores, in any order of merging."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gossip.errors import RemoteViolation
from shoal.methods.fedln.histogram import BINS, MAX_COUNT, Range, merge, pack, unpack

ENERGIES = Range(0.0, 32.0)


@pytest.mark.parametrize("percent", [1, 50, 75, 99])
def test_the_percentile_of_merged_counts_is_that_of_pooled_scores_within_a_bin(percent: float) -> None:
    dice = np.random.default_rng(0)
    parts = [dice.gamma(shape, 2.0, 60 * shape).astype(np.float32) for shape in (1, 2, 3, 4)]
    counts = [ENERGIES.count(part) for part in parts]
    pooled = float(np.percentile(np.concatenate(parts), percent))
    found = {
        ENERGIES.percentile(merge(list(order), 10**6), percent) for order in itertools.permutations(counts)
    }
    assert len(found) == 1
    assert found.pop() == pytest.approx(pooled, abs=ENERGIES.width)


def test_what_lies_outside_counts_at_the_ends() -> None:
    counts = ENERGIES.count(np.array([-5, 0, 31.9, 99], np.float32))
    assert (counts[0], counts[-1], counts.sum()) == (2, 2, 4)


def test_nobody_counts_more_than_allowed() -> None:
    liar, honest = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    liar[63], honest[0] = 10_000, 100
    merged = merge([liar, honest], 300)
    assert (merged[0], merged[63]) == (100, 300)


def test_who_has_one_example_too_many_loses_one_and_no_more() -> None:
    counts = np.ones(BINS, np.int64)
    merged = merge([counts], BINS - 1)
    assert merged.sum() == BINS - 1
    assert np.abs(merged - counts).sum() == 1


def test_counts_travel_exactly() -> None:
    counts = np.arange(BINS)
    assert np.array_equal(unpack(pack(counts)), counts)


@given(st.binary(max_size=4 * BINS + 4).filter(lambda body: len(body) != 4 * BINS))
def test_a_histogram_of_another_size_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteViolation, match="another size"):
        unpack(body)


def test_a_count_without_bounds_is_refused() -> None:
    body = np.full(BINS, MAX_COUNT + 1, "<u4").tobytes()
    with pytest.raises(RemoteViolation, match="too large"):
        unpack(body)
