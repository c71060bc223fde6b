"""Whole nodes on slow lines, in virtual time: what is waited for, and what a failed round says."""

import pytest
from sim.world import Scenario, Sim

from shoal.gossip.member.pairwise_rounds import TOO_SLOW

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
        rounds = [done for done in node.rounds.past.history if done.finished_at is not None]
        assert {done.outcome for done in rounds} == {"averaged"}
        assert all(done.contributors == 2 for done in rounds)
    longest = max(done.exchange_seconds for done in sim.nodes[sim.names[0]].rounds.past.history)
    assert longest > 3 * PATIENCE


def test_a_round_that_a_trickler_spoils_says_so_in_the_status() -> None:
    sim = played(0.5, 60.0)
    reasons = [
        done.reason
        for node in sim.nodes.values()
        for done in node.rounds.past.history
        if done.outcome == "failed"
    ]
    assert reasons
    assert any("MB had come" in reason for reason in reasons), reasons


@pytest.mark.parametrize("rate", [5.0, 20.0])
def test_a_push_over_a_line_on_which_it_takes_many_patiences_is_taken(rate: float) -> None:
    sim = played(rate, 200.0, slowest_line=0.25, pushes=1)
    nodes = list(sim.nodes.values())
    assert all(node.member.admission.counts[TOO_SLOW] == 0 for node in nodes)
    rounds = [done for node in nodes for done in node.rounds.past.history if done.finished_at is not None]
    # Who was given nothing while it gave counts its round as one that it made alone.
    assert {done.outcome for done in rounds} <= {"averaged", "alone"}
    assert all(any(done.outcome == "averaged" for done in node.rounds.past.history) for node in nodes)
    assert max(done.exchange_seconds for done in rounds) > 3 * PATIENCE


def test_a_push_that_trickles_is_given_up_and_said() -> None:
    sim = played(0.5, 60.0, pushes=1)
    assert any(node.member.admission.counts[TOO_SLOW] for node in sim.nodes.values())
