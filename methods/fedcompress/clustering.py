"""Cluster-aware training: the loss is that of the clustered model, the steps are those of the plain one.

    w̃ = the value of w's nearest centroid         what the forward pass sees
    ∂L/∂w := ∂L/∂w̃                                  straight through; a centroid, being the mean of its w,
                                                    moves by the mean of their gradients

After every step each w is given to its nearest centroid anew, and centroids move to the mean of theirs, as
weight-clustering toolkits do. `Distillation` trains a clustered student so on a teacher's soft outputs,
from the teacher's own weights on: started from clustered ones, a whole cluster moves as one and may leap.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from shoal.gossip.events import Vector
from shoal.methods.coding.kmeans1d import cluster
from shoal.methods.learning.model_tensors import ModelVector
from shoal.methods.learning.objective import Objective, shuffled
from shoal.methods.learning.parts import stays_of
from shoal.methods.learning.task import Examples, Task


class ClusterAware(Objective):
    """The task's loss, of a model whose every tensor has at most `kappa` values."""

    def __init__(self, task: Task, data: Examples, kappa: int) -> None:
        """Clusters are made in the first step, by k-means."""
        super().__init__(task, data)
        self._kappa = kappa
        self._centroids: dict[int, torch.Tensor] = {}
        self._weights: list[tuple[nn.Parameter, torch.Tensor]] = []

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Objective`."""
        self.snap(model)
        return self.task.loss(model, batch)

    def before_step(self, model: nn.Module) -> None:
        """See `Objective`: the optimizer moves the weights, not the centroids they were seen at."""
        with torch.no_grad():
            for parameter, weights in self._weights:
                parameter.copy_(weights)

    def clustered(self, model: nn.Module) -> Vector:
        """Return the trained model's vector at its centroids.

        Other clusters, found anew by k-means, would be those of the weights, not those that were trained.
        """
        self.snap(model)
        vector = ModelVector(model, stays_of(self.task, model)).read()
        self.before_step(model)
        return vector

    def snap(self, model: nn.Module) -> None:
        """Put the model's parameters at their centroids until `before_step`."""
        self._weights = [
            (parameter, parameter.detach().clone())
            for parameter in model.parameters()
            if parameter.requires_grad and parameter.numel() > self._kappa
        ]
        with torch.no_grad():
            for place, (parameter, weights) in enumerate(self._weights):
                parameter.copy_(self._nearest(place, weights))

    def _nearest(self, place: int, values: torch.Tensor) -> torch.Tensor:
        flat = values.reshape(-1)
        if place not in self._centroids:
            codebook = cluster(flat.cpu().float().numpy(), self._kappa).codebook
            self._centroids[place] = torch.tensor(codebook, dtype=values.dtype, device=values.device)
        centroids = self._centroids[place]
        places = torch.bucketize(flat, (centroids[1:] + centroids[:-1]) / 2)
        sums = torch.zeros_like(centroids).index_add_(0, places, flat)
        counts = torch.bincount(places, minlength=len(centroids))
        # An empty cluster stays where it was; sorted, since bucketize wants its edges so.
        moved = torch.where(counts > 0, sums / counts.clamp(min=1), centroids).sort().values
        self._centroids[place] = moved
        return moved[places].view_as(values)


class Distillation(ClusterAware):
    """T² KL(softmax(teacher/T) || softmax(student/T)) on inputs without labels, for a clustered student."""

    def __init__(
        self, task: Task, inputs: torch.Tensor, teacher: torch.Tensor, *, kappa: int, temperature: float
    ) -> None:
        """`teacher`: its logits on the inputs."""
        super().__init__(task, (inputs, teacher), kappa)
        self._temperature = temperature

    def batches(self, batch_size: int) -> Iterator[Any]:
        """See `Objective`."""
        inputs, teacher = self.data
        for places in shuffled(len(inputs), batch_size):
            yield inputs[places], teacher[places]

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Objective`."""
        inputs, teacher = batch
        self.snap(model)
        # T² keeps the gradients as large as at T = 1 (Hinton, Vinyals, Dean, 2015).
        return self._temperature**2 * divergence(teacher, model(inputs), self._temperature)


def divergence(teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return the mean KL(teacher || student) of softmax outputs, in nats."""
    return functional.kl_div(
        torch.log_softmax(student / temperature, dim=-1),
        torch.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
