"""Every role with every fault at every step, in virtual time: what the others hold, what it costs them."""

import logging
from functools import cache
from typing import Final

import pytest
from sim.pairs import AFTER, FAULTS, ROLES, ROUND, Pair, Seen

import shoal.gossip.state.tree_hash
from shoal.gossip.averaging.all_reduce import OWNER_GRACE

SEEDS: Final = range(6)
"""As many as it takes that a pair that fails in some runs fails in one of these."""
GRACE: Final = 1.25
"""Seconds beyond a deadline: one looks every half second, for the owner and then for its part; and what all
announce goes over the slow line first."""
PAIRS: Final = [(role, fault) for role in ROLES for fault in FAULTS]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    # So that a state has several.
    monkeypatch.setattr(shoal.gossip.state.tree_hash, "CHUNK_BYTES", 16)


@cache
def play(role: str, fault: str) -> list[Seen]:
    return [Pair(role, fault, seed).play() for seed in SEEDS]


@pytest.mark.parametrize(("role", "fault"), PAIRS)
def test_the_others_finish_every_round_with_exact_means(role: str, fault: str) -> None:
    """The simulator's oracle compares each mean with what its contributors really gave, chunk by chunk."""
    for seen in play(role, fault):
        assert seen.happened
        assert not seen.violations
        assert all(round_ in seen.states for round_ in range(ROUND, ROUND + AFTER))


@pytest.mark.parametrize(("role", "fault"), PAIRS)
def test_the_others_lose_no_round_and_hold_one_state_after_each(role: str, fault: str) -> None:
    for seen in play(role, fault):
        counts = [len(seen.states[round_]) for round_ in range(1, ROUND + AFTER)]
        assert counts == [1] * len(counts)
        assert seen.failed == seen.fetched == 0


@pytest.mark.parametrize(("role", "fault"), PAIRS)
def test_it_costs_the_others_one_learned_deadline_at_most(role: str, fault: str) -> None:
    for seen in play(role, fault):
        assert seen.lost <= OWNER_GRACE * seen.deadline + GRACE, seen.waits
        assert seen.slowdown <= 2.0


@pytest.mark.parametrize("role", ROLES)
def test_a_dead_or_cancelling_peer_costs_the_others_nothing(role: str) -> None:
    for fault in ("dies before", "dies during", "dies after", "cancels"):
        for seen in play(role, fault):
            # Who cancelled is back soon, and its work may be the longest then.
            assert seen.lost < 1.0, fault
            # Local work alone takes up to a fifth longer in one round than in the median.
            assert seen.slowdown < 1.25, fault
