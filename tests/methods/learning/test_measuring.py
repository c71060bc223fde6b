"""Measuring never touches a round: what fails or is no finite number is absent, and said once."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from callbacks import Told
from torch import nn

from shoal.methods.errors import BadTask
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Task, count


class Measured(Task):
    """A model with dropout and batch norm, measured as a test wants it."""

    def __init__(self, measure: Callable[[nn.Module], Any] | None = None, test: Any = None) -> None:
        self.measure, self.test = measure, test
        self.x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))

    def train_data(self) -> Any:
        return self.x, (self.x.sum(1) > 0).long()

    def test_data(self) -> Any:
        return self.test

    def metrics(self, model: nn.Module) -> Any:
        return super().metrics(model) if self.measure is None else self.measure(model)


def broken(model: nn.Module) -> Any:
    raise RuntimeError("first line\nsecond line")


EMPTY = (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
BAD: dict[str, tuple[Callable[[nn.Module], Any] | None, Any, str]] = {
    "an exception": (broken, None, r"Measured.metrics\(\) failed: RuntimeError: first line$"),
    "a division by zero": (lambda model: {"f1": 1 / 0}, None, "ZeroDivisionError"),
    "an empty test split": (None, EMPTY, "no examples to measure on"),
    "unlike lengths": (None, (torch.zeros(2, 3), torch.zeros(3).long()), r"these are \[2, 3\], \[3\]"),
    "not a number": (lambda model: {"good": 1, "bad": float("nan")}, None, "gives bad = nan"),
    "infinite": (lambda model: {"good": 1, "bad": torch.tensor(np.inf)}, None, r"gives bad = tensor\(inf\)"),
    "a word": (lambda model: {"good": 1, "bad": "high"}, None, "gives bad = high"),
    "many numbers": (lambda model: {"good": 1, "bad": torch.ones(2)}, None, "gives bad = tensor"),
    "nothing": (lambda model: None, None, "TypeError"),
    "too large": (lambda model: {"bad": 10**400}, None, "gives bad = 1000"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_measured_is_absent_and_said_once(name: str) -> None:
    measure, test, words = BAD[name]
    told: list[tuple[str, str]] = []
    task = Measured(measure, test)
    learner = TorchLearner(task, callbacks=Told(told))
    for _ in range(3):
        assert learner.evaluate(learner.initial) in ({}, {"good": 1.0})
    ((source, text),) = told
    assert source == "metrics"
    assert "\n" not in text
    assert re.search(words, text)
    task.measure = lambda model: {"good": 2}
    assert learner.evaluate(learner.initial) == {"good": 2.0}
    assert told[1:] == [("metrics", "")]


def meddling(model: Any) -> Any:
    model.train()
    torch.rand(3)
    model(torch.randn(8, 3))
    for parameter in model.parameters():
        parameter.zero_()
    raise ValueError


def test_measuring_in_the_middle_of_local_work_changes_nothing_of_it_whatever_it_does() -> None:
    def trained(*, measures: bool) -> tuple[bytes, int]:
        learner = TorchLearner(Measured(meddling), callbacks=Told([]))

        def measure() -> None:
            learner.evaluate(learner.initial + 1)

        if measures:
            learner.arrived = measure
        done = learner.train(learner.initial, steps=4, lr=0.1, batch_size=8)
        return done.params.tobytes(), learner.model[1].num_batches_tracked.item()

    assert trained(measures=True) == trained(measures=False)


@pytest.mark.parametrize(
    "data",
    [
        (torch.zeros(4, 3), torch.zeros(5)),
        (torch.zeros(4, 3), torch.zeros(3)),
        (torch.zeros(4, 3), torch.zeros(4), torch.zeros(2)),
        (torch.zeros(4, 3), torch.tensor(1)),
    ],
)
def test_examples_of_unlike_lengths_are_refused(data: Any) -> None:
    class Uneven(Measured):
        def train_data(self) -> Any:
            return data

    with pytest.raises(BadTask, match=r"tensors of one length, and these are \[4, 3\], \["):
        TorchLearner(Uneven())
    with pytest.raises(BadTask):
        count(data)
