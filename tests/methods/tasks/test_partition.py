"""Private shares of labelled examples."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from shoal.methods.errors import BadOption
from shoal.methods.tasks.digits import load_split
from shoal.methods.tasks.partition import dirichlet, parse_share, stratified_split

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


@given(st.lists(st.integers(2, 40), min_size=1, max_size=9), st.floats(0.2, 0.5), st.integers(0, 99))
def test_a_stratified_split_is_that_of_scikit_learn(counts: list[int], share: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)[np.random.default_rng(seed).permutation(sum(counts))]
    if np.ceil(share * len(labels)) < len(counts):
        return  # scikit-learn refuses
    theirs = train_test_split(np.arange(len(labels)), test_size=share, random_state=seed, stratify=labels)
    ours = stratified_split(labels, share, seed=seed)
    assert [part.tolist() for part in ours] == [part.tolist() for part in theirs]


def test_the_digits_are_those_of_scikit_learn() -> None:
    x, y = load_digits(return_X_y=True)
    theirs = train_test_split(x / 16, y, test_size=0.25, random_state=0, stratify=y)
    for our, their in zip(load_split(), theirs, strict=True):
        np.testing.assert_array_equal(our, their)


def test_a_node_that_trains_on_digits_loads_no_scikit_learn() -> None:
    code = (
        "import sys; from shoal.methods.tasks.digits import Digits\n"
        "Digits(share='1/2', validation=0.2); print({'sklearn', 'scipy'} & sys.modules.keys() or 'neither')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "neither\n"
