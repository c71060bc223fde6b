"""Whole nodes that average pairwise, in virtual time: the oracle counts all mass after every round."""

import pytest
from sim.network import Weather
from sim.node import SimNode
from sim.world import Fault, Scenario, Sim

BREAKS: dict[str, tuple[Fault, ...]] = {
    "links that break": tuple((6.0 + 2 * n, "break", n % 5, (n + 2) % 5) for n in range(8)),
    "a split": ((8.0, "split", (0, 1), 25.0, False),),
    "one-way links": ((6.0, "oneway", 0, 1, 20.0), (9.0, "oneway", 2, 3, 12.0)),
    "a slow node": ((6.0, "slow", 1, 50.0, 20.0),),
    "a frozen node": ((7.0, "freeze", 2, 12.0),),
    "lossy links": ((5.0, "lossy", 0.2, 20.0),),
}


def run(seed: int = 1, **more: object) -> tuple[Sim, list[str]]:
    options = {"nodes": 5, "pushes": 2, "calm_rounds": 5, "wait_for": 1} | more
    sim = Sim(Scenario(seed, **options))  # type: ignore[arg-type]
    return sim, [f"{each.invariant}: {each.detail}" for each in sim.run().violations]


def spread(sim: Sim) -> float:
    """Return how far estimates are apart, relative to how far local work takes them."""
    import numpy as np

    rows = []
    for node in sim.trainers():
        core = node.member.pairwise.core
        assert core is not None
        row = np.empty_like(core.sums)
        core.read(row)
        rows.append(row)
    return float(np.abs(np.array(rows) - np.mean(rows, axis=0)).max())


@pytest.mark.parametrize("walls", ["", "ring", "line", "star"])
@pytest.mark.parametrize("seed", range(2))
def test_all_go_on_and_no_mass_is_lost(walls: str, seed: int) -> None:
    topology = "star" if walls == "star" else "line"
    sim, violations = run(seed, walls=walls, topology=topology, paces=(3.0, 1.5, 5.0))
    assert not violations
    assert sim.counts["Averaged"] >= 20
    # In a star news of the others reaches a leaf with a swap, and it may find itself behind for a moment.
    assert max(sim.counts["Failed"], sim.counts["Behind"]) <= (3 if walls == "star" else 0)


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("seed", range(3))
def test_mass_is_conserved_whatever_happens_to_links(fault: str, seed: int) -> None:
    sim, violations = run(seed, faults=BREAKS[fault], chunk_numel=8)
    assert not violations
    assert sim.counts["Averaged"] >= 20


@pytest.mark.parametrize("seed", range(6))
def test_who_dies_takes_its_mass_along_and_comes_back_with_new(seed: int) -> None:
    faults = ((9.0, "crash", 1, seed * 3, False, 4.0), (13.0, "crash", 3, seed, True, 0.0))
    sim, violations = run(seed, faults=faults, weather=Weather(twice=0.3))
    assert not violations
    assert sim.counts["Averaged"] >= 20


def test_a_newcomer_begins_with_a_state_of_the_others() -> None:
    sim, violations = run(starts=(0.0, 0.0, 0.0, 0.0, 25.0), calm_rounds=3)
    assert not violations
    assert sim.counts["Synced"] == 1


@pytest.mark.parametrize("seed", range(2))
def test_all_end_with_one_state(seed: int) -> None:
    _, violations = run(seed, rounds=6, walls="ring", topology="line")
    assert not violations


def test_all_that_is_said_passes_the_real_wire() -> None:
    sim, violations = run(checked=True)
    assert not violations
    assert sim.network.messages > 100


def test_without_further_work_estimates_become_one() -> None:
    """Weights are alike here, so the mean of what the peers began with is the plain one."""
    sim, violations = run(asks="m", walls="ring", topology="line", calm_rounds=40)
    assert not violations
    assert spread(sim) < 1e-3


def test_a_trainer_that_is_killed_leaves_its_nodes_mass() -> None:
    shares = []

    class Watch(Sim):
        def crashed(self, node: SimNode, power: bool = False) -> None:
            raise AssertionError("nobody is to die")

    sim = Watch(Scenario(2, nodes=4, pushes=1, calm_rounds=4, faults=((10.0, "trainer", 1, 4.0),)))
    result = sim.run()
    assert not result.violations
    shares = [node.member.pairwise.core.share for node in sim.nodes.values() if node.member.pairwise.core]
    assert shares == [1.0, 2.0, 3.0, 0.25]
