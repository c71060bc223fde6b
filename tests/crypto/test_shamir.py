"""Shamir: any t shares give the secret, and t - 1 say nothing."""

from hashlib import blake2b
from itertools import combinations
from random import Random

import numpy as np
import pytest

from shoal.crypto.errors import BadShare
from shoal.crypto.shamir import join, split

SECRET = bytes(range(32))


@pytest.mark.parametrize(("holders", "threshold"), [(2, 2), (3, 3), (5, 4), (6, 4), (24, 16), (255, 2)])
def test_as_many_shares_as_the_threshold_give_the_secret(holders: int, threshold: int) -> None:
    shares = split(SECRET, holders, threshold)
    for seed in range(5):
        some = Random(seed).sample(range(holders), threshold)
        assert join({holder: shares[holder] for holder in some}, threshold) == SECRET


def test_every_set_of_holders_gives_the_same_secret() -> None:
    shares = split(SECRET, 6, 4)
    assert {join({h: shares[h] for h in some}, 4) for some in combinations(range(6), 4)} == {SECRET}


def test_shares_are_those_of_the_golden_vector() -> None:
    shares = split(SECRET, 5, 3, Random(7).randbytes)
    assert blake2b(b"".join(shares), digest_size=16).hexdigest() == "111b18286dfd65d4b5e9b163c568663f"


def test_the_field_is_that_of_aes() -> None:
    # 0x57 * 0x83 = 0xc1 (FIPS 197, section 4.2): a line through 0 at zero, of slope 0x57, at holder 0x82.
    line = split(b"\x00", 0x83, 2, lambda size: b"\x57" * size)
    assert line[0x82] == b"\xc1"


def test_one_share_too_few_is_uniform_whatever_the_secret_is() -> None:
    # Of 4 of 6, three shares: each byte of them, and each sum of two, is as likely as any other.
    counts = np.zeros((2, 256))
    for row, secret in enumerate((bytes(32), b"\xff" * 32)):
        for seed in range(600):
            shares = split(secret, 6, 4, Random(f"{row} {seed}").randbytes)
            one, other, third = (np.frombuffer(shares[holder], np.uint8) for holder in (0, 2, 5))
            for seen in (one, other, third, one ^ other, one ^ third, one ^ other ^ third):
                counts[row] += np.bincount(seen, minlength=256)
    expected = counts.sum(axis=1, keepdims=True) / 256
    chi_square = ((counts - expected) ** 2 / expected).sum(axis=1)
    # 255 degrees of freedom: above 330 once in a thousand.
    assert np.all(chi_square < 330)


@pytest.mark.parametrize(
    "given",
    [
        {0: b"aa", 1: b"bb"},
        {0: b"aa", 1: b"bb", 2: b"c"},
        {-1: b"aa", 1: b"bb", 2: b"cc"},
        {255: b"aa", 1: b"bb", 2: b"cc"},
    ],
)
def test_what_is_no_set_of_shares_is_refused(given: dict[int, bytes]) -> None:
    with pytest.raises(BadShare):
        join(given, 3)


@pytest.mark.parametrize(("holders", "threshold"), [(1, 1), (3, 1), (3, 4), (256, 3)])
def test_what_is_no_rule_is_refused(holders: int, threshold: int) -> None:
    with pytest.raises(BadShare):
        split(SECRET, holders, threshold)
