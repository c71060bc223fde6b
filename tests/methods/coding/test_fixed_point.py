"""Fixed point: means that do not depend on the order, and liars that are held."""

import numpy as np
import pytest

from shoal.gossip.events import Vector
from shoal.methods.coding.fixed_point import shares, weighted_mean


def vectors(count: int) -> list[Vector]:
    dice = np.random.default_rng(count)
    return [dice.standard_normal(100).astype(np.float32) for _ in range(count)]


def test_the_mean_is_right_to_the_resolution() -> None:
    given, weights = vectors(5), [1, 7, 3, 100, 2]
    expected = np.average(np.array(given, np.float64), axis=0, weights=weights)
    assert weighted_mean(given, weights) == pytest.approx(expected, abs=2**-23)


def test_the_order_changes_no_bit() -> None:
    given, weights = vectors(7), [3, 1, 4, 1, 5, 9, 2]
    forth, back = weighted_mean(given, weights), weighted_mean(given[::-1], weights[::-1])
    assert forth.tobytes() == back.tobytes()


def test_equal_vectors_are_their_own_mean() -> None:
    (one,) = vectors(1)
    rounded = np.ldexp(np.rint(np.ldexp(one, 12)), -12)
    assert np.array_equal(weighted_mean([rounded] * 3, [1, 1, 1]), rounded)


def test_no_weights_are_equal_weights() -> None:
    assert shares([0, 0]) == [1, 1]


def test_the_largest_numbers_and_weights_do_not_overflow() -> None:
    huge = [np.full(3, 2.0**21, np.float32)] * 4
    assert weighted_mean(huge, [1 << 40] * 4) == pytest.approx(2.0**21)
    assert sum(shares([1 << 50, 1 << 51, 1])) <= 1 << 17
