"""DeltaMask and MaTU over real node processes: bytes of the sockets, a node killed, a newcomer, one state.

Bytes are counted over rounds in which all nodes took part and nobody fetched a state, from all that the
sockets sent, whatever for: presence, matchmaking, commitments, links' own framing.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

import pytest
from lockstep import train
from meter import Meter
from swarm import Node, Swarm, averaged, wait_until

from shoal.methods.base import Method
from shoal.methods.deltamask.method import DeltaMask, DeltaMaskConfig
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Task
from shoal.methods.tasks.digits_multitask import DigitTasks
from shoal.methods.tasks.digits_pretrained import DigitsBody
from shoal.node.status import Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG: Final = 400.0
"""Seconds: several nodes start torch and pre-train a body on two cores that others use too."""
WIDTH: Final = 8192
WEIGHTS: Final = 96 * WIDTH


def lockstep_accuracy(method: Method, tasks: Sequence[Task], rounds: int) -> float:
    """Return what a baseline reaches on the same shares, without a network."""
    learners = [TorchLearner(task, seed=0) for task in tasks]
    states, _ = train(method, learners, learners[0].initial, rounds)
    found = [each.evaluate(state.params)["accuracy"] for each, state in zip(learners, states, strict=True)]
    return fmean(found)


def start_all(swarm: Swarm, count: int, *flags: str, options: Sequence[str] = ()) -> list[Node]:
    """Start nodes, of which each is told its share."""
    nodes: list[Node] = []
    for i in range(1, count + 1):
        share = ("--task-option", f"share={i}/{count}")
        more = [word for option in options for word in ("--task-option", option)]
        nodes.append(
            swarm.start(
                f"node{i}", *flags, *share, *more, "--wait-for", str(count), "--patience", "60",
                join=nodes[:1],
            )
        )  # fmt: skip
    return nodes


def wait_round(nodes: Sequence[Node], last: int) -> list[Status]:
    """Wait until all have finished so many rounds; they must hold the same state."""
    statuses = [node.wait("all rounds", lambda status: status.round == last, LONG) for node in nodes]
    assert len({status.state_hash for status in statuses}) == 1
    return statuses


def test_masks_beat_the_linear_probe(tmp_path: Path) -> None:
    flags = ("--task", "digits_body", "--method", "deltamask", "--rounds", "40")
    with Swarm(tmp_path) as swarm:
        statuses = wait_round(start_all(swarm, 5, *flags), 40)
    reached = fmean(status.metrics["accuracy"] for status in statuses)
    # The head's last round: a linear probe, before the first mask. And one of forty rounds.
    probe = max(averaged(status)[9].metrics["accuracy"] for status in statuses if 9 in averaged(status))
    tasks = [DigitsBody(f"{i + 1}/5") for i in range(5)]
    long_probe = lockstep_accuracy(DeltaMask(DeltaMaskConfig(head_rounds=40)), tasks, 40)
    bits = [
        each.metrics["bits_per_weight"]
        for status in statuses
        for each in status.history
        if "bits_per_weight" in each.metrics
    ]
    print(f"masks {reached:.3f}, probe {probe:.3f}, as long a probe {long_probe:.3f}, {fmean(bits):.3f} bits")
    assert reached >= probe + 0.08
    assert reached >= long_probe + 0.04
    assert fmean(bits) <= 0.15


def test_task_vectors_beat_one_model_for_all_tasks_under_conflict(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        nodes = start_all(swarm, 6, "--task", "digit_tasks", "--method", "matu", "--rounds", "15")
        statuses = wait_round(nodes, 15)
    reached = fmean(status.metrics["accuracy"] for status in statuses)
    tasks = [DigitTasks(f"{i + 1}/6") for i in range(6)]
    naive = lockstep_accuracy(FedAvg(FedAvgConfig(steps=40, lr=0.1)), tasks, 15)
    print(f"task vectors {reached:.3f}, one model {naive:.3f}")
    assert reached >= naive + 0.10


def test_a_mask_costs_a_tenth_of_a_bit_per_weight_on_the_socket(tmp_path: Path) -> None:
    flags = ("--task", "digits_body", "--method", "deltamask", "--option", "head_rounds=2", "--rounds", "16")
    with Swarm(tmp_path) as swarm:
        nodes = start_all(swarm, 3, *flags, options=[f"width={WIDTH}"])
        meter = Meter(nodes)

        def is_over() -> list[Status] | None:
            statuses = meter.look()
            return statuses if statuses and all(status.round == 16 for status in statuses) else None

        statuses = wait_until("all rounds", is_over, LONG)
        bits = 8 * meter.bytes_per_update(statuses, first=2) / WEIGHTS
        last = 8 * meter.bytes_per_update(statuses, first=12) / WEIGHTS
        body = [each.metrics["bits_per_weight"] for status in statuses for each in status.history[4:]
                if "bits_per_weight" in each.metrics]  # fmt: skip
        print(f"{bits:.3f} bits per weight on the socket, {last:.3f} in the last rounds,", end=" ")
        print(f"{sum(body) / len(body):.3f} in the updates")
        assert len({status.state_hash for status in statuses}) == 1
        assert bits <= 0.15
        assert last <= 0.11
