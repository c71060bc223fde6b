"""The methods over real node processes: a peer that lies, bytes, a node killed, a late joiner, one state."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from meter import Meter
from swarm import NODE, Node, Swarm, averaged, wait_agreement, wait_until

from shoal.methods.learning.task import load_task
from shoal.methods.registry import describe
from shoal.node.config.settings import scalars
from shoal.node.status import Status
from shoal.node.trainer.model_size import size_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LONG = 200.0
"""Seconds: several nodes start torch and pre-train a body on two cores that others use too."""
NODES = 3
AROUND = 10_000
"""Bytes that a node sends in a round around what the method tells, to two others: who is there, who is ready,
commitments, agreement on the set, links' own framing. Measured: 3 to 7 kB."""
REFUSED = "a body that the method refused"
HARMFUL = "a vector that holders of its task found harmful"


@dataclass(frozen=True)
class Case:
    """A method on a task that shows it, and what one of three nodes lies about in its first rounds."""

    task: str
    lies: tuple[str, ...]
    options: tuple[str, ...] = ()
    """Of the method; they make its rounds short."""
    task_options: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    """Further options of the late joiner's task."""
    measured: str = "accuracy"
    """What the late joiner must report."""


FOUR = ("tasks=upright,mirrored,turned,inverted", "per_node=4")
CASES = {
    "fedstar": Case("digits_few_labels", ("noise", "giant")),
    "fedln": Case("digits_noisy", ("noise", "giant"), ("batch_size=32",)),
    "fedcompress": Case(
        "digits_compressible", ("nan", "examples", "giant"), ("epochs=1", "cluster_epochs=0", "kappa_max=8")
    ),
    "deltamask": Case("digits_body", ("everything", "bomb", "giant"), ("head_rounds=0", "steps=10")),
    "matu": Case(
        "digit_tasks",
        ("scale", "nan", "giant", "labels"),
        ("steps=10",),
        FOUR,
        ("own=parity,upright",),
        "accuracy parity",
    ),
}
"""By method. MaTU's liar goes on under wrong labels, and its late joiner brings a task nobody knew."""


def words(flag: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]


def start_three(swarm: Swarm, method: str, case: Case) -> list[Node]:
    """Start two honest nodes and a liar."""
    nodes: list[Node] = []
    for i in range(1, NODES + 1):
        options = words("--task-option", (f"share={i}/{NODES}", *case.task_options))
        lies = {"SHOAL_TESTING_TRAINER": "liar", "LIES": ",".join(case.lies)} if i == NODES else None
        nodes.append(
            swarm.start(f"node{i}", *flags_of(method, case), *options, "--wait-for", "3", join=nodes[:1],
                        environ=lies)
        )  # fmt: skip
    return nodes


def flags_of(method: str, case: Case) -> list[str]:
    flags = ["--method", method, "--task", case.task, "--quorum", "2", "--patience", "60"]
    return flags + words("--option", case.options)


def expected_bytes(method: str, case: Case) -> int:
    """Return what `shoal methods show` says a node sends in a round."""
    size = size_of(load_task(case.task, scalars([*case.task_options], "task options")))
    return describe(method, size, scalars([*case.options], "options")).traffic.bytes_per_round(NODES)


def assert_lies_are_counted(nodes: Sequence[Node], lies: int) -> None:
    """See that each lie was refused by all alike, and that a person is told."""
    for node in nodes:
        rounds = averaged(node.status)
        assert [rounds[i].metrics["refused"] for i in range(lies + 1)] == [*[1.0] * lies, 0.0]
        assert node.status.drops[REFUSED] == lies
    first, second = (averaged(node.status) for node in nodes)
    assert all(first[i].state_hash == second[i].state_hash for i in range(lies + 1))
    command = [*NODE, "status", "--home", str(nodes[0].home)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"{lies} messages: {REFUSED}" in shown


@pytest.mark.parametrize("method", CASES)
def test_it_outlives_lies_and_a_death_takes_in_a_late_joiner_and_sends_what_is_told(
    tmp_path: Path, method: str
) -> None:
    case = CASES[method]
    lies = len(set(case.lies) - {"labels"})
    with Swarm(tmp_path) as swarm:
        nodes = start_three(swarm, method, case)
        meter = Meter(nodes)

        def has_gone_on() -> list[Status] | None:
            statuses = meter.look()
            return statuses if statuses and all(status.round >= lies + 12 for status in statuses) else None

        statuses = wait_until("rounds after the lies", has_gone_on, LONG)
        assert_lies_are_counted(nodes[:2], lies)
        sent = (NODES - 1) * meter.bytes_per_update(statuses, first=lies + 1)
        told = expected_bytes(method, case)
        print(f"{method}: {sent:.0f} bytes of a node per round on the socket, {told} told")
        assert 0.8 * told <= sent <= 1.1 * told + AROUND
        if method == "matu":
            separate = 4 * 4 * 16_576 * (NODES - 1)
            print(f"{sent / separate:.3f} of four float32 vectors to each")
            assert sent <= 0.30 * separate
            for node in nodes[:2]:
                node.wait("the wrong labels are found out", lambda status: status.drops.get(HARMFUL, 0), LONG)

        nodes[2].kill()
        at_death = nodes[0].status.round
        for node in nodes[:2]:
            node.wait("rounds without it", lambda s: goes_on_with(s, NODES - 1, at_death + 1), LONG)
        options = words("--task-option", (f"share={NODES}/{NODES}", *case.task_options, *case.late))
        late = swarm.start("late", *flags_of(method, case), *options, join=nodes[1])
        found = late.wait("it takes part", lambda s: goes_on_with(s, NODES, 0), LONG)
        assert any(each.outcome == "synced" for each in found.history)
        assert found.metrics[case.measured] > 0.1
        wait_agreement([*nodes[:2], late], least=found.round, seconds=LONG)


def goes_on_with(status: Status, contributors: int, since: int) -> bool:
    """Say whether a round since then had so many contributors."""
    return any(e.contributors == contributors for i, e in averaged(status).items() if i >= since)
