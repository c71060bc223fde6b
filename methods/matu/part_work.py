"""Part work: local training and measuring of one of several tasks that a node has, all on one model."""

from typing import Final

import torch

from shoal.gossip.events import Vector
from shoal.methods.base import Trained
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.objective import Objective
from shoal.methods.learning.task import Examples, Task, count, subset
from shoal.methods.learning.task_identity import Identity

MAX_OWN: Final = 512
"""Examples of ours on which vectors of others are tried: enough to tell two points from none."""


class Part:
    """One task of a node."""

    def __init__(self, learner: TorchLearner, task: Task) -> None:
        """`learner`: of the task that this one is a part of."""
        self._learner, self._task = learner, task
        self._has_failed = False
        self._data: Examples = task.train_data()
        self.identity: Identity = task.identity()
        self.examples = count(self._data)

    def train(
        self, params: Vector, *, steps: int, lr: float, batch_size: int, optimizer: str, round_: int
    ) -> Trained:
        """See `Learner.train`."""
        return self._learner.train(
            params,
            steps=steps,
            lr=lr,
            batch_size=min(batch_size, self.examples),
            optimizer=optimizer,
            round_=round_,
            objective=Objective(self._task, self._data),
        )

    def accuracy(self, params: Vector) -> float:
        """Return the accuracy on this node's own examples, or the first of them."""
        return self._measured(params, subset(self._data, torch.arange(min(MAX_OWN, self.examples))))

    def test_accuracy(self, params: Vector) -> float | None:
        """Return the accuracy on the test data, if there are any; what fails is said once."""
        try:
            data = self._task.test_data()
            return None if data is None or count(data) == 0 else self._measured(params, data)
        except Exception as error:  # noqa: BLE001  # the user's task may raise anything
            if not self._has_failed:
                name = type(self._task).__name__
                self._learner.callbacks.problem(
                    f"metrics of {name}", f"{name} cannot be measured: {type(error).__name__}: {error}"
                )
            self._has_failed = True
            return None

    def _measured(self, params: Vector, data: Examples) -> float:
        return self._learner.accuracy(self._task, params, data)


def parts_of(learner: TorchLearner) -> list[Part]:
    """Return a node's tasks: the parts of its task, or else the task itself."""
    tasks = learner.task.parts() or {"": learner.task}
    return [Part(learner, task) for task in tasks.values()]
