"""The methods over real node processes: what each sends, a node killed, a late joiner, one state."""

import sys
from pathlib import Path

import pytest
from meter import Meter
from swarm import Node, Swarm, averaged, wait_agreement, wait_until

from gossip.runspec import Scalar
from methods.registry import describe
from methods.task import load_task
from node.config import scalars
from node.status import Status
from node.task_size import size_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LONG = 200.0
"""Seconds: several nodes start torch and pre-train a body on two cores that others use too."""
NODES = 3
AROUND = 10_000
"""Bytes that a node sends in a round around what the method tells, to two others: who is there, who is ready,
commitments, agreement on the set, links' own framing. Measured: 3 to 7 kB."""
METHODS = {
    "fedstar": ("digits_few_labels", "lr=0.001"),
    "fedln": ("digits_noisy", "batch_size=32"),
    "fedcompress": ("digits_compressible", "epochs=1", "cluster_epochs=0", "kappa_max=8"),
    "deltamask": ("digits_body", "head_rounds=1", "steps=10"),
    "matu": ("digit_tasks", "steps=5"),
}
"""Method -> a task that shows it, and options that make its rounds short."""


def expected_bytes(method: str, task: str, options: dict[str, Scalar]) -> int:
    """Return what `shoal methods show` says a node sends in a round."""
    return describe(method, size_of(load_task(task, {})), options).bytes_per_round(NODES)


@pytest.mark.parametrize("method", METHODS)
def test_it_sends_what_is_told_and_outlives_a_death_and_takes_in_a_late_joiner(
    tmp_path: Path, method: str
) -> None:
    task, *options = METHODS[method]
    flags = ["--method", method, "--task", task, "--quorum", "2", "--patience", "60"]
    flags += [word for option in options for word in ("--option", option)]
    with Swarm(tmp_path) as swarm:
        nodes: list[Node] = []
        for i in range(1, NODES + 1):
            share = ("--task-option", f"share={i}/{NODES}")
            nodes.append(swarm.start(f"node{i}", *flags, *share, "--wait-for", "3", join=nodes[:1]))
        meter = Meter(nodes)

        def has_gone_on() -> list[Status] | None:
            statuses = meter.look()
            return statuses if statuses and all(status.round >= 8 for status in statuses) else None

        statuses = wait_until("eight rounds", has_gone_on, LONG)
        sent = (NODES - 1) * meter.bytes_per_update(statuses, first=2)
        told = expected_bytes(method, task, scalars(options, "options"))
        print(f"{method}: {sent:.0f} bytes of a node per round on the socket, {told} told", file=sys.stderr)
        assert 0.8 * told <= sent <= 1.1 * told + AROUND
        nodes[2].kill()
        at_death = nodes[0].status.round

        def without_it(status: Status) -> bool:
            return any(each.contributors == NODES - 1 for each in averaged(status).values())

        for node in nodes[:2]:
            node.wait("rounds without it", lambda s: without_it(s) and s.round >= at_death + 2, LONG)
        share = ("--task-option", f"share={NODES}/{NODES}")
        late = swarm.start("late", *flags, *share, join=nodes[1])
        found = late.wait(
            "it takes part", lambda s: any(e.contributors == NODES for e in averaged(s).values())
        )
        assert any(each.outcome == "synced" for each in found.history)
        wait_agreement([*nodes[:2], late], least=found.round, seconds=LONG)
