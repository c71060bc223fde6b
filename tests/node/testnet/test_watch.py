"""The watcher collects what nodes say, and no node that hangs keeps it from the others."""

import threading
from pathlib import Path

import msgspec
import pytest
from testnet_fakes import round_status, status

from shoal.node.errors import NotRunning, Refused
from shoal.node.status import CallsStatus, Status
from shoal.node.testnet import watch
from shoal.node.testnet.cli import numbers_of
from shoal.node.testnet.plan import BadPlan, Plan
from shoal.node.testnet.watch import Observed, Watcher
from shoal.node.web import client


def test_rounds_are_collected_beyond_what_one_status_holds() -> None:
    node = Observed("node-1")
    node.take(status(history=[round_status(i) for i in range(1, 201)]))
    node.take(status(history=[round_status(i) for i in range(150, 350)]))
    assert sorted(node.rounds) == list(range(1, 350))
    assert node.last == round_status(349)


def test_a_failed_try_is_no_round_and_is_counted_once() -> None:
    node = Observed("node-1")
    failed = round_status(2, outcome="failed")
    for _ in range(3):
        node.take(status(history=[round_status(1), failed]))
    assert sorted(node.rounds) == [1]
    assert len(node.failed) == 1


def test_every_process_that_answered_is_remembered() -> None:
    node = Observed("node-1")
    for pid in (7, 7, 8):
        node.take(status(pid=pid))
    assert node.pids == {7, 8}


def test_a_node_that_begins_again_keeps_its_rounds_and_its_bytes() -> None:
    node = Observed("node-1")
    node.take(status(history=[round_status(1), round_status(2)], sent=500))
    node.exit_code, node.wished = -9, True
    node.begin_again()
    assert (node.restarts, node.sent_before, node.wished, sorted(node.rounds)) == (1, 500, False, [1, 2])
    assert node.is_loading
    node.begin_again()
    assert (node.restarts, node.sent_before) == (2, 500)


def test_the_database_adds_what_nobody_saw_and_changes_nothing_else() -> None:
    node = Observed("node-1")
    node.take(status(history=[round_status(1), round_status(3)]))
    node.take_rounds([round_status(1), round_status(2)])
    assert sorted(node.rounds) == [1, 2, 3]
    assert len(node.tries) == 3
    later = round_status(2, state="ff")
    node.take_rounds([msgspec.structs.replace(later, finished_at=2e9), round_status(2)])
    assert node.rounds[2].state_hash == "ff"


def test_silence_keeps_what_was_known() -> None:
    node = Observed("node-1")
    node.take(status(history=[round_status(1, accuracy=0.7)]))
    node.take(None)
    assert not node.answers
    assert node.accuracy == 0.7
    assert node.finished


def test_a_task_without_accuracy_has_none() -> None:
    node = Observed("node-1")
    assert node.accuracy is None
    node.take(status(history=[round_status(1, accuracy=None)]))
    assert node.accuracy is None


def test_a_node_that_hangs_does_not_keep_the_others_from_being_seen() -> None:
    release = threading.Event()

    def fetch(home: Path) -> Status | None:
        if home.name == "node-2":
            release.wait()
        return status(name=home.name)

    def until(answers: list[bool]) -> None:
        while [node.answers for node in watcher.nodes] != answers:
            watcher.look(patience=0.05)

    watcher = Watcher([(f"node-{i}", Path(f"node-{i}")) for i in (1, 2, 3)], fetch)
    until([True, False, True])
    release.set()
    until([True, True, True])
    watcher.close()


@pytest.mark.parametrize("error", [NotRunning("no node"), Refused("broke off")])
def test_a_node_that_does_not_answer_has_no_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def fetch(home: Path) -> Status:
        raise error

    monkeypatch.setattr(client, "fetch_status", fetch)
    assert watch.fetch_status(tmp_path) is None


def test_a_role_stands_for_the_first_node_that_holds_it() -> None:
    nodes = [Observed(f"node-{i}") for i in (1, 2, 3)]
    for node, held in zip(
        nodes, ({}, {"host": ["12D3KooWnode-2"]}, {"spare": ["12D3KooWnode-3"]}), strict=True
    ):
        calls = CallsStatus(hosts=held, per_second=0.0, waiting=0, unanswered=0, parts=[])
        node.take(msgspec.structs.replace(status(name=node.name), calls=calls))
    assert numbers_of(Plan(nodes=3), ["host", "3", "spare", "node-1"], lambda: nodes) == [2, 3, 3, 1]
    with pytest.raises(
        BadPlan, match="no node here holds the role host2: choose a node from node-1 to node-3"
    ):
        numbers_of(Plan(nodes=3), ["host2"], lambda: nodes)
    with pytest.raises(BadPlan, match="no node 4"):
        numbers_of(Plan(nodes=3), ["4"], lambda: nodes)
