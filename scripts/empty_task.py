"""A task without work, for scripts/bench_sizes.py: what is measured then is what shoal itself needs.

Every tensor is trained and has a gradient, which stays where it is, as with
`optimizer.zero_grad(set_to_none=False)`: what torch's allocator takes for fresh gradients in every step is
the task's own, and would be counted as ours.
"""

from typing import Any, Final

import torch
from torch import nn

from shoal.methods.learning.task import Task

TENSORS: Final = 12
FIRST: Final = 8
"""Numbers of the tensor that the loss looks at."""


class Keeping(torch.optim.SGD):  # type: ignore[misc]
    """SGD whose gradients stay where they are."""

    def zero_grad(self, set_to_none: bool = False) -> None:
        """See `torch.optim.Optimizer`."""
        super().zero_grad(set_to_none=False)


class Empty(Task):
    """A flat model of `numel` numbers, of which none changes."""

    def __init__(self, numel: int = 1_000_000) -> None:
        """`numel`: numbers in all."""
        each, rest = divmod(max(numel - FIRST, TENSORS), TENSORS)
        self._sizes = [FIRST, each + rest, *[each] * (TENSORS - 1)]

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.ParameterList([torch.zeros(size) for size in self._sizes])

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return torch.zeros(8, 1), torch.zeros(8, dtype=torch.int64)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Task`."""
        first, *rest = model.parameters()
        for parameter in rest:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return first.sum() * 0.0

    def optimizer(self, params: Any, lr: float) -> torch.optim.Optimizer:
        """See `Task`."""
        return Keeping(params, lr=lr)
