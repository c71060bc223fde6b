"""Processes of a testnet end when they should, and no others are touched."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testnet_fakes import wait_until

from shoal.node.testnet import guard, processes
from shoal.node.testnet.plan import Plan
from shoal.node.testnet.processes import (
    Guard,
    NodeRecord,
    NoTestnet,
    Record,
    environment,
    is_running,
    newest,
    read_record,
    record_of,
    send_signal,
    spawn,
    stop,
    write_record,
)

POLITE = "import time; print('up', flush=True); time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {POLITE}"
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("up", child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[str], NodeRecord]]:
    """Starts Python scripts as if they were nodes; waits until they have said that they are up."""
    started: list[subprocess.Popen[bytes]] = []

    def start(script: str) -> NodeRecord:
        log = tmp_path / f"{len(started)}.log"
        started.append(spawn([sys.executable, "-c", script], log, os.environ))
        wait_until(lambda: log.read_bytes().startswith(b"up"))
        return record_of(f"node-{len(started)}", tmp_path, log, started[-1].pid)

    yield start
    for process in started:
        process.kill()
        process.wait()


def a_record(**nodes: int) -> Record:
    return Record(Plan(), 1.0, tuple(NodeRecord(name, "/h", "/l", pid, 1.0) for name, pid in nodes.items()))


def test_a_record_is_read_back(tmp_path: Path) -> None:
    write_record(tmp_path, a_record(a=1, b=2))
    assert read_record(tmp_path) == a_record(a=1, b=2)


def test_a_folder_without_a_testnet_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoTestnet, match="start one with: shoal testnet up"):
        read_record(tmp_path)
    with pytest.raises(NoTestnet, match="no testnet in"):
        newest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"plan": 1}'])
def test_a_damaged_record_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "testnet.json").write_bytes(content)
    with pytest.raises(NoTestnet, match="cannot be read") as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_newest_testnet_is_the_one_started_last(tmp_path: Path) -> None:
    for i, name in enumerate(("b", "a", "c")):
        (tmp_path / name).mkdir()
        write_record(tmp_path / name, a_record(a=i))
        os.utime(tmp_path / name / "testnet.json", (i, i))
    (tmp_path / "d").mkdir()
    assert newest(tmp_path) == tmp_path / "c"


def test_nodes_do_not_inherit_the_settings_of_another_node() -> None:
    found = environment({"PATH": "/bin", "SHOAL_HOME": "/h", "SHOAL_RUN_ROUNDS": "3", "OMP_NUM_THREADS": "8"})
    assert found == {"PATH": "/bin", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def test_a_process_that_has_our_pid_but_another_birth_is_not_ours() -> None:
    me = record_of("me", Path("/h"), Path("/l"), os.getpid())
    assert is_running(me)
    other = NodeRecord("me", "/h", "/l", os.getpid(), me.began - 60)
    assert not is_running(other)
    assert not send_signal(other, signal.SIGTERM)


def test_a_process_that_never_was_does_not_run() -> None:
    assert not is_running(record_of("gone", Path("/h"), Path("/l"), 2**22 + 1))


@pytest.mark.slow
def test_polite_nodes_leave_and_none_is_killed(run: Callable[[str], NodeRecord]) -> None:
    nodes = [run(POLITE) for _ in range(3)]
    assert stop(nodes) == []
    assert not any(map(is_running, nodes))


@pytest.mark.slow
def test_a_frozen_node_leaves_too(run: Callable[[str], NodeRecord]) -> None:
    node = run(POLITE)
    assert send_signal(node, signal.SIGSTOP, group=True)
    assert stop([node]) == []
    assert not is_running(node)


@pytest.mark.slow
def test_a_deaf_node_is_killed_and_named(
    run: Callable[[str], NodeRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.2)
    monkeypatch.setattr(processes, "GRACE_AT_ONCE", 0.2)
    polite, deaf = run(POLITE), run(DEAF)
    assert stop([polite, deaf]) == ["node-2"]
    assert not is_running(deaf)


@pytest.mark.slow
def test_haste_cuts_the_grace_short(
    run: Callable[[str], NodeRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE", 10_000.0)  # longer than a test may take
    monkeypatch.setattr(processes, "GRACE_AT_ONCE", 0.2)
    looks = iter(range(10_000))
    assert stop([run(DEAF)], hurry=lambda: next(looks) > 3) == ["node-1"]


@pytest.mark.slow
def test_the_trainer_of_a_killed_group_ends_with_it(run: Callable[[str], NodeRecord], tmp_path: Path) -> None:
    node = run(PARENT)
    trainer = int((tmp_path / "0.log").read_text().split()[1])
    found = record_of("trainer", tmp_path, tmp_path, trainer)
    assert is_running(found)
    assert send_signal(node, signal.SIGKILL, group=True)
    wait_until(lambda: not is_running(found))


def test_the_guard_stops_those_it_was_told_and_not_forgotten() -> None:
    assert guard.read_orders(["12\n", "13\n", "-12\n"]) == ({13}, [])
    assert guard.read_orders(["12\n", "done\n"]) == (set(), [])
    assert guard.read_orders([]) == (set(), [])


def test_the_guard_runs_what_removes_the_network_but_not_when_all_is_done() -> None:
    orders = ["12\n", '!["ip", "netns", "del", "x"]\n']
    assert guard.read_orders(orders) == ({12}, [["ip", "netns", "del", "x"]])
    assert guard.read_orders([*orders, "done\n"]) == (set(), [])


@pytest.mark.slow
def test_the_guard_goes_home_when_all_is_done(run: Callable[[str], NodeRecord]) -> None:
    node = run(POLITE)
    guard = Guard()
    guard.watch(node.pid)
    guard.close()
    assert is_running(node)


@pytest.mark.slow
def test_a_guard_that_was_killed_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard()
    guard._process.kill()
    guard._process.wait()
    guard.watch(1 << 22)
    guard.close()
    assert "the guard of the testnet has ended" in caplog.text


@pytest.mark.slow
def test_the_guard_ends_polite_and_frozen_and_deaf_nodes_when_the_launcher_dies(
    run: Callable[[str], NodeRecord],
) -> None:
    nodes = [run(POLITE), run(POLITE), run(DEAF)]
    spared = run(POLITE)
    send_signal(nodes[1], signal.SIGSTOP, group=True)
    orders = "".join(f"{node.pid}\n" for node in [*nodes, spared]) + f"-{spared.pid}\n"
    guard = subprocess.run(
        [sys.executable, "-P", "-m", "shoal.node.testnet.guard", "0.5", "0.5"],
        input=orders.encode(),
        check=True,
        timeout=200,
    )
    assert guard.returncode == 0
    wait_until(lambda: not any(map(is_running, nodes)))
    assert is_running(spared)
