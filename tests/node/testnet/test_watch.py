"""The watcher collects what nodes say, and no node that hangs keeps it from the others."""

import threading
from pathlib import Path

import msgspec
import pytest
from testnet_fakes import round_status, status

from shoal.node.errors import NotRunning, Refused
from shoal.node.status import CallsStatus, HandoverStatus, Status
from shoal.node.testnet import watch
from shoal.node.testnet.cli import numbers_of
from shoal.node.testnet.plan import BadPlan, Plan
from shoal.node.testnet.watch import HostCost, Observed, Watcher, host_cost
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


def split_status(
    number: int, hosts: dict[str, list[int]], handovers: list[HandoverStatus] | None = None
) -> Status:
    """Return what a node of a split model says; `hosts`: role -> numbers of nodes."""
    held = {role: [f"12D3KooWnode-{n}" for n in numbers] for role, numbers in hosts.items()}
    calls = CallsStatus(
        hosts=held, per_second=0.0, waiting=0, unanswered=0, parts=[], handovers=handovers or []
    )
    return msgspec.structs.replace(status(name=f"node-{number}"), calls=calls)


def went_on(to: int, verb: str, seconds: float, age: float, left: int = 1) -> HandoverStatus:
    return HandoverStatus(verb, f"12D3KooWnode-{left}", f"12D3KooWnode-{to}", "silent", seconds, age)


def lost_host() -> list[Observed]:
    """Return three nodes, of which the first hosted until 100, the second held the spare, and so on."""
    nodes = [Observed(f"node-{i}") for i in (1, 2, 3)]
    for n, node in enumerate(nodes, start=1):
        for at in (50.0, 99.0):
            node.take(split_status(n, {"host": [1], "spare": [2]}), at)
    lost = msgspec.structs.replace(round_status(2), finished_at=110.0, metrics={"unanswered": 2.0})
    quiet = msgspec.structs.replace(round_status(3), finished_at=120.0, metrics={"unanswered": 5.0})
    for n, seconds in ((2, 0.5), (3, 2.25)):
        told = [went_on(2, "grad", seconds, 3.0), went_on(3, "give", 9.0, 1.0)]
        for at, age in ((105.0, 0.0), (115.0, 10.0)):
            older = [msgspec.structs.replace(each, age_seconds=each.age_seconds + age) for each in told]
            nodes[n - 1].take(split_status(n, {"host": [3] if at > 110 else [], "spare": [2]}, older), at)
        nodes[n - 1].take_rounds([lost, quiet] if n == 3 else [quiet])
    return nodes


def test_the_end_of_a_host_is_told_with_steps_seconds_and_who_took_over() -> None:
    found = host_cost(lost_host(), 1, 100.0, float("inf"))
    # The steps of the first round that each ended afterwards: 5 and 2. Later ones are of something else.
    assert found == HostCost(
        roles=("host",), lost_steps=7, seconds=2.25, went_on_with=(2,), taken_by={"host": 3}
    )


def test_the_end_of_a_node_without_roles_costs_no_step() -> None:
    assert host_cost(lost_host(), 3, 100.0, float("inf")) is None
    assert host_cost(lost_host(), 1, 130.0, float("inf")) is None, "it held the role long before"


def test_a_role_that_another_holds_beside_it_stays_with_that_one() -> None:
    nodes = [Observed(f"node-{i}") for i in (1, 2, 3)]
    for n, node in enumerate(nodes, start=1):
        node.take(split_status(n, {"host": [1, 2]}), 99.0)
    nodes[1].take(split_status(2, {"host": [2]}), 101.0)
    found = host_cost(nodes, 1, 100.0, float("inf"))
    assert found == HostCost(
        roles=("host",), lost_steps=0, seconds=None, went_on_with=(), taken_by={"host": 2}
    )
    nodes[1].held[0].last = 99.0
    assert host_cost(nodes, 1, 100.0, float("inf")).taken_by == {}  # type: ignore[union-attr]


def test_what_befell_a_node_again_is_not_counted_twice() -> None:
    nodes = lost_host()
    found = host_cost(nodes, 1, 100.0, 101.0)
    assert found is not None
    assert (found.seconds, found.went_on_with) == (None, ())
