"""Regrouped tasks: the same data among other owners, or measured on other parts, for comparisons."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import ConcatDataset

from shoal.methods.errors import BadTask
from shoal.methods.learning.task import Examples, Task


class OnePart(Task):
    """One of a node's tasks, as a task of its own on the same model."""

    def __init__(self, whole: Task, part: Task) -> None:
        """Take the model of the whole and all else of the part."""
        self._whole, self._part = whole, part

    def model(self) -> nn.Module:
        """See `Task`."""
        return self._whole.model()

    def train_data(self) -> Examples:
        """See `Task`."""
        return self._part.train_data()

    def validation_data(self) -> Examples | None:
        """See `Task`."""
        return self._part.validation_data()

    def test_data(self) -> Examples | None:
        """See `Task`."""
        return self._part.test_data()

    def outputs(self, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """See `Task`."""
        return self._part.outputs(model, x)

    def optimizer(self, params: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """See `Task`."""
        return self._whole.optimizer(params, lr)


class Pooled(Task):
    """The data of several nodes in one place; all else is the first one's."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """`tasks`: one at least, of one kind."""
        self._first = tasks[0]
        data = [task.train_data() for task in tasks]
        is_tuple = isinstance(data[0], tuple)
        self._data = tuple(map(torch.cat, zip(*data, strict=True))) if is_tuple else ConcatDataset(data)

    def model(self) -> nn.Module:
        """See `Task`."""
        return self._first.model()

    def train_data(self) -> Examples:
        """See `Task`."""
        return self._data

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Task`."""
        return self._first.loss(model, batch)

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """See `Task`."""
        return self._first.metrics(model)

    def optimizer(self, params: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """See `Task`."""
        return self._first.optimizer(params, lr)


def on_validation(task: Task) -> Task:
    """Return a task that is measured on its validation data wherever it was on its test data.

    Its parts are, too. A task that measures by `metrics` of its own, without `test_data`, stays as it is.

    Raises:
        BadTask: it has no validation data.
    """
    parts = {name: on_validation(part) for name, part in task.parts().items()}
    if not parts and task.validation_data() is None:
        raise BadTask(
            f"{type(task).__name__}.validation_data() is None; return examples that no node trains on from"
            " it, to choose values on them"
        )
    measured = copy.copy(task)
    setattr(measured, "test_data", task.validation_data)  # noqa: B010  # mypy forbids the assignment
    setattr(measured, "parts", lambda: parts)  # noqa: B010
    return measured
