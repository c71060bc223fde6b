"""Discrete Gaussian noise: whole numbers with the chance exp(-x^2 / (2 sigma^2)) each, up to a constant.

Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy, NeurIPS 2020,
https://arxiv.org/abs/2004.00010, algorithm 3: a discrete Laplace number is drawn, and kept with a chance
that makes it Gaussian. On whole numbers, no last bit of a float tells what was below the noise (Mironov, On
Significance of the Least Significant Bits For Differential Privacy, CCS 2012).

What is kept is decided in float64, with 53 random bits a number: chances are right to about 2^-50.

Kairouz, Liu, Steinke, The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation, ICML 2021, https://arxiv.org/abs/2102.06387: a sum of such noise of several members protects
like one of the whole variance, but for tau = 10 sum_k exp(-2 pi^2 sigma^2 k / (k + 1)). From
`LEAST_SIGMA` on that is below 10^-17, less than a float64 tells from nothing beside an epsilon.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from nacl.utils import random

from shoal.crypto.shamir import Entropy

Integers = npt.NDArray[np.int64]
LEAST_SIGMA: Final = 2.0
"""Of each member's noise, below which a sum of several is not taken for a Gaussian."""
MOST_SIGMA: Final = 2.0**40
"""Above which float64 no longer holds the numbers."""
PIECE: Final = 65_536
"""Numbers that are drawn at a time."""


def discrete_gaussian(count: int, sigma: float, entropy: Entropy = random) -> Integers:
    """Return so many whole numbers, int64 [count], of variance about sigma squared.

    `entropy`: the operating system's secure source unless given.

    Raises:
        ValueError: sigma is below `LEAST_SIGMA` or above `MOST_SIGMA`.
    """
    if not LEAST_SIGMA <= sigma <= MOST_SIGMA:
        raise ValueError(f"sigma = {sigma:g} is not from {LEAST_SIGMA:g} to {MOST_SIGMA:g}")
    noise = np.empty(count, np.int64)
    done = 0
    while done < count:
        # About four of five are kept.
        kept = _some(min(PIECE, 64 + (count - done) * 3 // 2), sigma, entropy)[: count - done]
        noise[done : done + kept.size] = kept
        done += kept.size
    return noise


def _some(count: int, sigma: float, entropy: Entropy) -> Integers:
    scale = np.floor(sigma) + 1
    magnitudes = np.floor(-np.log(_lots(count, entropy)) * scale)
    is_negative = np.frombuffer(entropy(count), np.uint8) & 1 == 1
    chances = np.exp(-((magnitudes - sigma**2 / scale) ** 2) / (2 * sigma**2))
    # Zero has no sign: with both it would come twice as often.
    is_kept = (_lots(count, entropy) <= chances) & ~(is_negative & (magnitudes == 0))
    numbers: Integers = magnitudes[is_kept].astype(np.int64)
    numbers[is_negative[is_kept]] *= -1
    return numbers


def _lots(count: int, entropy: Entropy) -> npt.NDArray[np.float64]:
    """Return numbers above 0 and at most 1, float64 [count]."""
    bits = np.frombuffer(entropy(8 * count), np.uint64) >> np.uint64(11)
    return (bits.astype(np.float64) + 1) * 2.0**-53
