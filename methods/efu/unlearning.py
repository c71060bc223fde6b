"""Unlearning: a loss whose minimum is a model that does not know some examples, and is otherwise as it was.

Per batch (x, y) of the examples to be forgotten, with p the model's probability of y, `old` the model that
the round began with, and m_j in [0, 1] how little weight j matters for these examples:

    L_forget = - log(1 - p)            or with `ascent` the paper's - CE(f(x), y), which has no lower bound
    L_adv    = CE(f(x'), y')           y' a random other class; x' in an L2 ball of x, of which `old` says y'
    L_reg    = sum_j m_j (w_j - old_j)²
    L        = L_forget + L_adv + lambda L_reg

    m = 1 - Omega,  Omega_j = mean over examples of |d ||f(x)||² / dw_j|, min-max scaled within its tensor

The bounded loss is of Pan et al., "Federated Unlearning with Gradient Descent and Conflict Mitigation", AAAI
2025. The paper finds x' by APGD; here it is found by as many plain steps of projected gradient descent.
"""

import copy
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from shoal.methods.learning.objective import Objective
from shoal.methods.learning.task import Examples, Task, batch_of, count

IMPORTANCE_EXAMPLES: Final = 16
"""For each of which a gradient is taken, once a round."""
SMALLEST: Final = 1e-6


class Unlearning(Objective):
    """See the module's docstring."""

    def __init__(
        self, task: Task, data: Examples, *, strength: float, radius: float, attack_steps: int, ascent: bool
    ) -> None:
        """`data`: what is to be forgotten. `strength`: lambda. `radius`, `attack_steps`: of x'."""
        super().__init__(task, data)
        self._strength, self._radius, self._attack_steps = strength, radius, attack_steps
        self._is_ascent = ascent
        self._old: nn.Module | None = None
        self._anchors: dict[str, torch.Tensor] = {}
        self.importance: Mapping[str, torch.Tensor] = {}
        """m, by the names of the parameters; made before the first step."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Objective`."""
        if self._old is None:
            self._begin(model)
        assert self._old is not None
        x, y = batch
        scores = self.task.outputs(model, x)
        found = forget_loss(scores, y, ascent=self._is_ascent)
        if x.is_floating_point() and scores.shape[-1] > 1:
            other = (y + torch.randint_like(y, 1, scores.shape[-1])) % scores.shape[-1]
            moved = attacked(self.task, self._old, x, other, self._radius, self._attack_steps)
            found = found + functional.cross_entropy(self.task.outputs(model, moved), other)
        pull = sum(
            (self.importance[name] * (weight - self._anchors[name]) ** 2).sum()
            for name, weight in model.named_parameters()
            if name in self.importance
        )
        return found + self._strength * pull

    def _begin(self, model: nn.Module) -> None:
        """Keep the model that the round began with, and weigh its parameters."""
        self._old = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        self._anchors = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        some = batch_of(self.data, torch.arange(min(IMPORTANCE_EXAMPLES, count(self.data))))[0]
        device = next(model.parameters()).device
        self.importance = unimportance(self.task, model, some.to(device))


def forget_loss(scores: torch.Tensor, y: torch.Tensor, *, ascent: bool) -> torch.Tensor:
    """Return L_forget of scores [n, classes] and labels [n]."""
    if ascent:
        return -functional.cross_entropy(scores, y)
    chance = torch.softmax(scores, -1).gather(1, y[:, None]).squeeze(1)
    return -torch.log((1 - chance).clamp(min=SMALLEST)).mean()


def attacked(
    task: Task, model: nn.Module, x: torch.Tensor, other: torch.Tensor, radius: float, steps: int
) -> torch.Tensor:
    """Return inputs at most `radius` from x, in L2, that a model rather takes for other classes."""
    moved = x.detach().clone()
    for _ in range(steps):
        moved.requires_grad_(requires_grad=True)
        loss = functional.cross_entropy(task.outputs(model, moved), other)
        (gradient,) = torch.autograd.grad(loss, moved)
        step = gradient / _lengths(gradient).clamp(min=SMALLEST)
        change = moved.detach() - (2.5 * radius / steps) * step - x
        moved = x + change * (radius / _lengths(change).clamp(min=SMALLEST)).clamp(max=1.0)
    return moved.detach()


def unimportance(task: Task, model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return m for every parameter that is trained, from 0 to 1: 1 where a weight matters least for x."""
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    was_training = model.training
    model.eval()
    for example in x.split(1):
        size = task.outputs(model, example).square().sum()
        gradients = torch.autograd.grad(size, list(weights.values()), allow_unused=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            if gradient is not None:
                total += gradient.abs()
    model.train(was_training)
    return {name: 1 - _scaled(total) for name, total in sums.items()}


def _scaled(values: torch.Tensor) -> torch.Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=SMALLEST)


def _lengths(vectors: torch.Tensor) -> torch.Tensor:
    return vectors.flatten(1).norm(dim=1).view(-1, *[1] * (vectors.ndim - 1))
