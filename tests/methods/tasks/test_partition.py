"""Private shares of labelled examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.methods.errors import BadOption
from shoal.methods.tasks.partition import dirichlet, parse_share

LABELS = np.repeat(np.arange(10), 60)


@given(st.integers(1, 30), st.floats(0.01, 100), st.integers(0, 5))
def test_every_example_is_in_exactly_one_share_of_at_least_the_minimum(
    peers: int, alpha: float, seed: int
) -> None:
    shares = dirichlet(LABELS, peers, alpha=alpha, seed=seed, minimum=16)
    assert sorted(np.concatenate(shares).tolist()) == list(range(600))
    assert min(map(len, shares)) >= 16


def test_everyone_computes_the_same_split_from_the_seed() -> None:
    one, two = (dirichlet(LABELS, 5, alpha=0.1, seed=3) for _ in range(2))
    other = dirichlet(LABELS, 5, alpha=0.1, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_small_alpha_gives_few_labels_and_a_large_one_all() -> None:
    def labels_for_most(alpha: float) -> float:
        """How many labels make up nine tenths of a share, on average."""
        shares = [s for seed in range(5) for s in dirichlet(LABELS, 5, alpha=alpha, seed=seed)]
        counts = [np.sort(np.bincount(LABELS[s], minlength=10))[::-1].cumsum() / len(s) for s in shares]
        return float(np.mean([np.searchsorted(c, 0.9) + 1 for c in counts]))

    assert labels_for_most(0.1) < 5
    assert labels_for_most(100) > 8


def test_shares_count_from_one() -> None:
    assert parse_share("1/1") == (0, 1)
    assert parse_share("2/5") == (1, 5)


@pytest.mark.parametrize("text", ["", "0/5", "6/5", "a/b", "1", "1/", "-1/5", "1/99999", "1.0/5", "²/5"])
def test_a_share_that_makes_no_sense_says_how_to_write_one(text: str) -> None:
    with pytest.raises(BadOption, match="from 1/5 to 5/5"):
        parse_share(text)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_positive(alpha: float) -> None:
    with pytest.raises(BadOption, match="alpha"):
        dirichlet(LABELS, 5, alpha=alpha, seed=0)


def test_too_many_peers_are_refused() -> None:
    with pytest.raises(BadOption, match="600 examples are too few for 38 shares of at least 16"):
        dirichlet(LABELS, 38, alpha=1, seed=0)
