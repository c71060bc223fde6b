"""Local work on a part of a model: its head alone, or a random mask over its frozen body.

The mask of Isik, Pase, Gündüz, Weissman, Zorzi, "Sparse Random Networks for Communication-Efficient
Federated Learning", ICLR 2023, https://arxiv.org/abs/2209.15328, who follow Zhou et al. 2019:

    m ~ Bernoulli(σ(s)),   loss(W ⊙ m),   ∂loss/∂σ(s) := ∂loss/∂m        straight through the drawing

A mask is drawn anew for every step. The gradient reaches the scores s only; W and all else stay as they
are, since what an optimizer sees no gradient of it does not touch.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call

from shoal.gossip.events import Vector
from shoal.methods.errors import BadTask
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.model_tensors import travelling
from shoal.methods.learning.objective import Objective
from shoal.methods.learning.parts import stays_of
from shoal.methods.learning.task import Role, Task


def names_of(task: Task, model: nn.Module, role: Role) -> list[str]:
    """Return the tensors of a model that have a role, in the order of its vector.

    Of the body these are parameters alone: a mask over the running means of batch norm would say nothing, and
    no gradient reaches them. Of the head, which travels as it is, they are its floating buffers too.
    """
    parameters = dict(model.named_parameters())
    return [
        name
        for name in travelling(model, stays_of(task, model))
        if task.role(name) == role and (role != "body" or name in parameters)
    ]


def where(learner: TorchLearner, role: Role) -> npt.NDArray[np.bool_]:
    """Return which of a model's numbers have a role, as a mask over its vector.

    Raises:
        BadTask: none has it.
    """
    names = set(names_of(learner.task, learner.model, role))
    if not names:
        name = type(learner.task).__name__
        raise BadTask(f"{name} has no {role}: let its role() return {role!r} for some tensors of the model")
    return np.concatenate([np.full(spec.numel, spec.name in names) for spec in learner.manifest])


def hold_statistics(model: nn.Module, moving: Collection[str]) -> None:
    """Let norms whose running statistics stay use them in training too, as they will when the model is used.

    `moving`: the tensors that the local work may change.
    """
    for name, module in model.named_modules():
        if getattr(module, "running_mean", None) is not None:
            prefix = f"{name}." if name else ""
            module.training = module.training and f"{prefix}running_mean" in moving


class HeadOnly(Objective):
    """The task's loss, of which only the head sees the gradient: a linear probe."""

    def __init__(self, learner: TorchLearner) -> None:
        """Take the task and data of a learner."""
        super().__init__(learner.task, learner.data)
        self._names = frozenset(names_of(learner.task, learner.model, "head"))

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Objective`."""
        hold_statistics(model, self._names)
        tensors = {
            name: tensor if name in self._names else tensor.detach()
            for name, tensor in model.named_parameters()
        }
        return self.task.loss(_With(model, tensors), batch)


class MaskedBody(Objective):
    """The task's loss under a random mask over the body, of which only the mask's scores see the gradient."""

    def __init__(self, learner: TorchLearner, scores: Vector) -> None:
        """`scores`: one for each number of the body, in the order of the vector."""
        super().__init__(learner.task, learner.data)
        names = names_of(learner.task, learner.model, "body")
        tensors = dict(learner.model.named_parameters())
        flat = torch.tensor(scores, device=learner.device).split([tensors[name].numel() for name in names])
        self._scores = {
            name: nn.Parameter(part.view_as(tensors[name]).clone())
            for name, part in zip(names, flat, strict=True)
        }

    @property
    def scores(self) -> Vector:
        """What the scores have become."""
        vector: Vector = torch.cat([s.detach().reshape(-1) for s in self._scores.values()]).cpu().numpy()
        return vector

    def local_parameters(self) -> list[nn.Parameter]:
        """See `Objective`."""
        return list(self._scores.values())

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Objective`."""
        hold_statistics(model, ())
        tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}
        for name, scores in self._scores.items():
            tensors[name] = tensors[name] * _drawn(torch.sigmoid(scores))
        return self.task.loss(_With(model, tensors), batch)


def _drawn(chances: torch.Tensor) -> torch.Tensor:
    """Draw a mask; backwards it is the identity."""
    return torch.bernoulli(chances.detach()) + chances - chances.detach()


class _With(nn.Module):  # type: ignore[misc]  # torch's classes are unknown to mypy, see pyproject.toml
    """A model with other tensors in the place of its own; tasks call it as they would call the model."""

    def __init__(self, model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        # In a tuple, so that the model does not become a submodule, nor its tensors ours.
        self._held = (model, tensors)

    def forward(self, *arguments: Any, **options: Any) -> Any:
        model, tensors = self._held
        return functional_call(model, tensors, arguments, options)
