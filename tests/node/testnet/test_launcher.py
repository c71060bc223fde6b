"""The launcher brings fake nodes to a verdict, and leaves no process behind however it ends."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import testnet_fakes
from testnet_fakes import Seen, plan_of, wait_until

from shoal.node.status import Status
from shoal.node.testnet import launcher
from shoal.node.testnet.launcher import NodeFailed, Tools, up, up_detached
from shoal.node.testnet.nodes import last_line
from shoal.node.testnet.plan import Plan
from shoal.node.testnet.processes import Record, is_running, left_over, processes_of, read_record, stop
from shoal.node.testnet.verdict import Result

TOOLS = testnet_fakes.fake_tools()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "LOOK_EVERY", 0.05)


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    left = left_over(tmp_path)
    if (tmp_path / "testnet.json").exists():
        stop(processes_of(read_record(tmp_path)))
    assert left == []


def run(plan: Plan, directory: Path, *, keep: bool = False, tools: Tools = TOOLS) -> tuple[Result, Seen]:
    seen = Seen()
    return up(plan, directory, screen=seen, tools=tools, keep=keep), seen


@pytest.mark.slow
def test_a_testnet_ends_in_a_verdict_with_its_files(tmp_path: Path) -> None:
    result, seen = run(plan_of(), tmp_path)
    assert result.verdict, result.invariants
    assert (result.nodes, result.rounds, result.accuracy_min) == (3, 4, 0.95)
    assert result.local_only == (0.1, 0.2, 0.3)
    assert json.loads((tmp_path / "result.json").read_bytes())["verdict"] is True
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "node-3.log").read_text() == "node-3 leaves\n"
    assert not (tmp_path / "node-1").exists()
    assert seen.notes[0] == "starting"
    assert seen.notes[-1] == ""
    assert seen.rounds == sorted(seen.rounds)
    assert "for comparison" in seen.lines[0]


@pytest.mark.slow
def test_homes_are_kept_if_asked(tmp_path: Path) -> None:
    run(plan_of(nodes=2, rounds=1), tmp_path, keep=True)
    assert (tmp_path / "node-1" / "status.json").exists()


@pytest.mark.slow
def test_a_verdict_that_does_not_hold_keeps_the_homes(tmp_path: Path) -> None:
    result, _ = run(plan_of(apart="node-2"), tmp_path)
    assert not result.verdict
    assert not result.same_state_hash
    assert (tmp_path / "node-2").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "joins", "told"),
    [
        ("full", ["", "node-1", "node-1", "node-1"], None),
        ("line", ["", "node-1", "node-2", "node-3"], None),
        ("ring", ["", "node-1", "node-2", "node-3"], "node-4"),
    ],
)
def test_nodes_are_told_the_addresses_of_their_topology(
    tmp_path: Path, topology: str, joins: list[str], told: str | None
) -> None:
    plan = Plan(nodes=4, rounds=1, topology=topology, timeout=250.0)  # type: ignore[arg-type]
    run(plan, tmp_path, keep=True)
    found = [(tmp_path / f"node-{i}" / "joins").read_text().rpartition("/")[2] for i in range(1, 5)]
    assert found == joins
    note = tmp_path / "node-1" / "told"
    assert (note.read_text().rpartition("/")[2] if note.exists() else None) == told


@pytest.mark.slow
def test_a_node_that_dies_does_not_end_the_others_but_fails_the_verdict(tmp_path: Path) -> None:
    def fetch(home: Path) -> Status | None:
        status = testnet_fakes.fetch_status(home)
        if status and status.round == 2 and home.name == "node-2":
            (home / "die").touch()
        return status

    result, _ = run(plan_of(dies="node-2:3"), tmp_path, tools=dataclasses.replace(TOOLS, fetch_status=fetch))
    assert not result.verdict
    assert [node.finished for node in result.per_node] == [True, False, True]
    assert result.per_node[1].exit_code == -signal.SIGKILL
    assert [check.detail for check in result.invariants if not check.ok][:2] == [
        "node-2 stands at round 2 of 4",
        "node-2 was killed by signal 9: it wrote nothing",
    ]


@pytest.mark.slow
def test_a_node_that_ends_before_it_answers_stops_all_and_its_log_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(NodeFailed, match="node-2 ended with code 1 before it answered: Error: no such task"):
        run(plan_of(fails="node-2"), tmp_path)


@pytest.mark.slow
def test_a_testnet_that_takes_too_long_is_judged_as_it_stands(tmp_path: Path) -> None:
    plan = Plan(nodes=2, rounds=10**6, timeout=1.5)
    result, _ = run(plan, tmp_path)
    assert not result.verdict
    assert result.seconds >= 1.5
    assert re.match(r"node-1 stands at round \d+ of 1000000; node-2", result.invariants[0].detail)


@pytest.mark.slow
def test_a_comparison_that_fails_is_told_and_does_not_hide_the_result(tmp_path: Path) -> None:
    def fails(plan: Plan) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no data here')"]

    tools = dataclasses.replace(TOOLS, baseline_command=fails)
    result, seen = run(plan_of(), tmp_path, tools=tools)
    assert result.verdict
    assert result.local_only_mean is None
    assert seen.lines[-1] == "training alone failed: no data here"


@pytest.mark.slow
def test_training_alone_is_its_own_comparison(tmp_path: Path) -> None:
    result, _ = run(Plan(nodes=2, rounds=2, method="local", timeout=250.0), tmp_path)
    assert result.verdict
    assert result.local_only == (0.95, 0.95)


@pytest.mark.slow
def test_detached_nodes_run_on_until_they_are_stopped(tmp_path: Path) -> None:
    up_detached(plan_of(endless=1), tmp_path, screen=Seen(), tools=TOOLS)
    record = read_record(tmp_path)
    assert [node.name for node in record.nodes] == ["node-1", "node-2", "node-3"]
    assert all(map(is_running, record.nodes))
    assert stop(processes_of(record)) == []
    # They are children of this very process, which is not how it is used; so they are reaped here.
    for node in processes_of(record):
        os.waitpid(node.pid, 0)


@pytest.mark.slow
def test_a_detached_start_that_fails_leaves_nobody(tmp_path: Path) -> None:
    with pytest.raises(NodeFailed):
        up_detached(plan_of(fails="node-3"), tmp_path, screen=Seen(), tools=TOOLS)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*before: str, **options: str | float) -> subprocess.Popen[str]:
        command = [sys.executable, testnet_fakes.__file__, "launch", str(tmp_path), json.dumps(options)]
        command = [*before, *command]
        started.append(subprocess.Popen(command, env=TOOLS.environ, stdout=subprocess.PIPE, text=True))
        wait_until(lambda: len(running(tmp_path)) == 3)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def running(directory: Path) -> list[str]:
    """Return the fake nodes that have answered and still run."""
    if not (directory / "testnet.json").exists():
        return []
    record: Record = read_record(directory)
    answered: list[Status | None] = [testnet_fakes.fetch_status(Path(node.home)) for node in record.nodes]
    return [
        node.name for node, status in zip(record.nodes, answered, strict=True) if status and is_running(node)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_launcher_that_is_asked_to_end_lets_its_nodes_leave_first(
    tmp_path: Path, launch: Callable[..., subprocess.Popen[str]], number: int
) -> None:
    launcher = launch()
    launcher.send_signal(number)
    output, _ = launcher.communicate(timeout=200)
    assert launcher.returncode == 130
    assert output.startswith("stopping the nodes; Ctrl-C again")
    assert output.splitlines()[-1].startswith("stopped at round ")
    assert running(tmp_path) == []
    assert [(tmp_path / f"node-{i}.log").read_text() for i in (1, 2, 3)] == [
        f"node-{i} leaves\n" for i in (1, 2, 3)
    ]


@pytest.mark.slow
def test_a_launcher_that_was_started_with_ctrl_c_ignored_can_be_interrupted(
    tmp_path: Path, launch: Callable[..., subprocess.Popen[str]]
) -> None:
    launcher = launch("sh", "-c", 'trap "" INT HUP; exec "$@"', "sh")
    launcher.send_signal(signal.SIGHUP)  # as when the terminal of nohup closes
    assert len(running(tmp_path)) == 3
    launcher.send_signal(signal.SIGINT)
    output, _ = launcher.communicate(timeout=200)
    assert launcher.returncode == 130
    assert output.splitlines()[-1].startswith("stopped at round ")
    assert running(tmp_path) == []


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_a_slow_node(
    tmp_path: Path, launch: Callable[..., subprocess.Popen[str]]
) -> None:
    launcher = launch(deaf="node-2")
    launcher.send_signal(signal.SIGINT)
    assert launcher.stdout is not None
    assert launcher.stdout.readline().startswith("stopping")
    launcher.send_signal(signal.SIGINT)
    output, _ = launcher.communicate(timeout=200)
    assert "did not leave in time and were killed: node-2" in output
    assert running(tmp_path) == []


@pytest.mark.slow
def test_a_launcher_that_is_killed_leaves_no_node_either(
    tmp_path: Path, launch: Callable[..., subprocess.Popen[str]]
) -> None:
    launcher = launch()
    launcher.kill()
    wait_until(lambda: running(tmp_path) == [])
    assert (tmp_path / "node-1.log").read_text() == "node-1 leaves\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "it wrote nothing"),
        (b"\n\n", "it wrote nothing"),
        (b"one\ntwo\n", "two"),
        (b"x" * 9999, "x" * 4096),
        (b"\xff\n", "\ufffd"),
        (b"  | ValueError: no\n  +-------\n", "ValueError: no"),
    ],
)
def test_the_last_line_of_a_log_is_short_whatever_is_in_it(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / "log").write_bytes(content)
    assert last_line(tmp_path / "log") == line
