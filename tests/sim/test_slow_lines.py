"""Whole nodes on slow lines, in virtual time: what is waited for, and what a failed round says."""

import pytest
from sim.world import Scenario, Sim

PATIENCE = 5.0


def played(rate: float, seconds: float, **changes: float) -> Sim:
    """Play two nodes of which the second's line carries so little from the start."""
    sim = Sim(
        Scenario(
            5,
            2,
            faults=tuple((0.0, "slow", number, rate, seconds) for number in range(2)),
            patience=PATIENCE,
            wait_for=2,
            calm_rounds=2,
            **changes,  # type: ignore[arg-type]
        )
    )
    assert not sim.run().violations
    return sim


@pytest.mark.parametrize("rate", [5.0, 20.0])
def test_rounds_over_a_line_on_which_they_take_many_patiences_are_averaged(rate: float) -> None:
    sim = played(rate, 200.0, slowest_line=1.0)
    for node in sim.nodes.values():
        rounds = [done for done in node.rounds.history if done.finished_at is not None]
        assert {done.outcome for done in rounds} == {"averaged"}
        assert all(done.contributors == 2 for done in rounds)
    longest = max(done.exchange_seconds for done in sim.nodes[sim.names[0]].rounds.history)
    assert longest > 3 * PATIENCE


def test_a_round_that_a_trickler_spoils_says_so_in_the_status() -> None:
    sim = played(0.5, 60.0)
    reasons = [
        done.reason for node in sim.nodes.values() for done in node.rounds.history if done.outcome == "failed"
    ]
    assert reasons
    assert any("MB had come" in reason for reason in reasons), reasons
