"""The verdict holds if all that must hold holds, and fails for every single thing that does not."""

from collections.abc import Callable, Sequence

import msgspec
import pytest
from testnet_fakes import round_status, status

from shoal.node.status import RoundStatus
from shoal.node.testnet.plan import Plan
from shoal.node.testnet.verdict import Result, judge
from shoal.node.testnet.watch import Observed

PLAN = Plan(nodes=3, rounds=4, bar=0.9)


def observed(index: int, history: Sequence[RoundStatus], phase: str = "finished") -> Observed:
    node = Observed(f"node-{index}")
    node.take(status(name=node.name, history=history, phase=phase, pid=index))
    return node


def swarm(accuracy: float = 0.95) -> list[Observed]:
    history = [round_status(i, accuracy=accuracy, contributors=3) for i in range(1, 5)]
    return [observed(i, history) for i in (1, 2, 3)]


def failing(result: Result) -> list[str]:
    return [check.name for check in result.invariants if not check.ok]


def test_a_swarm_that_learned_together_passes() -> None:
    result = judge(PLAN, swarm(), local_only=[0.3, 0.4, 0.5], seconds=12.3456)
    assert result.verdict
    assert failing(result) == []
    assert (result.nodes, result.rounds, result.same_state_hash, result.seconds) == (3, 4, True, 12.346)
    assert (result.accuracy_mean, result.accuracy_min) == pytest.approx((0.95, 0.95))
    assert result.local_only_mean == pytest.approx(0.4)
    assert (result.bytes_sent, result.bytes_received) == (3000, 3000)


def test_the_json_has_the_promised_names() -> None:
    found = msgspec.json.decode(msgspec.json.encode(judge(PLAN, swarm(), local_only=[0.4], seconds=1.0)))
    assert set(found) >= {
        *("verdict", "nodes", "rounds", "accuracy_mean", "accuracy_min", "local_only_mean"),
        *("same_state_hash", "seconds", "bytes_sent", "invariants"),
    }
    assert found["verdict"] is True
    assert set(found["invariants"][0]) == {"name", "ok", "detail"}
    assert len(found["per_node"]) == 3


@pytest.mark.parametrize(
    ("plan", "alpha"),
    [
        (Plan(nodes=3, rounds=4), 0.1),
        (Plan(nodes=3, rounds=4, alpha=1.0, task="tables"), 1.0),
        (Plan(nodes=3, rounds=4, task_options={"alpha": 5.0}), 5.0),
        (Plan(nodes=3, rounds=4, task="tones"), None),
        (Plan(nodes=3, rounds=4, task="my.own:Task"), None),
    ],
)
def test_the_json_has_the_alpha_that_the_task_was_given_and_none_else(
    plan: Plan, alpha: float | None
) -> None:
    found = msgspec.json.decode(msgspec.json.encode(judge(plan, swarm(), local_only=[0.4], seconds=1.0)))
    assert found.get("alpha") == alpha
    assert ("alpha" in found) == (alpha is not None)


def unfinished(nodes: list[Observed]) -> None:
    nodes[1] = observed(2, [round_status(1, accuracy=0.95, contributors=3)], phase="working")


def silent(nodes: list[Observed]) -> None:
    nodes[1] = Observed("node-2")


def killed(nodes: list[Observed]) -> None:
    unfinished(nodes)
    nodes[1].exit_code = -9


def restarted(nodes: list[Observed]) -> None:
    nodes[1].pids.add(99)


def below_quorum(nodes: list[Observed]) -> None:
    nodes[1].rounds[2] = round_status(2, contributors=1)


def trained_alone(nodes: list[Observed]) -> None:
    nodes[1].rounds[2] = round_status(2, contributors=1, outcome="alone", state=nodes[1].rounds[2].state_hash)


def apart_in_between(nodes: list[Observed]) -> None:
    nodes[1].rounds[2] = round_status(2, contributors=3, state="ff" * 6)


def apart_at_the_end(nodes: list[Observed]) -> None:
    nodes[1].take(status(state="ff" * 6, pid=2))


def weak(nodes: list[Observed]) -> None:
    history = [round_status(i, accuracy=0.899, contributors=3) for i in range(1, 5)]
    nodes[1] = observed(2, history)


def failed_to_leave(nodes: list[Observed]) -> None:
    nodes[1].left = 1


