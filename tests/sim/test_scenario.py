"""Scenario files of testnets in virtual time: the same faults at the same moments; nothing is violated."""

from itertools import pairwise
from pathlib import Path

import pytest
from sim.scenario import FIRST_ROUND, scenario_of
from sim.world import Sim

from shoal.node.testnet.faults import Fault, Link
from shoal.node.testnet.plan import BadPlan, Plan, load

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.toml"))


def marked(path: Path) -> object:
    """Ten minutes of kills take ten seconds of the processor."""
    return pytest.param(path, marks=pytest.mark.slow) if path.stem == "torchft" else path


@pytest.mark.parametrize("path", [marked(path) for path in SCENARIOS], ids=lambda path: path.stem)
def test_what_testnets_are_put_through_violates_nothing_in_virtual_time(path: Path) -> None:
    plan = load(path)
    scenario = scenario_of(plan, 1)
    assert scenario.faults
    assert scenario.nodes == plan.nodes
    result = Sim(scenario).run()
    assert not result.violations
    assert result.rounds > 5


def test_the_rate_of_torchft_is_a_kill_every_fifteen_seconds_for_ten_minutes() -> None:
    faults = scenario_of(load(SCENARIOS[-1]), 0).faults
    assert len(faults) == 38
    assert {fault[1] for fault in faults} == {"crash"}
    assert {fault[5] for fault in faults} == {5.0}
    assert [late[0] - early[0] for early, late in pairwise(faults)] == [15.0] * 37


def test_every_kind_of_fault_has_its_like() -> None:
    plan = Plan(
        nodes=5,
        rounds=60,
        link=Link(latency=0.05, jitter=0.01, loss=0.01),
        faults=(
            Fault(kind="kill", at=1, nodes=(1,), seconds=3),
            Fault(kind="kill", at=2, nodes=(5,), seconds=0),
            Fault(kind="pause", at=3, nodes=(2,), seconds=4),
            Fault(kind="split", at=10, nodes=(1, 2), seconds=8),
            Fault(kind="slow", at=20, nodes=(3,), seconds=5, link=Link(bandwidth_mbit=2)),
        ),
    )
    scenario = scenario_of(plan, 0)
    assert scenario.faults == (
        (FIRST_ROUND + 1, "crash", 0, 0, False, 3.0),
        (FIRST_ROUND + 2, "crash", 4, 0, False, 0.0),
        (FIRST_ROUND + 3, "freeze", 1, 4.0),
        (FIRST_ROUND + 10, "split", (0, 1), 8.0, True),
        (FIRST_ROUND + 20, "slow", 2, pytest.approx(893, abs=1), 5.0),
    )
    assert (scenario.weather.latency, scenario.weather.loss) == (0.05, 0.01)
    assert scenario.weather.jitter == pytest.approx(0.2)
    assert not Sim(scenario).run().violations


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (Plan(nodes=100), "too many to simulate whole"),
        (Plan(method="local"), "exchanges nothing"),
    ],
)
def test_what_cannot_be_simulated_is_refused_with_the_reason(plan: Plan, reason: str) -> None:
    with pytest.raises(BadPlan, match=reason):
        scenario_of(plan, 0)
