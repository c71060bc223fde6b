"""Local distillation: a model's penultimate layer is pulled to frozen embeddings by a head that stays home.

FedLN's AKD: wrong labels are memorised in the last layers; a representation that can still tell the frozen
embedding h(x) by a linear map g cannot follow them far.

    loss = CE(f(x), y) + alpha · mean |g(z(x)) - h(x)| + l2 · |kernels|²        z: what enters the last layer
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from shoal.gossip.events import Vector
from shoal.methods.learning.objective import Objective, Penultimate, head_of, shuffled
from shoal.methods.learning.task import Examples, Task, batch_of, count


class LocalDistillation(Objective):
    """See the module's docstring. The head g is a local parameter: it never enters the vector."""

    def __init__(
        self,
        task: Task,
        data: Examples,
        model: nn.Module,
        *,
        embeddings: torch.Tensor,
        alpha: float,
        l2: float,
        seed: int,
        head: Vector | None,
    ) -> None:
        """`embeddings`: h(x) of the data, in its order. `head`: g as `head_vector` gave it, None at first."""
        super().__init__(task, data)
        self._embeddings, self._alpha, self._l2 = embeddings, alpha, l2
        device = next(model.parameters()).device
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._head = nn.Linear(head_of(model).in_features, embeddings.shape[1]).to(device)
        if head is not None:
            nn.utils.vector_to_parameters(torch.tensor(head, device=device), self._head.parameters())

    @property
    def head_vector(self) -> Vector:
        """The head, for the node's private state."""
        flat = nn.utils.parameters_to_vector(self._head.parameters())
        vector: Vector = flat.detach().cpu().numpy().copy()
        return vector

    def local_parameters(self) -> Sequence[nn.Parameter]:
        """See `Objective`."""
        return list(self._head.parameters())

    def batches(self, batch_size: int) -> Iterator[Any]:
        """See `Objective`: pairs of a batch and its embeddings."""
        for places in shuffled(count(self.data), batch_size):
            yield batch_of(self.data, places), self._embeddings[places]

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Objective`."""
        examples, embeddings = batch
        with Penultimate(model) as seen:
            loss = self.task.loss(model, examples)
        loss = loss + self._alpha * functional.l1_loss(self._head(seen.z), embeddings)
        if self._l2:
            loss = loss + self._l2 * sum(p.square().sum() for p in model.parameters() if p.ndim > 1)
        return loss
