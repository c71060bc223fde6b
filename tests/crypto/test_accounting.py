"""Accounting of noisy releases."""

import importlib
import math

import numpy as np
import pytest

from shoal.crypto.accounting import Release, _cost, classic_epsilon_of, epsilon_of

PUBLISHED = [
    # noise multiplier, epochs, epsilon at delta = 1e-5: of 60,000 examples 256 a step.
    # tensorflow/privacy, tutorials/README.md, table "Select Parameters" (commit 047e1ee).
    (1.12, 60, 2.92),
    (0.6, 30, 9.74),
    (1.2, 10, 1.20),
]
DP_ACCOUNTING = [
    # noise multiplier, sampling, releases, epsilon at delta = 1e-5 by dp-accounting 0.6.0's RdpAccountant.
    (1.1, 256 / 60_000, 14_062, 2.5965558697943036),
    (1.3, 256 / 60_000, 3_515, 0.9544295087299243),
    (0.7, 256 / 60_000, 10_546, 6.3194644981868615),
    (1.0, 1.0, 1, 4.728507067217623),
    (4.0, 1.0, 100, 14.132226163159334),
    (10.0, 1.0, 50, 3.1889915626335883),
]


def release(noise: float, sampling: float, count: int) -> list[Release]:
    return [Release(noise_multiplier=noise, sampling=sampling, count=count)]


@pytest.mark.parametrize(("noise", "epochs", "epsilon"), PUBLISHED)
def test_three_published_settings_are_reproduced_to_one_percent(
    noise: float, epochs: int, epsilon: float
) -> None:
    # They are from before 2020, and so is the conversion.
    found = classic_epsilon_of(release(noise, 256 / 60_000, epochs * 60_000 // 256), 1e-5)
    assert found == pytest.approx(epsilon, rel=0.01)
    assert epsilon_of(release(noise, 256 / 60_000, epochs * 60_000 // 256), 1e-5) < found


@pytest.mark.parametrize(("noise", "sampling", "count", "epsilon"), DP_ACCOUNTING)
def test_epsilon_is_that_of_dp_accounting(noise: float, sampling: float, count: int, epsilon: float) -> None:
    assert epsilon_of(release(noise, sampling, count), 1e-5) == pytest.approx(epsilon, rel=1e-3)


@pytest.mark.parametrize("noise", [0.8, 1.0, 2.0, 6.0])
@pytest.mark.parametrize("sampling", [0.001, 0.02, 1.0])
def test_epsilon_is_that_of_dp_accounting_where_it_is_installed(noise: float, sampling: float) -> None:
    # Much larger chances are left out: there the library drops orders whose series it cuts off too early.
    library = pytest.importorskip("dp_accounting")
    accountant = importlib.import_module("dp_accounting.rdp").RdpAccountant()
    event = library.PoissonSampledDpEvent(sampling, library.GaussianDpEvent(noise))
    accountant.compose(event, 100)
    expected = accountant.get_epsilon(1e-5)
    assert epsilon_of(release(noise, sampling, 100), 1e-5) == pytest.approx(expected, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize(("noise", "sampling"), [(0.5, 0.3), (2.0, 0.6), (1.1, 0.004)])
@pytest.mark.parametrize("order", [1.1, 1.9, 2.0, 3.5, 8.0])
def test_the_cost_of_an_order_is_the_integral_that_defines_it(
    noise: float, sampling: float, order: float
) -> None:
    x = np.linspace(-60, 60, 400_001)
    without = -x * x / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
    ratio = np.logaddexp(math.log1p(-sampling), math.log(sampling) + (2 * x - 1) / (2 * noise**2))
    terms = without + order * ratio
    integral = math.log(np.exp(terms - terms.max()).sum() * (x[1] - x[0])) + terms.max()
    assert _cost(order, noise, sampling) == pytest.approx(integral / (order - 1), rel=1e-5, abs=1e-9)


def test_a_sum_of_gaussians_costs_what_the_closed_form_says() -> None:
    # Canonne and others, proposition 12, at the best of many orders: a fine grid of them is a little better.
    noise, count, delta = 2.0, 10, 1e-6
    finest = min(
        order * count / (2 * noise**2) + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        for order in (1 + step / 1000 for step in range(10, 100_000))
    )
    assert finest <= epsilon_of(release(noise, 1.0, count), delta) < finest * 1.01


def test_epsilon_grows_with_releases_and_falls_with_noise_and_sampling() -> None:
    base = epsilon_of(release(1.0, 0.1, 10), 1e-5)
    assert epsilon_of(release(1.0, 0.1, 11), 1e-5) > base
    assert epsilon_of(release(1.1, 0.1, 10), 1e-5) < base
    assert epsilon_of(release(1.0, 0.09, 10), 1e-5) < base
    assert epsilon_of([*release(1.0, 0.1, 4), *release(1.0, 0.1, 6)], 1e-5) == pytest.approx(base)
    assert epsilon_of([], 1e-5) == 0


def test_a_delta_that_is_none_is_refused() -> None:
    for delta in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="delta"):
            epsilon_of([], delta)
