"""Semi-supervised steps: every batch is half labelled, half unlabelled, with pseudo-labels for the latter.

The labelled half comes round and round, so that an epoch is one pass over the unlabelled examples. Pseudo-
labels are made anew in every step, by the model as it is, and count only where it is confident.
"""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from shoal.methods.learning.objective import Objective, shuffled
from shoal.methods.learning.task import Examples, Task, batch_of, count

ORDER_SEED = 0x5EED
"""Of the order of unlabelled examples, so that drawing them leaves the labelled batches as they are."""


class SemiSupervised(Objective):
    """(1 - beta) · Ls + beta · Lu + l2 · |kernels|²; see methods/fedstar/method.py."""

    def __init__(
        self,
        task: Task,
        labelled: Examples,
        unlabelled: torch.Tensor,
        *,
        beta: float,
        threshold: float,
        temperature: float,
        l2: float,
        seed: int,
    ) -> None:
        """`threshold`: confidence below which a pseudo-label does not count. `seed`: of the round."""
        super().__init__(task, labelled)
        self._unlabelled = unlabelled
        self._beta, self._threshold, self._temperature, self._l2 = beta, threshold, temperature, l2
        self._generator = torch.Generator().manual_seed(ORDER_SEED + seed)
        self.kept = 0
        """Pseudo-labels that counted so far."""
        self.seen = 0

    def batches(self, batch_size: int) -> Iterator[Any]:
        """See `Objective`: pairs of a labelled batch and unlabelled inputs, None where there are none."""
        half = max(1, batch_size // 2)
        labelled: Iterator[Any] = repeat(None)
        if count(self.data):
            labelled = (batch_of(self.data, places) for places in shuffled(count(self.data), half))
        unlabelled: Iterator[Any] = repeat(None)
        if self._beta > 0:
            places_of = shuffled(len(self._unlabelled), half, self._generator)
            unlabelled = (self._unlabelled[places] for places in places_of)
        return zip(labelled, unlabelled, strict=False)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Objective`."""
        labelled, unlabelled = batch
        loss = torch.zeros((), device=next(model.parameters()).device)
        if labelled is not None:
            loss = loss + (1 - self._beta) * self.task.loss(model, labelled)
        if unlabelled is not None:
            term, kept = pseudo_label_loss(model(unlabelled), self._threshold, self._temperature)
            loss = loss + self._beta * term
            self.kept += kept
            self.seen += len(unlabelled)
        if self._l2:
            loss = loss + self._l2 * sum(p.square().sum() for p in model.parameters() if p.ndim > 1)
        return loss


def pseudo_labels(
    logits: torch.Tensor, threshold: float, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the likeliest classes, int64 [n], and which of them are confident enough, bool [n]."""
    confidence, labels = torch.softmax(logits.detach() / temperature, dim=-1).max(dim=-1)
    return labels, confidence >= threshold


def pseudo_label_loss(logits: torch.Tensor, threshold: float, temperature: float) -> tuple[torch.Tensor, int]:
    """Return Lu, the cross entropy with confident pseudo-labels, and how many there are.

    The sum is divided by all items, not by those kept: few confident ones pull weakly. No gradient flows
    through the labels.
    """
    labels, keep = pseudo_labels(logits, threshold, temperature)
    losses = functional.cross_entropy(logits, labels, reduction="none")
    return (keep * losses).sum() / len(logits), int(keep.sum())
