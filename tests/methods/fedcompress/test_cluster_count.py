"""Kappa: it waits, grows by one where progress stands still, and never falls."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.methods.fedcompress.cluster_count import KappaConfig, Progress, advance

PAPER = KappaConfig(kappa_max=30)
# Accuracy and effective rank of a round, and kappa after it, by hand with the defaults: patience 4, window
# 3, limit 0.01. At kappa 8 standing still is to gain <= 0.01 and <= 0.1; at 9, <= 0.005 and <= 0.05.
HISTORY = (
    (0.50, 10.0, 8),
    (0.50, 10.0, 8),
    (0.50, 10.0, 8),  # Three rounds: patience.
    (0.50, 10.0, 9),  # The fourth.
    (0.80, 10.0, 9),
    (0.80, 10.0, 9),
    (0.80, 10.0, 9),
    (0.80, 10.0, 10),  # Four rounds at 9, and the means of the last three and of those before are alike.
    (0.80, 10.0, 10),
    (0.80, 10.0, 10),
    (0.80, 10.0, 10),
    (0.90, 10.0, 10),  # Patience is over, but accuracy rose by 0.1/3.
    (0.90, 10.0, 10),
    (0.90, 14.0, 10),  # Now the rank rises by 4/3,
    (0.90, 14.0, 10),
    (0.90, 14.0, 10),  # for three rounds,
    (0.90, 14.0, 11),  # and then no more.
)


def test_the_rule_follows_a_history_made_by_hand() -> None:
    progress, config, kappas = Progress(8), PAPER, []
    for accuracy, rank, _ in HISTORY:
        progress = advance(progress, Fraction(accuracy).limit_denominator(100), rank, config)
        kappas.append(progress.kappa)
    assert kappas == [kappa for _, _, kappa in HISTORY]


def test_it_never_exceeds_its_bound() -> None:
    progress, config = Progress(8), PAPER
    for _ in range(200):
        progress = advance(progress, Fraction(1, 2), 3.0, config)
    assert progress.kappa == 30


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 64_0000)), max_size=60))
def test_it_never_falls_and_moves_by_one_after_patience(told: list[tuple[int, int]]) -> None:
    progress, config, since = Progress(8), PAPER, 0
    for right, rank in told:
        after = advance(progress, Fraction(right, 100), rank / 10_000, config)
        since += 1
        assert after.kappa - progress.kappa in (0, 1)
        if after.kappa > progress.kappa:
            assert since >= config.patience
            since = 0
        progress = after


def test_the_bar_rises_with_kappa() -> None:
    def grows(kappa: int) -> bool:
        before = Progress(kappa, 4, (500_000, 500_000, 500_000), (10_000, 10_000, 10_000))
        return advance(before, Fraction(509, 1000), 1.0, PAPER).kappa > kappa

    # 0.009 in one round is 0.003 in the means: under 0.01/2 at kappa 9, over 0.01/20 at kappa 18.
    assert [grows(kappa) for kappa in (8, 9, 18)] == [True, True, False]


@pytest.mark.parametrize("window", [1, 3, 5])
def test_progress_survives_the_shared_state(window: int) -> None:
    progress = Progress(9, 3, (999_999, 1_000_000)[:window], (538_935, 640_000)[:window])
    vector = progress.write(window)
    assert vector.dtype == np.float32
    assert Progress.read(vector, window) == progress


def test_warm_up_holds_the_first_growth_alone() -> None:
    config = KappaConfig(kappa_max=30, patience=1, warmup=6)
    progress, kappas = Progress(8), []
    for _ in range(9):
        progress = advance(progress, Fraction(1, 2), 1.0, config)
        kappas.append(progress.kappa)
    assert kappas == [8, 8, 8, 8, 8, 9, 10, 11, 12]


@pytest.mark.parametrize(
    ("options", "small", "large", "is_adaptive"),
    [
        ({}, 6, 8, False),
        ({"kappa_max": 30}, 8, 8, True),
        ({"kappa_max": 8}, 8, 8, False),
        ({"kappa_max": 4}, 4, 4, False),
        ({"kappa_min": 16}, 16, 16, False),
        ({"kappa_min": 4, "kappa_max": 30}, 4, 4, True),
        ({"kappa_min": 12, "kappa_max": 12}, 12, 12, False),
    ],
)
def test_kappa_begins_by_the_options_or_else_by_the_size_of_the_model(
    options: dict[str, int], small: int, large: int, is_adaptive: bool
) -> None:
    config = KappaConfig(**options)
    assert (config.first(4810), config.first(37_610), config.is_adaptive) == (small, large, is_adaptive)
