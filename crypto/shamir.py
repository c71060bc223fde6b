"""Shamir: a secret in n shares, of which any t give it back and any t - 1 say nothing.

Every byte of the secret is the value at zero of its own random polynomial of degree t - 1 over GF(2^8), the
field of AES. The share of holder h, counted from 0, is the value at h + 1.
Shamir, How to Share a Secret (1979). Shares are not proved: whoever joins them checks what comes of it.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from nacl.utils import random

from shoal.crypto.errors import BadShare

Entropy = Callable[[int], bytes]
"""Returns so many bytes that nobody can guess."""
MAX_HOLDERS: Final = 255
_Bytes = npt.NDArray[np.uint8]
_Logs = npt.NDArray[np.int64] | np.int64


def _tables() -> tuple[_Bytes, npt.NDArray[np.int64]]:
    powers, logs, value = np.zeros(512, np.uint8), np.zeros(256, np.int64), 1
    for power in range(255):
        powers[power] = powers[power + 255] = value
        logs[value] = power
        # Times x + 1, which generates the group.
        value ^= (value << 1) ^ (0x11B if value & 0x80 else 0)
    return powers, logs


_POWERS, _LOGS = _tables()


def split(secret: bytes, holders: int, threshold: int, entropy: Entropy = random) -> tuple[bytes, ...]:
    """Return one share for each holder, as long as the secret.

    Raises:
        BadShare: not 2 <= threshold <= holders <= 255.
    """
    if not 2 <= threshold <= holders <= MAX_HOLDERS:
        raise BadShare(
            f"a secret is shared with 2 to 255 holders, any {threshold} of {holders} is no such rule"
        )
    drawn = np.frombuffer(entropy((threshold - 1) * len(secret)), np.uint8)
    coefficients = drawn.reshape(threshold - 1, len(secret))
    # By Horner's rule, at the points of all holders at once: row h is the share of holder h.
    logs = _LOGS[np.arange(1, holders + 1)][:, None]
    values = np.zeros((holders, len(secret)), np.uint8)
    for row in coefficients[::-1]:
        values = _times(values ^ row, logs)
    values ^= np.frombuffer(secret, np.uint8)
    return tuple(value.tobytes() for value in values)


def join(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret of shares by holder, counted from 0; of more than `threshold` the first are taken.

    Raises:
        BadShare: fewer than the threshold, of unlike lengths, or of no such holder.
    """
    if len(shares) < threshold or threshold < 2:
        raise BadShare(f"{len(shares)} of at least {threshold} shares")
    holders = sorted(shares)[:threshold]
    if (
        len({len(shares[holder]) for holder in holders}) != 1
        or not 0 <= holders[0] <= holders[-1] < MAX_HOLDERS
    ):
        raise BadShare("shares of unlike lengths, or of no such holder")
    secret = np.zeros(len(shares[holders[0]]), np.uint8)
    for holder in holders:
        weight = _at_zero(holder + 1, [other + 1 for other in holders if other != holder])
        secret ^= _times(np.frombuffer(shares[holder], np.uint8), _LOGS[weight])
    return secret.tobytes()


def _at_zero(x: int, others: list[int]) -> int:
    """Return the value at zero of the polynomial that is 1 at `x` and 0 at the others."""
    power = sum(int(_LOGS[other]) - int(_LOGS[other ^ x]) for other in others) % 255
    return int(_POWERS[power])


def _times(values: _Bytes, logs: _Logs) -> _Bytes:
    """Return the products of values and of factors that are not zero, of which the logarithms are given."""
    products: _Bytes = _POWERS[_LOGS[values] + logs]
    products[values == 0] = 0
    return products
