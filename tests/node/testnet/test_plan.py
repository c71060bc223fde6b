"""Plans become command lines that a person could have typed, and start orders that reach everyone."""

import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from shoal.node.testnet.faults import Fault, Link
from shoal.node.testnet.plan import (
    BadPlan,
    Plan,
    Topology,
    check,
    index_of,
    start_command,
    task_options,
    told,
    told_later,
)

HOME = Path("/homes/node-2")
LOOPBACK = ["--listen", "/ip4/127.0.0.1/tcp/0"]


def links(plan: Plan) -> set[frozenset[int]]:
    found = {frozenset((i, other)) for i in range(1, plan.nodes + 1) for other in told(plan, i)}
    return found | {frozenset(pair) for pair in told_later(plan)}


@pytest.mark.parametrize("topology", get_args(Topology))
@pytest.mark.parametrize("nodes", [1, 2, 3, 6, 17])
def test_whom_nodes_are_told_connects_all_of_them(topology: Topology, nodes: int) -> None:
    plan = Plan(nodes=nodes, topology=topology)
    reached, edge = {1}, {1}
    while edge:
        edge = {b for pair in links(plan) for a in edge & pair for b in pair} - reached
        reached |= edge
    assert reached == set(range(1, nodes + 1))


@pytest.mark.parametrize("topology", get_args(Topology))
def test_a_node_is_only_told_of_nodes_that_start_before_it(topology: Topology) -> None:
    plan = Plan(nodes=9, topology=topology)
    assert all(other < index for index in range(1, 10) for other in told(plan, index))


def test_the_topologies_have_the_shapes_of_their_names() -> None:
    shapes = {t: links(Plan(nodes=4, topology=t)) for t in get_args(Topology)}
    star = {frozenset((1, i)) for i in (2, 3, 4)}
    line = {frozenset((i, i + 1)) for i in (1, 2, 3)}
    assert shapes == {"full": star, "star": star, "line": line, "ring": line | {frozenset((1, 4))}}


def test_a_ring_of_two_is_a_line() -> None:
    assert links(Plan(nodes=2, topology="ring")) == {frozenset((1, 2))}


def test_a_node_is_started_as_a_person_would() -> None:
    plan = Plan(nodes=5, rounds=7, seed=3, options={"lr": 0.05, "weighted": True}, patience=4.0)
    command = start_command(plan, 2, HOME, ["/ip4/127.0.0.1/tcp/9/p2p/x"], LOOPBACK)
    assert command == [
        *(sys.executable, "-P", "-m", "shoal.node", "start", "--home", "/homes/node-2", "--name", "node-2"),
        *("--listen", "/ip4/127.0.0.1/tcp/0", "--http-port", "0", "--no-mdns"),
        *("--log-level", "info", "--no-check"),
        *("--task-option", "share=2/5", "--task-option", "alpha=0.1", "--task-option", "seed=3"),
        *("--task", "digits", "--method", "fedavg", "--option", "lr=0.05", "--option", "weighted=true"),
        *("--rounds", "7", "--seed", "3", "--quorum", "3", "--combine", "mean"),
        *("--wait-for", "5", "--wait-seconds", "50.0", "--patience", "4.0"),
        *("--join", "/ip4/127.0.0.1/tcp/9/p2p/x"),
    ]


@pytest.mark.parametrize(("nodes", "seconds"), [(2, "30.0"), (32, "320.0")])
def test_many_nodes_on_one_machine_are_given_time_to_load(nodes: int, seconds: str) -> None:
    command = start_command(Plan(nodes=nodes), 1, HOME, [], LOOPBACK)
    assert command[command.index("--wait-seconds") + 1] == seconds


def test_a_node_that_trains_alone_waits_for_nobody() -> None:
    command = start_command(Plan(method="local"), 1, HOME, [], LOOPBACK)
    assert not {"--wait-for", "--quorum"} & set(command)


def test_a_task_of_ones_own_gets_its_number_where_it_asks_for_it() -> None:
    plan = Plan(nodes=3, task="mine:Task", task_options={"folder": "data/{i}-of-{n}", "depth": 2})
    assert task_options(plan, 2) == {"folder": "data/2-of-3", "depth": 2}


def test_options_of_a_built_in_task_can_be_overridden() -> None:
    assert task_options(Plan(task_options={"alpha": 100.0}), 1)["alpha"] == 100.0


@pytest.mark.parametrize(
    ("nodes", "group_size", "quorum"), [(1, 16, 1), (2, 16, 2), (5, 16, 3), (8, 8, 5), (20, 4, 2), (20, 3, 1)]
)
def test_the_quorum_is_a_majority_where_all_average_together(
    nodes: int, group_size: int, quorum: int
) -> None:
    assert Plan(nodes=nodes, group_size=group_size).effective_quorum == quorum


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (Plan(method="fedmagic"), "no method fedmagic"),
        (Plan(options={"lrr": 1}), "fedavg has no option lrr"),
        (Plan(options={"lr": -1.0}), "lr = -1.0"),
        (Plan(nodes=3, quorum=4), "lower --quorum"),
        (Plan(rounds=0), "say how long with --seconds"),
        (Plan(nodes=2, faults=(Fault(kind="kill", at=1.0, nodes=(3,)),)), "names a node above 2"),
        (Plan(nodes=2, faults=(Fault(kind="kill", at=1.0, pick=3),)), "names a node above 2"),
        (Plan(nodes=8, group_size=4, quorum=5), "lower --quorum"),
    ],
)
def test_what_every_node_would_refuse_is_refused_once_and_in_one_line(plan: Plan, reason: str) -> None:
    with pytest.raises(BadPlan, match=reason) as caught:
        check(plan)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field", [{"nodes": 0}, {"rounds": -1}, {"churn": -0.1}, {"alpha": 0.0}, {"topology": "torus"}, {"x": 1}]
)
def test_a_plan_out_of_range_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(field, Plan)


