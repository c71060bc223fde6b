"""Discrete Gaussian noise."""

from hashlib import shake_256
from math import exp

import numpy as np
import pytest

from shoal.crypto.discrete_gaussian import discrete_gaussian


class Seeded:
    """Bytes that follow from a seed."""

    def __init__(self, seed: int) -> None:
        self._seed, self._calls = seed, 0

    def __call__(self, count: int) -> bytes:
        self._calls += 1
        return shake_256(f"{self._seed} {self._calls}".encode()).digest(count)


@pytest.mark.parametrize("sigma", [2.0, 3.7])
def test_every_number_comes_as_often_as_the_paper_says(sigma: float) -> None:
    count = 400_000
    noise = discrete_gaussian(count, sigma, Seeded(1))
    total = sum(exp(-(x**2) / (2 * sigma**2)) for x in range(-100, 101))
    chi = 0.0
    edge = int(3 * sigma)
    for x in range(-edge, edge + 1):
        expected = count * exp(-(x**2) / (2 * sigma**2)) / total
        chi += (np.count_nonzero(noise == x) - expected) ** 2 / expected
    # Of 2 edge + 1 cells; mean 2 edge, standard deviation sqrt(4 edge).
    assert chi < 2 * edge + 5 * (4 * edge) ** 0.5


@pytest.mark.parametrize("sigma", [2.0, 51.3, 1e6, 2.0**40])
def test_its_variance_is_that_of_the_gaussian(sigma: float) -> None:
    noise = discrete_gaussian(200_000, sigma, Seeded(2)).astype(np.float64) / sigma
    assert abs(noise.mean()) < 0.01
    assert abs(noise.var() - 1) < 0.02


def test_two_calls_draw_unlike_noise_from_the_operating_system() -> None:
    assert (discrete_gaussian(64, 1e6) != discrete_gaussian(64, 1e6)).any()


def test_noise_that_is_too_fine_or_too_wide_is_refused() -> None:
    for sigma in (0.0, 1.99, 2.0**41, float("nan")):
        with pytest.raises(ValueError, match="sigma"):
            discrete_gaussian(3, sigma)
    assert discrete_gaussian(0, 5.0).size == 0
