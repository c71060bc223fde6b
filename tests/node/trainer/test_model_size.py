"""The size of a task's model, from which the bytes per round of a method follow."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from shoal.methods.base import ModelSize
from shoal.methods.learning.task import Task, load_task
from shoal.methods.registry import describe
from shoal.node.trainer.model_size import size_of


class Convolution(Task):
    """A model without a linear layer."""

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Conv2d(1, 3, 2)

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64)


class Normed(Convolution):
    """A model of which only the running statistics are no parameters."""

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3))


def test_running_statistics_are_no_part_of_a_body_since_no_mask_is_over_them() -> None:
    size = size_of(Normed())
    assert (size.numel, size.body, size.tensors) == (15 + 4 * 3, 15 + 2 * 3, 6)


@pytest.mark.slow
def test_roles_parts_and_embedding_are_counted() -> None:
    assert size_of(load_task("digits_body", {})) == ModelSize(
        numel=64 * 512 + 512 + 512 * 32 + 32 + 330, body=49_152, head=330, tensors=6, embedding=32, parts=1
    )
    assert size_of(load_task("digit_tasks", {"per_node": 4})).parts == 4
    assert size_of(Convolution()) == ModelSize(numel=15, body=15, head=0, tensors=2, embedding=0, parts=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "task", "options", "at_least", "at_most"),
    [
        # A tenth of a bit for each weight of the body; two vectors but for our own part; three bits each.
        ("deltamask", "digits_body", {}, 2 * 600, 2 * 630),
        ("fedstar", "digits_few_labels", {}, 47_840, 47_840),
        ("fedcompress", "digits_compressible", {"kappa_max": 8}, 2 * 4810 * 3 / 8, 2 * 4810 * 3 / 8 + 400),
        (
            "matu",
            "digit_tasks",
            {"coding": "float32"},
            2 * (4 + 1 / 4) * 16_576,
            2 * (4 + 1 / 4) * 16_576 + 400,
        ),
    ],
)
def test_the_bytes_of_a_method_are_those_of_the_task(
    method: str, task: str, options: dict[str, str | int], at_least: float, at_most: float
) -> None:
    found = describe(method, size_of(load_task(task, {})), options).traffic.bytes_per_round(3)
    assert at_least <= found <= at_most


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_methods_show_tells_the_bytes_for_a_task_or_in_one_line_why_not() -> None:
    def show(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "shoal.node", "methods", "show", "matu", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    shown = show("--task", "digit_tasks", "--task-option", "per_node=4", "--peers", "3").stdout
    assert "each way per round of 3 peers, for 16,576 parameters of digit_tasks, 4 tasks a node" in shown
    assert (
        "task       digit_tasks fits\n           gives parts() (upright, rotated, mirrored, relabelled)"
        in shown
    )
    failed = show("--task", "digit_tasks", "--task-option", "per_nod=4")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: task digit_tasks has no option per_nod; it has: share")
    assert failed.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_methods_show_says_why_a_task_does_not_fit() -> None:
    command = [sys.executable, "-P", "-m", "shoal.node", "methods", "show", "deltamask", "--task", "digits"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0
    assert "task       digits does NOT fit: Digits has no head: let its role() return" in ran.stdout
    ran = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=300)
    assert json.loads(ran.stdout)["fit"]["fits"] is False