@pytest.mark.parametrize("name", ["node-3", "3"])
def test_a_node_is_found_by_name_or_number(name: str) -> None:
    assert index_of(Plan(nodes=3), name) == 3


@pytest.mark.parametrize("name", ["4", "0", "-1", "node-", "x", "node-³"])
def test_a_node_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(BadPlan, match="from node-1 to node-3"):
        index_of(Plan(nodes=3), name)


def test_a_plan_left_in_peace_differs_in_nothing_else() -> None:
    fault = Fault(kind="pause", at=1.0)
    plan = Plan(nodes=7, churn=0.5, faults=(fault,), link=Link(latency=0.1), seed=3)
    assert plan.is_shaken
    assert plan.calm == Plan(nodes=7, seed=3)
    assert not plan.calm.is_shaken


def test_a_delay_and_a_codec_reach_every_node_and_are_left_out_where_they_are_the_usual_ones() -> None:
    command = start_command(Plan(delay=1, codec="int8"), 2, Path("h"), [], [])
    assert command[command.index("--delay") + 1] == "1"
    assert command[command.index("--codec") + 1] == "int8"
    assert not {"--delay", "--codec", "--exchange"} & set(start_command(Plan(), 2, Path("h"), [], []))


def test_pairwise_nodes_are_told_so_and_have_no_quorum() -> None:
    plan = Plan(exchange="pairwise")
    command = start_command(plan, 2, Path("h"), [], [])
    assert command[command.index("--exchange") + 1] == "pairwise"
    assert "--quorum" not in command
    assert not plan.one_group


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(delay=1, method="fedstar"), "leave out --delay, or take --method diloco"),
        (Plan(codec="int9"), "choose one with --codec"),
        (Plan(exchange="pairwise", method="diloco"), "take --method fedavg or fedprox"),
        (Plan(exchange="pairwise", method="fedstar"), "leave out --exchange"),
        (Plan(exchange="pairwise", quorum=3), "leave out --quorum"),
        (Plan(exchange="pairwise", delay=1), "leave out --delay"),
        (Plan(exchange="pairwise", codec="topk"), "take --method diloco, or --codec"),
        (Plan(codec="topk"), "take --method diloco, or --codec"),
        (Plan(codec="int2"), "take --method diloco, or --codec float32, float16, bfloat16, int8, int4$"),
        (Plan(codec="sign", method="deltamask"), "too coarse for params, and deltamask averages params"),
        (Plan(codec="topk", method="diloco"), "take --codec int4, or --option outer_lr=1 and"),
        (Plan(codec="topk", method="fedspeed"), "fedspeed averages params, not changes"),
        (Plan(codec="int2", method="scaffold"), "scaffold averages params, not changes"),
        (Plan(codec="topk", method="fedadam"), "codec topk and outer momentum amplify each other"),
        (
            Plan(codec="topk", method="fedavgm", options={"outer_lr": 1.0, "outer_momentum": 0.0}),
            "fedavgm averages params, not changes",
        ),
        (Plan(exchange="pairwise", method="feddyn"), "feddyn does more than take a mean of params"),
        (Plan(delay=1, method="fedspeed"), "fedspeed cannot train while a mean travels"),
    ],
)
def test_what_every_node_would_refuse_is_refused_before_one_starts(plan: Plan, words: str) -> None:
    with pytest.raises(BadPlan, match=words):
        check(plan)


def test_the_last_nodes_of_a_plan_with_liars_lie_and_the_others_are_started_as_ever() -> None:
    plan = Plan(nodes=3, liars=1, lie="sign-flip")
    honest, lying = (start_command(plan, index, HOME, (), ()) for index in (2, 3))
    assert honest[3:5] == ["shoal.node", "start"]
    assert lying[3:6] == ["shoal.node.testnet.lies.process", "sign-flip", "start"]
    assert plan.honest == 2
    assert plan.calm == Plan(nodes=3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"liars": 1}, "add --lie NAME"),
        ({"lie": "zeros"}, "add --liars K"),
        ({"liars": 3, "lie": "zeros"}, "lower --liars"),
        ({"liars": 1, "lie": "fibs"}, "shoal testnet lies"),
        ({"liars": 1, "lie": "convene"}, "told by an outsider"),
    ],
)
def test_liars_that_make_no_sense_are_refused_with_what_to_type(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadPlan, match=says):
        check(Plan(nodes=3, **changes))


def test_a_plan_with_liars_has_only_the_bar_that_somebody_sets() -> None:
    assert Plan(nodes=3, liars=1, lie="zeros").accuracy_bar is None
    assert Plan(nodes=3, liars=1, lie="zeros", bar=0.85).accuracy_bar == 0.85
