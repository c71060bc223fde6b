"""Objective: what local work minimises, and on which batches. Methods with a loss of their own bring one.

    learner.train(params, ..., objective=MyObjective(learner.task, learner.data))

The learner keeps the loop: vectors in and out, the optimizer, interrupts, the seed of the batches. An
objective is asked for batches, then for the loss on each. It may hold further parameters, trained in the
same loop, which are no part of the params and so never leave the node.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from shoal.methods.errors import BadTask
from shoal.methods.learning.task import Examples, Task, batch_of, count


class Objective:
    """Supervised training on the task's own loss; subclasses override what they need."""

    def __init__(self, task: Task, data: Examples) -> None:
        """`data`: what the batches are drawn from."""
        self.task = task
        self.data = data

    def local_parameters(self) -> Sequence[nn.Parameter]:
        """Return parameters that are trained along but never travel, on the model's device."""
        return ()

    def batches(self, batch_size: int) -> Iterator[Any]:
        """Yield batches without end. Torch's random numbers are seeded by the learner."""
        for indices in shuffled(count(self.data), batch_size):
            yield batch_of(self.data, indices)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Return the loss on one of the batches, which is on the model's device."""
        return self.task.loss(model, batch)

    def before_step(self, model: nn.Module) -> None:
        """Put right what `loss` did to the model; the gradients are there, the optimizer comes next."""
        return


def shuffled(
    examples: int, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[torch.Tensor]:
    """Yield places of examples, shuffled over and over; a rest that fills no batch is passed over."""
    size = min(batch_size, examples)
    while size:
        order = torch.randperm(examples, generator=generator)
        for start in range(0, examples - size + 1, size):
            yield order[start : start + size]


def head_of(model: nn.Module) -> nn.Linear:
    """Return the last linear layer a model registers: the classifier on the penultimate representation.

    Raises:
        BadTask: the model has no linear layer.
    """
    found = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not found:
        raise BadTask("the model has no linear layer, so no representation before it: end it in nn.Linear")
    return found[-1]


class Penultimate:
    """While open, keeps what last went into a model's head: ``with Penultimate(model) as seen: model(x)``."""

    def __init__(self, model: nn.Module) -> None:
        """Hook nothing yet."""
        self._head = head_of(model)
        self.z: torch.Tensor = torch.empty(0)

    def __enter__(self) -> "Penultimate":
        """Start to look."""
        self._handle = self._head.register_forward_pre_hook(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._handle.remove()

    def _note(self, module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        self.z = arguments[0]
