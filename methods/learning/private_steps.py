"""Private steps: gradients of single examples, clipped, summed and noisy, in the place of a batch's gradient.

Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, Deep Learning with Differential Privacy, CCS 2016,
https://arxiv.org/abs/1607.00133, algorithm 1:

    every example is in a step with the same chance q, by itself (Poisson sampling); q = B / n
    g_i <- the gradient of its loss, shortened to norm C at most
    g   <- (sum of g_i + N(0, (z C)^2)) / B

By torch's own per-sample gradients (torch.func), so any optimizer takes the step. The sum is put on a grid
and its noise is discrete Gaussian, as in gossip/policies/privacy.py. Which examples are in a step, and the
noise, come from the operating system's secure source: a seed that peers know would tell them.
"""

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Any, Final

import numpy as np
import torch
from nacl.utils import random
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from shoal.crypto.accounting import Release
from shoal.crypto.discrete_gaussian import discrete_gaussian
from shoal.crypto.shamir import Entropy
from shoal.gossip.policies.privacy import STEPS, Privacy
from shoal.methods.errors import BadTask
from shoal.methods.learning.objective import Objective
from shoal.methods.learning.task import batch_of, count, to_device

AT_ONCE: Final = 64
"""Examples whose gradients are in memory together."""
SAFE: Final = 1 - 1e-6
"""What float32 may add to a norm is taken from it first."""

Parameters = Mapping[str, torch.Tensor]


class PrivateSteps:
    """The steps of one node. See the module's docstring."""

    def __init__(self, privacy: Privacy, entropy: Entropy = random) -> None:
        """`entropy`: another than the operating system's for tests alone."""
        self._privacy, self._entropy = privacy, entropy
        self._taken: dict[float, int] = {}
        """Chance of an example -> steps since `take`."""

    def check(self, model: nn.Module, objective: Objective) -> None:
        """Refuse what has no loss of a single example.

        Raises:
            BadTask: the model mixes examples, or the method has a loss of its own.
        """
        if type(objective) is not Objective:
            raise BadTask("privacy examples: the method has a loss of its own: take --method fedavg")
        mixing = [
            name for name, each in model.named_modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)
        ]
        if mixing:
            raise BadTask(
                f"privacy examples: {mixing[0]} is a BatchNorm, in which an example's gradient depends on the"
                " others: take GroupNorm in its place"
            )

    def take(self) -> tuple[Release, ...]:
        """Return what all steps since the last call told: whoever sends what they led to counts it."""
        taken, self._taken = self._taken, {}
        noise = self._privacy.noise_multiplier
        return tuple(
            Release(noise_multiplier=noise, sampling=chance, count=steps) for chance, steps in taken.items()
        )

    def batches(self, objective: Objective, batch_size: int) -> Iterator[Any]:
        """Yield batches without end, in each of which an example is with the chance batch_size / examples."""
        examples = count(objective.data)
        self._chance = min(1.0, batch_size / examples)
        self._expected = min(batch_size, examples)
        while True:
            lots = np.frombuffer(self._entropy(8 * examples), np.uint64) >> np.uint64(11)
            places = np.flatnonzero(lots * 2.0**-53 < self._chance)
            yield batch_of(objective.data, torch.from_numpy(places))

    def gradient(
        self, model: nn.Module, objective: Objective, batch: Any, device: torch.device
    ) -> torch.Tensor:
        """Leave the noisy mean gradient in the parameters that are trained; returns the batch's mean loss.

        Raises:
            BadTask: a batch is something else than tensors of one row an example.
        """
        if not (isinstance(batch, tuple | list) and all(isinstance(each, torch.Tensor) for each in batch)):
            raise BadTask("privacy examples: a batch must be a tuple of tensors, such as (x, y)")
        self._taken[self._chance] = self._taken.get(self._chance, 0) + 1
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in trained.items()}
        loss, n_examples = torch.zeros((), device=device), len(batch[0])
        for start in range(0, n_examples, AT_ONCE):
            some = to_device(tuple(each[start : start + AT_ONCE] for each in batch), device)
            loss = loss + self._add(model, objective, some, trained, sums)
        numbers = torch.cat([each.flatten() for each in sums.values()]).cpu().numpy().astype(np.float64)
        noisy = torch.from_numpy(self._noisy(numbers) / self._expected)
        at = 0
        for weight in trained.values():
            piece = noisy[at : at + weight.numel()].view(weight.shape)
            weight.grad = piece.to(weight.device, weight.dtype)
            at += weight.numel()
        return loss / max(1, n_examples)

    def _add(
        self,
        model: nn.Module,
        objective: Objective,
        batch: tuple[torch.Tensor, ...],
        trained: Parameters,
        sums: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Add the clipped gradients of some examples; returns the sum of their losses."""
        wrapped = _Loss(model, objective)

        def loss_of(weights: Parameters, *example: torch.Tensor) -> torch.Tensor:
            rows = tuple(each.unsqueeze(0) for each in example)
            named = {f"model.{name}": weight for name, weight in weights.items()}
            found: torch.Tensor = functional_call(wrapped, named, rows)
            return found

        plain = {name: weight.detach() for name, weight in trained.items()}
        in_dims = (None, *(0 for _ in batch))
        each = vmap(grad_and_value(loss_of), in_dims=in_dims, randomness="different")
        gradients, losses = each(plain, *batch)
        rows = {name: gradient.flatten(1).float() for name, gradient in gradients.items()}
        norms = torch.stack([torch.linalg.vector_norm(row, dim=1) for row in rows.values()])
        norm = torch.linalg.vector_norm(norms, dim=0)
        shrink = (self._privacy.clip_norm * SAFE / norm).clamp(max=1.0)
        # What is not finite gives nothing, and its norm would be of no use either.
        shrink = torch.where(norm.isfinite(), shrink, torch.zeros_like(shrink))
        for name, row in rows.items():
            finite = torch.nan_to_num(row, nan=0.0, posinf=0.0, neginf=0.0)
            sums[name].add_((shrink @ finite).view(sums[name].shape))
        return losses.detach().float().sum()

    def _noisy(
        self, numbers: "np.ndarray[Any, np.dtype[np.float64]]"
    ) -> "np.ndarray[Any, np.dtype[np.float64]]":
        step = self._privacy.step
        # One example more may turn every number to its other neighbour on the grid.
        sigma = self._privacy.noise_multiplier * (STEPS + sqrt(numbers.size))
        codes = np.rint(numbers / step).astype(np.int64)
        codes += discrete_gaussian(numbers.size, sigma, self._entropy)
        return np.asarray(codes * step)


class _Loss(nn.Module):  # type: ignore[misc]  # torch is skipped, see pyproject.toml
    """An objective's loss as a module, whose parameters can be put in the place of the model's."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, *batch: torch.Tensor) -> torch.Tensor:
        """Return the loss on a batch."""
        return self._objective.loss(self.model, batch)
