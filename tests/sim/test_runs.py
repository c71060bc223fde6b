"""Whole swarms in virtual time: the first seeds of the simulator, and what it promises about itself."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sim.network import DOUBT_WAIT, Weather
from sim.node import SimNode
from sim.runs import draw, run_seed
from sim.world import Scenario, Sim

ROOT = Path(__file__).resolve().parents[2]


def violations(scenario: Scenario) -> list[str]:
    return [f"{each.invariant}: {each.detail}" for each in Sim(scenario).run().violations]


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_no_invariant_is_violated_by_the_first_sixty_seeds(first: int) -> None:
    for seed in range(first, first + 10):
        assert not run_seed(seed).violations, f"seed {seed}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_invariant_is_violated_by_a_thousand_seeds() -> None:
    failed = {seed: run_seed(seed).violations for seed in range(1000)}
    assert not {seed: found for seed, found in failed.items() if found}


def test_two_scopes_of_a_group_are_averaged_side_by_side() -> None:
    sim = Sim(Scenario(5, 5, asks="gsr", calm_rounds=3))
    result = sim.run()
    assert not result.violations
    assert result.rounds >= 3
    scopes: dict[int, set[bytes]] = {0: set(), 1: set()}
    for node in sim.nodes.values():
        assert node.trainer is not None
        scopes[node.number % 2].add(node.trainer.scoped.tobytes())
    # In the last round some may be done with a mean that others have not yet.
    assert scopes[0].isdisjoint(scopes[1])


def test_no_invariant_is_violated_where_some_average_among_themselves() -> None:
    for seed in (2, 3, 5, 8):
        scenario = replace(draw(seed), asks="gsr", pushes=0)
        assert not violations(scenario), f"seed {seed}"


def test_the_same_seed_leaves_the_same_trace() -> None:
    traces = [[run_seed(seed).trace for seed in range(8)] for _ in range(2)]
    assert traces[0] == traces[1]
    assert len(set(traces[0])) == 8


@pytest.mark.slow
def test_a_trace_does_not_depend_on_how_python_hashes() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "simulate.py"), "--jobs", "1", "--json", "--seeds"]
    traces = {
        json.loads(
            subprocess.run(
                [*command, "8"], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
            ).stdout
        )["trace"]
        for seed in ("1", "77")
    }
    assert len(traces) == 1


@pytest.mark.slow
def test_the_command_prints_the_trace_of_a_single_seed() -> None:
    command = [
        sys.executable,
        str(ROOT / "scripts" / "simulate.py"),
        "--seeds",
        "1",
        "--start",
        "5",
        "--json",
    ]
    printed = subprocess.run(command, capture_output=True, check=True).stdout
    assert json.loads(printed)["trace"] == run_seed(5).trace


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for worker processes in /proc")
@pytest.mark.timeout(120)
def test_a_run_that_is_interrupted_tells_of_the_seeds_that_were_run() -> None:
    command = (sys.executable, str(ROOT / "scripts" / "simulate.py"), "--seeds", "100000", "--jobs", "1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        # Not before it runs seeds: in its first moment it is still importing.
        while not workers.read_text().split() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        report = json.loads(process.stdout.read().splitlines()[-1])
    assert process.returncode == 130
    assert report["violations"] == 0
    assert report["seeds"] < 100_000


@pytest.mark.parametrize("seed", range(4))
def test_all_that_is_said_passes_the_real_wire(seed: int) -> None:
    result = Sim(replace(draw(seed, 4), checked=True)).run()
    assert not result.violations
    assert result.messages > 100


@pytest.mark.parametrize("asks", ["r", "rr", "gr"])
def test_a_calm_swarm_loses_no_round(asks: str) -> None:
    result = Sim(Scenario(1, nodes=5, asks=asks, paces=(3.0, 1.5, 5.0), calm_rounds=6)).run()
    assert not result.violations
    assert result.counts["Behind"] == result.counts["Failed"] == 0


@pytest.mark.parametrize("effects", [0, 1, 5, 12, 30, 60])
def test_the_others_lose_no_round_when_one_is_killed(effects: int) -> None:
    """`effects`: how much of what it was about to do is done."""
    for victim in range(4):
        killed = (13.0, "crash", victim, effects, False, 0.0)
        sim = Sim(Scenario(victim, nodes=5, faults=(killed,), calm_rounds=3, wait_for=5))
        result = sim.run()
        assert not result.violations
        assert result.counts["Failed"] == result.counts["Behind"] == 0


@pytest.mark.parametrize("walls", ["line", "ring", "star"])
@pytest.mark.parametrize("seed", range(2))
def test_six_nodes_finish_when_only_neighbours_can_link(walls: str, seed: int) -> None:
    """Who knows nobody goes by the one that its user named, and may be linked with nobody else's state."""
    topology = "star" if walls == "star" else "line"
    known = tuple(range(6))
    assert not violations(Scenario(seed, nodes=6, walls=walls, topology=topology, rounds=6, acquainted=known))


