"""Nodes that train on a GPU in bfloat16: `make check-gpu`. Where there is none, one line says so."""

import os
import signal
from pathlib import Path

import pytest
import torch
from swarm import Node, Swarm, averaged, wait_agreement, wait_until

DEVICE = "cuda"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use here"),
]

FLAGS = (
    *("--task", "paced:Half", "--task-option", "hidden=4096", "--task-option", "pause=0.02"),
    *("--method", "diloco", "--option", "steps=5", "--device", DEVICE),
)


def trainer_pid(node: Node) -> int:
    trainer = node.trainer
    assert trainer is not None
    return trainer.pid


def test_bfloat16_models_of_two_nodes_on_a_gpu_become_one_and_a_killed_trainer_comes_back(
    tmp_path: Path,
) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *FLAGS, "--wait-for", "2")
        two = swarm.start("two", *FLAGS, "--wait-for", "2", join=one)
        wait_agreement([one, two], least=3)
        former = trainer_pid(two)
        known = one.status.round
        os.kill(former, signal.SIGKILL)
        wait_until("another trainer", lambda: two.trainer is not None and two.trainer.pid != former)
        wait_agreement([one, two], least=known + 3)
        assert max(averaged(two.status)) >= known + 3