def unmeasured(nodes: list[Observed]) -> None:
    history = [round_status(i, accuracy=None, contributors=3) for i in range(1, 5)]
    nodes[1] = observed(2, history)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (unfinished, "every node finished every round"),
        (silent, "every node finished every round"),
        (killed, "no node restarted or ended early"),
        (restarted, "no node restarted or ended early"),
        (below_quorum, "every round met its quorum"),
        (trained_alone, "every round met its quorum"),
        (apart_in_between, "equal state on all nodes after every round"),
        (apart_at_the_end, "same state hash at the end"),
        (weak, "accuracy of every node at least 0.90"),
        (failed_to_leave, "every node left when asked to"),
        (unmeasured, "accuracy of every node at least 0.90"),
    ],
)
def test_each_thing_that_must_hold_can_fail_the_verdict(
    spoil: Callable[[list[Observed]], None], expected: str
) -> None:
    nodes = swarm()
    spoil(nodes)
    result = judge(PLAN, nodes, local_only=[0.4], seconds=1.0)
    assert not result.verdict
    assert expected in failing(result)


def test_a_node_that_never_answered_leaves_no_equal_state() -> None:
    result = judge(PLAN, [Observed(f"node-{i}") for i in (1, 2, 3)], seconds=1.0)
    assert not result.same_state_hash
    assert not result.verdict
    assert result.accuracy_mean is None


def test_a_swarm_of_one_is_its_own_quorum() -> None:
    history = [round_status(i, accuracy=0.95, contributors=1, outcome="alone") for i in (1, 2)]
    assert judge(Plan(nodes=1, rounds=2), [observed(1, history)], seconds=1.0).verdict


def test_a_round_fetched_from_the_others_needs_no_contributors() -> None:
    nodes = swarm()
    nodes[1].rounds[2] = round_status(2, contributors=0, outcome="synced")
    assert judge(PLAN, nodes, seconds=1.0).verdict


def test_a_node_that_took_the_last_state_over_has_the_accuracy_of_that_state() -> None:
    nodes = swarm()
    nodes[1] = observed(2, [round_status(1, accuracy=0.2, contributors=3)])
    nodes[1].take(status(history=[round_status(4, accuracy=None, contributors=0, outcome="synced")], pid=2))
    result = judge(PLAN, nodes, seconds=1.0)
    assert [node.accuracy for node in result.per_node] == [0.95, 0.95, 0.95]
    assert result.verdict


def test_tries_that_failed_are_counted_and_do_not_fail_a_run_that_ended_well() -> None:
    nodes = swarm()
    history = [round_status(1, contributors=0, outcome="failed", accuracy=None)]
    nodes[1].take(status(history=history, pid=2, state=nodes[0].rounds[4].state_hash))
    result = judge(PLAN, nodes, seconds=1.0)
    assert result.verdict
    assert [node.failed_rounds for node in result.per_node] == [0, 1, 0]


def test_groups_smaller_than_the_swarm_need_not_agree_on_one_state() -> None:
    plan = Plan(nodes=3, rounds=4, group_size=2, bar=0.9)
    nodes = swarm()
    apart_in_between(nodes)
    nodes[1].take(status(state="ff" * 6, pid=2))
    result = judge(plan, nodes, seconds=1.0)
    assert result.verdict
    assert not result.same_state_hash


@pytest.mark.parametrize(("apart", "holds"), [(0.0, True), (0.1, True), (0.11, False), (None, False)])
def test_of_nodes_that_average_pairwise_models_are_compared_and_not_hashes(
    apart: float | None, holds: bool
) -> None:
    nodes = swarm()
    apart_in_between(nodes)
    nodes[1].take(status(state="ff" * 6, pid=2))
    plan = Plan(nodes=3, rounds=4, exchange="pairwise", bar=0.9)
    result = judge(plan, nodes, seconds=1.0, local_only=[0.4], apart=apart)
    assert result.verdict == holds
    assert result.models_apart == apart
    assert not result.same_state_hash


def test_training_alone_is_judged_by_its_end_only() -> None:
    histories = [
        [round_status(i, accuracy=0.2, contributors=1, outcome="alone", state=f"{node}{i}") for i in (1, 2)]
        for node in (1, 2)
    ]
    nodes = [observed(i + 1, history) for i, history in enumerate(histories)]
    plan = Plan(nodes=2, rounds=2, method="local")
    assert judge(plan, nodes, local_only=[0.2, 0.2], seconds=1.0).verdict
    nodes[0] = observed(1, histories[0], phase="working")
    assert not judge(plan, nodes, local_only=[0.2, 0.2], seconds=1.0).verdict


