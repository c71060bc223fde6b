"""Real nodes: the launcher's command as a person types it, from its start to its verdict."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from testnet_fakes import wait_until

from shoal.node.testnet.watch import fetch_status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

UP = [sys.executable, "-P", "-m", "shoal.node", "testnet", "up"]


def processes_of(directory: Path) -> list[psutil.Process]:
    """Return every process that was started for this testnet, trainers included."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(directory) in word for word in process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "net"
    for process in processes_of(tmp_path / "net"):
        process.kill()


def test_three_nodes_learn_together_what_none_learns_alone(directory: Path) -> None:
    command = [*UP, "--nodes", "3", "--rounds", "15", "--dir", str(directory), "--timeout", "240", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert result["verdict"] is True
    assert result["same_state_hash"] is True
    assert result["rounds"] == 15
    assert result["accuracy_min"] >= 0.90
    assert result["local_only_mean"] < result["accuracy_min"] - 0.2
    assert result["bytes_sent"] > 0
    assert (directory / "accuracy.png").exists()
    assert processes_of(directory) == []


def test_real_nodes_and_their_trainers_end_with_a_launcher_that_is_killed(directory: Path) -> None:
    command = [*UP, "--nodes", "2", "--rounds", "100000", "--dir", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as launcher:
        statuses = [directory / "node-1", directory / "node-2"]
        wait_until(lambda: all((s := fetch_status(home)) and s.round > 0 for home in statuses), 200)
        assert len(processes_of(directory)) > 2
        launcher.kill()
    wait_until(lambda: processes_of(directory) == [], 60)


def test_nodes_killed_every_fifteen_seconds_cost_the_others_no_round(directory: Path) -> None:
    scenario = Path(__file__).parents[2] / "scenarios" / "torchft.toml"
    command = [
        *UP,
        "--scenario",
        str(scenario),
        "--nodes",
        "5",
        "--seconds",
        "60",
        "--seeds",
        "0",
        "--dir",
        str(directory),
    ]
    found = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert found.stdout, found.stderr
    result = json.loads(found.stdout)
    assert [cost["kind"] for cost in result["faults"]] == ["kill"] * 2
    held = {check["name"]: check["ok"] for check in result["invariants"]}
    assert held["no node lost a round by what befell others"], result["invariants"]
    assert held["equal state on all nodes after every round"], result["invariants"]
    assert held["no node restarted or ended early"], result["invariants"]
    assert (directory / "timeline.png").exists()
    assert processes_of(directory) == []


def test_a_detached_testnet_is_split_healed_and_shaken_by_hand(directory: Path) -> None:
    def shoal(*words: str) -> str:
        command = [*UP[:-1], *words, "--dir", str(directory)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def averaged(index: int) -> list[int]:
        status = fetch_status(directory / f"node-{index}")
        return [each.round for each in status.history if each.outcome == "averaged"] if status else []

    shoal("up", "--nodes", "3", "--rounds", "100000", "--detach")
    wait_until(lambda: all(averaged(index) for index in (1, 2, 3)), 120)
    assert "split: node-3 | node-1, node-2" in shoal("split", "3")
    # What was under way may still end; from then on the two go on, and the third stands still.
    wait_until(lambda: len(averaged(3)) > 0 and averaged(1)[-1] > averaged(3)[-1] + 5, 60)
    assert "split: node-3" in shoal("status")
    shoal("heal")
    wait_until(lambda: bool(set(averaged(3)[-3:]) & set(averaged(1)[-6:])), 60)
    shoal("kill", "2")
    shoal("restart", "2")
    wait_until(lambda: bool(set(averaged(2)[-3:]) & set(averaged(1)[-6:])), 90)
    assert "3 nodes stopped" in shoal("down")
    assert processes_of(directory) == []


def test_a_task_that_does_not_exist_is_told_once_and_leaves_nobody(directory: Path) -> None:
    command = [*UP, "--nodes", "2", "--task", "nowhere.at_all:Task", "--dir", str(directory)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode != 0
    assert "nowhere" in found.stderr
    assert "Traceback" not in found.stderr
    assert processes_of(directory) == []
