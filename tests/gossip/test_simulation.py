"""Whole nodes in virtual time: what must hold in every run holds, whatever fails and whoever lies."""

import pytest
from sim_runs import run_seed


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_every_invariant_holds_whatever_fails(first: int) -> None:
    broken = {
        seed: result.violations for seed in range(first, first + 10) if (result := run_seed(seed)).violations
    }
    assert broken == {}


def test_the_same_seed_gives_the_same_trace() -> None:
    assert [run_seed(seed).trace for seed in (3, 4)] == [run_seed(seed).trace for seed in (3, 4)]


def test_other_seeds_give_other_traces() -> None:
    assert len({run_seed(seed).trace for seed in range(5)}) == 5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_seeds_show_no_violation() -> None:
    assert [seed for seed in range(1000, 2000) if run_seed(seed).violations] == []
