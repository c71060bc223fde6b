"""Integer grid: numbers as fields of words that add up without a carry."""

import numpy as np
import pytest

from shoal.crypto.keystream import Keystream
from shoal.gossip.averaging.secure.integer_grid import MAX_FACTOR, PIECE, Grid, factors_of

LOTS = Keystream(b"integer grid" + bytes(20))


@pytest.mark.parametrize("bits", [2, 6, 8, 20])
@pytest.mark.parametrize("factors", [(1, 1, 1), (16, 3, 1, 7), (1,) * 24, (16,) * 64])
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_the_mean_of_a_sum_is_that_of_the_numbers_to_a_step(
    bits: int, factors: tuple[int, ...], count: int
) -> None:
    dice = np.random.default_rng(bits)
    grid = Grid(count, 0.5, bits, sum(factors))
    given = [dice.uniform(-0.5, 0.5, count).astype(np.float32) for _ in factors]
    words = np.zeros(grid.n_words, np.uint64)
    for numbers, factor in zip(given, factors, strict=True):
        words += grid.encode(numbers, factor, LOTS)
    mean = np.empty(count, np.float32)
    assert grid.decode(words, 0, sum(factors), mean)
    exact = np.average(np.array(given, np.float64), axis=0, weights=factors)
    assert np.abs(mean - exact).max() <= grid.step * 1.001 + 1e-6


def test_both_ends_of_the_range_and_what_is_beyond_stay_in_it() -> None:
    numbers = np.array([-1, 1, -9, 9, 0], np.float32)
    grid, mean = Grid(5, 1.0, 8, 3), np.empty(5, np.float32)
    words = grid.encode(numbers, 3, LOTS)
    assert grid.decode(words, 0, 3, mean)
    assert mean[:4].tolist() == [-1, 1, -1, 1]


def test_rounding_has_no_bias() -> None:
    grid = Grid(100_000, 1.0, 4, 1)
    mean = np.empty(100_000, np.float32)
    assert grid.decode(grid.encode(np.full(100_000, 0.3, np.float32), 1, LOTS), 0, 1, mean)
    assert abs(float(mean.mean()) - 0.3) < 1e-3
    assert len(np.unique(mean)) == 2


def test_random_words_are_outside_the_range() -> None:
    grid = Grid(1000, 1.0, 6, 5)
    words = np.random.default_rng(0).integers(0, 1 << 63, grid.n_words, dtype=np.uint64)
    assert not grid.decode(words, 0, 5, np.empty(1000, np.float32))


def test_a_part_of_the_words_is_decoded_where_it_stands() -> None:
    dice, grid = np.random.default_rng(0), Grid(100, 1.0, 8, 2)
    words = grid.encode(dice.uniform(-1, 1, 100).astype(np.float32), 2, LOTS)
    whole, pieces = np.empty(100, np.float32), np.empty(100, np.float32)
    assert grid.decode(words, 0, 2, whole)
    for lo in range(0, grid.n_words, 3):
        assert grid.decode(words[lo : lo + 3], lo, 2, pieces)
    assert np.array_equal(whole, pieces)


def test_numbers_that_are_all_zero_stay_so() -> None:
    grid, mean = Grid(10, 0.0, 8, 3), np.empty(10, np.float32)
    assert grid.decode(grid.encode(np.zeros(10, np.float32), 1, LOTS), 0, 3, mean)
    assert not mean.any()


def test_a_million_numbers_of_eight_take_nine_bits_each() -> None:
    assert Grid(1_000_000, 1.0, 6, 8).n_words * 64 / 1_000_000 < 9.2


def test_factors_follow_the_weights() -> None:
    assert factors_of([5.0, 5.0, 5.0]) == (1, 1, 1)
    assert factors_of([2.0, 1.0, 0.0]) == (2, 1, 0)
    assert factors_of([1.0, 1e-9]) == (MAX_FACTOR, 1)


def test_what_numbers_are_measured_from_is_taken_off_also_over_several_pieces() -> None:
    count, dice = 3 * PIECE + 5, np.random.default_rng(0)
    base = dice.normal(size=count).astype(np.float32)
    change = dice.uniform(-1, 1, count).astype(np.float32)
    grid, mean = Grid(count, 1.0, 8, 40), np.empty(count, np.float32)
    words = grid.encode(base + change, 1, LOTS, base)
    assert grid.decode(words, 0, 1, mean)
    assert np.abs(mean - change).max() <= grid.step * 1.01


@pytest.mark.parametrize("bits", [6, 20])
def test_a_sum_one_above_the_range_is_refused_and_the_highest_one_is_not(bits: int) -> None:
    # Looked up in a table, and computed.
    grid, mean = Grid(1, 1.0, bits, 3), np.empty(1, np.float32)
    most = 3 * ((1 << bits) - 1)
    assert grid.decode(np.array([most], np.uint64), 0, 3, mean)
    assert mean[0] == 1
    assert not grid.decode(np.array([most + 1], np.uint64), 0, 3, mean)
