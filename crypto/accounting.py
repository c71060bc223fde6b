"""Accounting: what a list of noisy releases gives away, as an epsilon for a delta.

Rényi differential privacy (RDP) of the Gaussian mechanism, with and without Poisson sampling, added up over
releases and turned into (epsilon, delta):

    Mironov, Rényi Differential Privacy, CSF 2017, https://arxiv.org/abs/1702.07476: proposition 1 (sums),
        proposition 7 (Gaussian)
    Mironov, Talwar, Zhang, Rényi Differential Privacy of the Sampled Gaussian Mechanism, 2019,
        https://arxiv.org/abs/1908.10530: section 3.3
    Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy, NeurIPS 2020,
        https://arxiv.org/abs/2004.00010: proposition 12 (conversion), theorem 4 (discrete Gaussian noise)

Sensitivity is that of being there or not: with the data, or with nothing in its place. Discrete Gaussian
noise on whole numbers costs at most what the Gaussian of the same multiplier does.

Plain floats and `math` alone, so that the daemon can tell its epsilon at any time. A test compares it with
dp-accounting where that is installed, and with published figures.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Final

import msgspec

ORDERS: Final[tuple[float, ...]] = (
    *(1 + tenths / 10 for tenths in range(1, 100)),
    *map(float, range(11, 64)),
    *(128.0, 256.0, 512.0, 1024.0),
)
"""Rényi orders at which releases are added up; those of dp-accounting."""
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Releases of one kind: each of a sum with Gaussian noise."""

    noise_multiplier: Positive
    """Standard deviation of the noise over the largest norm of one contribution."""
    sampling: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """The chance with which a contribution is in a release; 1: always."""
    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How many."""


def epsilon_of(releases: Iterable[Release], delta: float) -> float:
    """Return epsilon of all releases together, for a delta above 0 and below 1.

    Raises:
        ValueError: no such delta.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta = {delta:g} is not above 0 and below 1")
    totals = [0.0] * len(ORDERS)
    for release in releases:
        costs = _costs(release.noise_multiplier, release.sampling)
        totals = [total + release.count * cost for total, cost in zip(totals, costs, strict=True)]
    return min(_converted(order, cost, delta) for order, cost in zip(ORDERS, totals, strict=True))


def classic_epsilon_of(releases: Sequence[Release], delta: float) -> float:
    """Return epsilon by Mironov's own conversion (proposition 3), as publications before 2020 have it."""
    totals = [
        sum(each.count * _costs(each.noise_multiplier, each.sampling)[at] for each in releases)
        for at in range(len(ORDERS))
    ]
    return min(cost - math.log(delta) / (order - 1) for order, cost in zip(ORDERS, totals, strict=True))


def _converted(order: float, cost: float, delta: float) -> float:
    """Return the epsilon of one order: Canonne and others, proposition 12."""
    if delta**2 + math.expm1(-cost) > 0:
        # So little that delta alone covers it.
        return 0.0
    found = cost + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
    return max(0.0, found)


@lru_cache(maxsize=64)
def _costs(noise: float, sampling: float) -> tuple[float, ...]:
    return tuple(_cost(order, noise, sampling) for order in ORDERS)


def _cost(order: float, noise: float, sampling: float) -> float:
    """Return the Rényi divergence of one release at an order."""
    if sampling == 1:
        return order / (2 * noise**2)
    moment = _whole_moment if order.is_integer() else _moment
    return max(0.0, moment(order, noise, sampling) / (order - 1))


def _whole_moment(order: float, noise: float, sampling: float) -> float:
    terms = [
        _log_binomial(order, k)
        + k * math.log(sampling)
        + (order - k) * math.log1p(-sampling)
        + (k * k - k) / (2 * noise**2)
        for k in range(int(order) + 1)
    ]
    return _log_sum(terms)


def _moment(order: float, noise: float, sampling: float) -> float:
    """Return the logarithm of the moment of a fractional order: both halves of the integral as series."""
    edge = noise**2 * math.log(1 / sampling - 1) + 0.5
    here, there, width = math.log(sampling), math.log1p(-sampling), math.sqrt(2) * noise
    # Of the terms with a plus and of those with a minus: the logarithm of their sum.
    sums, k = [-math.inf, -math.inf], 0
    while True:
        is_minus = k > order and bool((k - math.ceil(order)) % 2)
        binomial, rest = _log_binomial(order, k), order - k
        low = k * here + rest * there + (k * k - k) / (2 * noise**2)
        high = rest * here + k * there + (rest * rest - rest) / (2 * noise**2)
        low += binomial + _log_half_erfc((k - edge) / width)
        high += binomial + _log_half_erfc((edge - rest) / width)
        sums[is_minus] = _log_sum([sums[is_minus], low, high])
        k += 1
        # Terms fall from here on, and with changing signs each bounds what is left.
        if k > order + 1 and max(low, high) < sums[0] - 35:
            break
    total, taken = sums
    return total + math.log1p(-math.exp(taken - total)) if taken > -math.inf else total


def _log_binomial(order: float, k: int) -> float:
    return math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)


def _log_half_erfc(x: float) -> float:
    if x < 25:
        return math.log(math.erfc(x) / 2)
    # Below the smallest float: its asymptotic series.
    return -x * x - math.log(2 * x * math.sqrt(math.pi)) - 1 / (2 * x * x)


def _log_sum(logs: Sequence[float]) -> float:
    if not logs:
        return -math.inf
    top = max(logs)
    return top if top == -math.inf else top + math.log(sum(math.exp(each - top) for each in logs))
