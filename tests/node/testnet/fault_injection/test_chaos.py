"""Nodes are shaken by a schedule and by hand, and the verdict tells what was wished from what was not."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import testnet_fakes
from testnet_fakes import Seen, plan_of, wait_until

from shoal.node.testnet import launcher
from shoal.node.testnet.event_log import read_events
from shoal.node.testnet.fault_injection.injector import Hands
from shoal.node.testnet.faults import Fault, Link
from shoal.node.testnet.launcher import NodeFailed, up
from shoal.node.testnet.plan import Plan
from shoal.node.testnet.processes import is_running, left_over, read_record
from shoal.node.testnet.verdict import Result

pytestmark = [pytest.mark.slow]
TOOLS = testnet_fakes.fake_tools()
KILL = Fault(kind="kill", at=0.3, nodes=(2,), seconds=0.5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "LOOK_EVERY", 0.05)


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert left_over(tmp_path) == []


def shaken(*faults: Fault, rounds: int = 60, **changes: object) -> Plan:
    plan = plan_of(rounds=rounds, stays=0.04)
    return msgspec.structs.replace(plan, faults=faults, quorum=1, **changes)


def run(plan: Plan, directory: Path, *, compare: bool = False) -> tuple[Result, Seen]:
    seen = Seen()
    return up(plan, directory, screen=seen, tools=TOOLS, compare=compare), seen


def kinds(directory: Path) -> list[tuple[str, tuple[int, ...]]]:
    return [(event.kind, event.nodes) for event in read_events(directory) if event.by != "launcher"]


def test_a_scheduled_kill_is_followed_by_a_restart_and_is_no_fault(tmp_path: Path) -> None:
    result, seen = run(shaken(KILL), tmp_path)
    assert kinds(tmp_path) == [("kill", (2,)), ("restart", (2,))]
    assert [line.split("s  ")[1] for line in seen.lines[:2]] == ["node-2 killed", "node-2 started again"]
    checks = {check.name: check for check in result.invariants}
    assert checks["no node restarted or ended early"].detail == "3 nodes, 1 restarts, all on purpose"
    assert checks["every node finished every round"].ok
    assert checks["nothing is left running"].ok
    [cost] = result.faults
    assert (cost.kind, cost.nodes, cost.by) == ("kill", (2,), "schedule")
    assert (tmp_path / "timeline.png").exists()


def test_the_end_waits_for_those_who_are_away(tmp_path: Path) -> None:
    late = Fault(kind="kill", at=0.2, nodes=(3,), seconds=4.0)
    result, _ = run(shaken(late, rounds=20), tmp_path)
    assert [node.finished for node in result.per_node] == [True, True, True]
    assert kinds(tmp_path)[-1] == ("restart", (3,))


def test_no_fault_begins_when_all_have_finished(tmp_path: Path) -> None:
    never = Fault(kind="kill", at=4.0, every=1.0, nodes=(1,))
    result, _ = run(shaken(never, KILL, rounds=20), tmp_path)
    assert kinds(tmp_path) == [("kill", (2,)), ("restart", (2,))]
    assert [node.finished for node in result.per_node] == [True, True, True]


def test_a_frozen_node_is_thawed_and_a_cut_is_mended(tmp_path: Path) -> None:
    faults = (
        Fault(kind="pause", at=0.1, nodes=(1,), seconds=0.4),
        Fault(kind="split", at=0.2, nodes=(3,), seconds=0.4),
        Fault(kind="slow", at=0.3, nodes=(2,), seconds=0.5, link=Link(latency=0.3)),
    )
    result, seen = run(shaken(*faults), tmp_path)
    assert kinds(tmp_path) == [
        ("pause", (1,)),
        ("split", (3,)),
        ("slow", (2,)),
        ("resume", (1,)),
        ("heal", (3,)),
        ("restore", (2,)),
    ]
    assert "node-2 slowed (300 ms)" in " ".join(seen.lines)
    assert result.network.split(":")[0] in ("proxy", "namespaces")


def test_a_run_without_end_is_watched_for_as_long_as_it_was_asked(tmp_path: Path) -> None:
    plan = shaken(KILL, rounds=0, seconds=3.0, timeout=250.0)
    result, _ = run(msgspec.structs.replace(plan, options=plan.options | {"rounds": 10**6}), tmp_path)
    assert 3.0 <= result.seconds < 40.0
    checks = {check.name: check for check in result.invariants}
    assert checks["every node finished every round"].detail == "the run has no end"
    assert checks["same state hash at the end"].ok


def test_the_calm_run_comes_first_and_its_homes_are_removed(tmp_path: Path) -> None:
    result, seen = run(shaken(KILL), tmp_path, compare=True)
    assert seen.lines[0].startswith("first the same nodes left in peace")
    assert result.calm_accuracy_mean == pytest.approx(0.95)
    peace = json.loads((tmp_path / "calm" / "result.json").read_bytes())
    assert peace["verdict"] is True
    assert peace["faults"] == []
    assert not (tmp_path / "calm" / "node-1").exists()


def test_a_kill_by_hand_is_no_fault_and_a_restart_by_hand_is_taken_over(tmp_path: Path) -> None:
    processes: list[subprocess.Popen[bytes]] = []

    def shake() -> None:
        wait_until(lambda: (tmp_path / "node-3" / "status.json").exists())
        hands = Hands(tmp_path, "hand", TOOLS.environ)
        assert hands.signal([2], signal.SIGKILL) == [2]
        wait_until(lambda: not is_running(read_record(tmp_path).nodes[1]))
        processes.append(hands.restart(2))

    thread = threading.Thread(target=shake)
    thread.start()
    result, _ = run(shaken(), tmp_path)
    thread.join()
    for process in processes:
        process.wait()
    assert kinds(tmp_path) == [("kill", (2,)), ("restart", (2,))]
    failing = [check for check in result.invariants if not check.ok]
    assert failing == []
    assert [cost.by for cost in result.faults] == ["hand"]


def test_a_node_that_was_killed_for_good_is_not_waited_for(tmp_path: Path) -> None:
    result, _ = run(shaken(Fault(kind="kill", at=0.2, nodes=(3,), seconds=0)), tmp_path)
    checks = {check.name: check for check in result.invariants}
    assert checks["every node finished every round"].ok
    assert result.per_node[2].exit_code == -signal.SIGKILL


def test_a_proxy_that_ends_by_itself_ends_the_testnet_with_a_word(tmp_path: Path) -> None:
    def end() -> None:
        wait_until(lambda: (tmp_path / "node-2" / "status.json").exists())
        proxy = read_record(tmp_path).proxy
        assert proxy is not None
        os.kill(proxy.pid, signal.SIGKILL)

    thread = threading.Thread(target=end)
    thread.start()
    plan = shaken(rounds=10**6, link=Link(latency=0.01))
    with pytest.raises(NodeFailed, match="the proxy was killed by signal 9"):
        up(plan, tmp_path, screen=Seen(), tools=TOOLS, network="proxy", compare=False)
    thread.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_proxy_ends_with_its_launcher_however_that_ends(tmp_path: Path, number: int) -> None:
    script = (
        "import testnet_fakes, sys; from pathlib import Path; from shoal.node.testnet import launcher;"
        "from shoal.node.testnet.faults import Link; import msgspec;"
        "plan = msgspec.structs.replace(testnet_fakes.plan_of(rounds=10**6), link=Link(latency=0.01));"
        "launcher.up(plan, Path(sys.argv[1]), screen=testnet_fakes.Seen(),"
        " tools=testnet_fakes.fake_tools(), network='proxy', compare=False)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, env=TOOLS.environ, stderr=subprocess.DEVNULL) as launcher:
        wait_until(lambda: (tmp_path / "node-3" / "status.json").exists(), 40)
        assert any("shoal.node.testnet.network.proxy" in each for each in left_over(tmp_path))
        os.kill(launcher.pid, number)
        launcher.wait(200)
    wait_until(lambda: left_over(tmp_path) == [])
