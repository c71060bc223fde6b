"""States of several chunks fetched in simulated swarms: donors move on, die, lie; links break."""

import logging
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import sim.node as nodes
from sim.network import Weather
from sim.runs import run_seed
from sim.world import Scenario, Sim

import shoal.gossip.state.tree_hash
from shoal.gossip.member import commands
from shoal.gossip.messages import Chunk, NotHeld


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    # A simulated state has seven chunks then.
    monkeypatch.setattr(shoal.gossip.state.tree_hash, "CHUNK_BYTES", 16)


def played(scenario: Scenario) -> tuple[Sim, Counter[str]]:
    """Run a scenario without violations; returns how often each kind of message was heard."""
    sim = Sim(scenario)
    heard: Counter[str] = Counter()
    handled = sim.handled

    def watch(node: Any, event: Any) -> None:
        heard[type(getattr(event, "message", event)).__name__] += 1
        handled(node, event)

    sim.handled = watch  # type: ignore[method-assign]
    assert not sim.run().violations
    return sim, heard


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_no_invariant_is_violated_where_states_have_seven_chunks(first: int) -> None:
    for seed in range(first, first + 10):
        assert not run_seed(seed).violations, f"seed {seed}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_invariant_is_violated_by_a_thousand_seeds_of_seven_chunks() -> None:
    failed = {seed: run_seed(seed).violations for seed in range(1000)}
    assert not {seed: found for seed, found in failed.items() if found}


@pytest.mark.parametrize("seed", range(6))
def test_a_node_that_comes_back_is_given_the_state_of_those_that_just_moved_on(seed: int) -> None:
    """Rounds shorter than the way there and back: when a word arrives, its state is one round old."""
    crash = (12.0, "crash", 2, 0, False, 3.0)
    weather = Weather(latency=0.1, spread=1.0, jitter=0.1)
    known = tuple(range(5))
    _, heard = played(
        Scenario(seed, 5, faults=(crash,), paces=(0.5,), weather=weather, calm_rounds=4, acquainted=known)
    )
    assert heard[Chunk.__name__] >= 7
    assert heard[NotHeld.__name__] <= 4


@pytest.mark.parametrize("seed", range(6))
def test_a_state_that_does_not_change_is_no_reason_to_stay_behind(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converged model has one hash in all rounds, so only the round tells who is behind."""
    monkeypatch.setattr(nodes, "POOL", np.zeros_like(nodes.POOL))
    crash = (12.0, "crash", 2, 0, False, 6.0)
    sim, _ = played(Scenario(seed, 4, faults=(crash,), calm_rounds=4))
    rounds = [node.member.round for node in sim.nodes.values()]
    assert max(rounds) - min(rounds) <= 1
    assert len({node.member.state for node in sim.nodes.values()}) == 1


@pytest.mark.parametrize("victims", [(0,), (0, 1), (1, 2, 3)])
def test_a_newcomer_is_in_soon_though_donors_die_while_they_give(victims: tuple[int, ...]) -> None:
    """The donors are so slow that a state takes seconds."""
    slow = tuple((0.0, "slow", number, 40.0, 20.0) for number in range(4))
    killed = tuple((13.0 + 0.1 * number, "crash", number, 0, False, 8.0) for number in victims)
    scenario = Scenario(1, 5, starts=(0.0, 0.0, 0.0, 0.0, 12.0), paces=(4.0,), faults=(*slow, *killed))
    _, heard = played(scenario)
    assert heard[Chunk.__name__] >= 7


def test_a_newer_state_that_is_agreed_meanwhile_is_fetched_instead() -> None:
    """Once per fetch, and while most of the old one is missing; what arrives is what was turned to."""
    turned = 0
    for seed in range(6):
        slow = tuple((11.0, "slow", number, 200.0, 20.0) for number in range(3))
        sim = Sim(Scenario(seed, 4, starts=(0.0, 0.0, 0.0, 12.0), paces=(2.0,), faults=slow))
        told: list[Any] = []
        noticed = sim.oracle.noticed

        def watch(node: Any, notice: Any, noticed: Any = noticed, told: list[Any] = told) -> None:
            noticed(node, notice)
            if node.number == 3 and isinstance(notice, commands.Behind | commands.Synced):
                told.append(notice)

        sim.oracle.noticed = watch  # type: ignore[method-assign]
        assert not sim.run().violations
        for before, after in pairwise(told):
            if isinstance(after, commands.Synced):
                assert isinstance(before, commands.Behind)
                assert after.round == before.round
            elif isinstance(before, commands.Behind):
                assert after.round > before.round
                turned += 1
    assert turned >= 2
