"""A check that has never caught anything may be a check of nothing: every invariant catches a planted bug."""

from typing import Final

import pytest
from sim.mutations import MUTATIONS, Mutation
from sim.runs import run_seed

SEEDS: Final = 200
RAISES: Final = "handle never raises"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_bug_can_still_be_planted(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation.plant(monkeypatch)
    violations = run_seed(0, kinds=mutation.kinds).violations
    raised = [each.detail for each in violations if each.invariant == RAISES]
    stale = [each for each in raised if "TypeError:" in each or "AttributeError:" in each]
    assert not stale, "the code that this bug is planted in has changed"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_planted_bug_is_found_within_two_hundred_seeds(
    mutation: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation.plant(monkeypatch)
    found: set[str] = set()
    for seed in range(SEEDS):
        found |= {violation.invariant for violation in run_seed(seed, kinds=mutation.kinds).violations}
        if not found.isdisjoint(mutation.caught_by):
            return
    pytest.fail(f"not caught: {SEEDS} seeds violated {sorted(found) or 'nothing'}")