def test_a_state_of_before_that_a_node_without_a_trainer_keeps_does_not_undo_what_went_on() -> None:
    gone = ((9.11, "trainer", 2, 11.98), (11.81, "trainer", 0, 2.42), (13.39, "trainer", 1, 0.93))
    weather = Weather(latency=0.002)
    assert not violations(Scenario(54267, nodes=3, faults=gone, weather=weather))


def test_who_is_back_from_a_power_cut_does_not_run_ahead_of_those_that_have_not_noticed_it() -> None:
    gone = ((8.29, "crash", 1, 0, True, 0.2), (12.54, "crash", 0, 0, False, 3.0))
    scenario = Scenario(325244, nodes=3, faults=gone, paces=(5.0, 1.5, 5.0), patience=5.0, calm_rounds=5)
    assert not violations(scenario)


def test_a_node_that_all_others_dialled_finds_them_again_after_a_power_cut() -> None:
    sim = Sim(Scenario(1, nodes=4, faults=((12.0, "crash", 0, 0, True, 0.2),)))
    hub, linked = sim.nodes[sim.name(0)], list[int]()
    # Long before a keep-alive could tell the others that it was gone.
    sim.at(12.2 + 2 * DOUBT_WAIT, lambda: linked.append(len(hub.linked)))
    assert not sim.run().violations
    assert linked == [3]


def test_a_swarm_is_one_also_where_the_last_that_was_not_done_dies() -> None:
    died = (16.79, "crash", 4, 70, False, 0.0)
    weather = Weather(latency=0.002)
    starts = (0.0, 0.0, 0.0, 0.5, 0.0)
    scenario = Scenario(9273, 5, (died,), starts=starts, topology="ring", rounds=6, weather=weather)
    assert not violations(replace(scenario, patience=5.0, pushes=1))


def test_both_sides_of_a_split_make_progress_and_become_one() -> None:
    split = (10.0, "split", (0, 1, 2), 40.0, False)
    sim = Sim(Scenario(3, nodes=6, faults=(split,), paces=(3.0,)))
    rounds: dict[str, set[int]] = {"left": set(), "right": set()}

    def look() -> None:
        for node in sim.nodes.values():
            rounds["left" if node.number < 3 else "right"].add(node.member.round)

    for second in range(16, 50):
        sim.at(float(second), look)
    assert not sim.run().violations
    assert all(len(seen) >= 6 for seen in rounds.values()), rounds


def test_a_crowd_of_newcomers_does_not_lead_the_trained() -> None:
    sim = Sim(Scenario(5, nodes=9, starts=(0.0, 0.0, *[20.0] * 7)))
    result = sim.run()
    assert not result.violations
    assert result.rounds >= 5, "the two that trained kept their rounds"


def test_nine_peers_in_groups_of_three_hold_one_state_after_two_rounds() -> None:
    """Nobody fetches it: rows of the grid average, then columns."""
    sim = Sim(Scenario(3, nodes=9, group_size=3, rounds=2, asks="m", wait_for=9))
    states: dict[int, set[bytes]] = {1: set(), 2: set()}
    look = sim.oracle.new_state

    def seen(node: SimNode) -> None:
        states.get(node.member.round, set()).add(node.member.state)
        look(node)

    sim.oracle.new_state = seen  # type: ignore[method-assign]
    result = sim.run()
    assert not result.violations
    assert {round_: len(found) for round_, found in states.items()} == {1: 3, 2: 1}
    assert result.counts["Behind"] == result.counts["Failed"] == 0