@pytest.mark.parametrize(
    ("together", "alone", "holds"), [(0.5, [0.4, 0.6], True), (0.5, [0.6], False), (0.5, [], False)]
)
def test_a_task_without_a_bar_must_beat_training_alone(
    together: float, alone: list[float], holds: bool
) -> None:
    plan = Plan(nodes=3, rounds=4, task="mine:Task")
    assert judge(plan, swarm(together), local_only=alone, seconds=1.0).verdict is holds


@pytest.mark.parametrize(
    ("changes", "bar"),
    [
        ({}, 0.90),
        ({"rounds": 3}, None),
        ({"rounds": 29}, None),
        ({"nodes": 10}, None),
        ({"nodes": 10, "rounds": 60}, 0.90),
        ({"rounds": 0, "seconds": 60.0}, 0.90),
        ({"rounds": 3, "bar": 0.5}, 0.5),
        ({"task": "mine:Task"}, None),
        ({"task": "mine:Task", "bar": 0.7}, 0.7),
    ],
)
def test_the_bar_follows_from_the_task_the_rounds_and_the_nodes(
    changes: dict[str, object], bar: float | None
) -> None:
    plan = Plan(**changes)  # type: ignore[arg-type]
    assert plan.accuracy_bar == bar


def test_a_short_run_must_beat_training_alone_and_not_the_bar_of_a_long_one() -> None:
    plan = Plan(nodes=3, rounds=4)
    assert judge(plan, swarm(0.5), local_only=[0.4], seconds=1.0).verdict
    assert not judge(plan, swarm(0.5), local_only=[0.6], seconds=1.0).verdict
    assert not judge(PLAN, swarm(0.5), local_only=[0.4], seconds=1.0).verdict


def without_accuracy(*losses: float) -> list[Observed]:
    history = [
        msgspec.structs.replace(round_status(number, accuracy=None, contributors=3), loss=loss)
        for number, loss in enumerate(losses, 1)
    ]
    return [observed(index, history) for index in (1, 2, 3)]


@pytest.mark.parametrize(
    ("losses", "holds"),
    [
        ((2.0, 1.0), True),
        ((1.0, 2.0), False),
        ((2.0, float("nan")), False),
        ((2.0,), True),
        ((float("nan"), float("nan")), True),
    ],
)
def test_a_task_without_accuracy_is_judged_by_its_loss_or_not_at_all(
    losses: tuple[float, ...], holds: bool
) -> None:
    plan = Plan(nodes=3, rounds=len(losses), task="mine:Task")
    result = judge(plan, without_accuracy(*losses), seconds=1.0)
    assert result.verdict is holds, failing(result)
    # Who asks for an accuracy wants one.
    asked = msgspec.structs.replace(plan, bar=0.5)
    assert not judge(asked, without_accuracy(*losses), seconds=1.0).verdict


def test_many_faults_are_told_in_one_short_line() -> None:
    nodes = swarm()
    nodes[0].rounds = {i: round_status(i, contributors=1) for i in range(1, 100)}
    [check] = [
        c for c in judge(PLAN, nodes, seconds=1.0).invariants if c.name == "every round met its quorum"
    ]
    assert check.detail.endswith("; and 96 more")
    assert "\n" not in check.detail


def test_a_node_that_lies_is_asked_for_nothing_and_named() -> None:
    plan = Plan(nodes=3, rounds=4, bar=0.9, liars=1, lie="zeros")
    liar = observed(3, [round_status(1, accuracy=0.1, contributors=1, state="ffff")], phase="working")
    honest = swarm()[:2]
    result = judge(plan, [*honest, liar], seconds=1.0)
    assert result.verdict, failing(result)
    assert (result.liars, result.lie, result.rounds, result.same_state_hash) == (1, "zeros", 4, True)
    assert (result.accuracy_mean, result.accuracy_min) == pytest.approx((0.95, 0.95))
    assert [node.lie for node in result.per_node] == ["", "", "zeros"]
    assert not judge(plan, [honest[0], liar, honest[1]], seconds=1.0).verdict


def test_a_node_that_was_ended_for_good_on_purpose_holds_up_nothing() -> None:
    nodes = swarm()
    killed(nodes)
    nodes[1].wished = True
    result = judge(PLAN, nodes, local_only=[0.4], seconds=1.0)
    assert result.verdict
    assert (result.rounds, result.same_state_hash) == (4, True)
    (finished,) = [each for each in result.invariants if each.name == "every node finished every round"]
    assert finished.detail == "4 rounds on 2 nodes, 1 ended on purpose"
