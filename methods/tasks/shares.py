"""Shares: what a node sees of a data set that every node can load: its own part, few labels, or wrong ones.

Every node computes the same split, hidden labels and wrong labels from the seed, and keeps its own part.
Validation and test examples are common to all nodes, and their labels are right.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from shoal.methods.errors import BadOption
from shoal.methods.learning.task import Task
from shoal.methods.tasks.label_noise import Labels, add_noise, known_subset, noisy_peers
from shoal.methods.tasks.partition import Indices, dirichlet, parse_share, stratified_split

Examples: TypeAlias = tuple[npt.NDArray[np.floating[Any]], Labels]
"""Inputs [n, ...] and labels [n]."""


@dataclass(frozen=True, slots=True)
class Sets:
    """The parts of a data set. Nodes train on shares of the first; all have the others."""

    train: Examples
    validation: Examples | None
    test: Examples

    def hold_out(self, share: float) -> "Sets":
        """Return sets whose validation part is cut from the training part, stratified by label.

        Raises:
            BadOption: the share is not from 0 to 0.5.
        """
        check_validation(share)
        if not share:
            return self
        x, y = self.train
        rest, held = stratified_split(y, share, seed=1)
        return Sets(train=(x[rest], y[rest]), validation=(x[held], y[held]), test=self.test)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a node sees of the training part."""

    part: Indices
    """Which examples are its own."""
    labels: Labels
    """Of these, as the node was told them."""
    known: npt.NDArray[np.bool_]
    """Of these, whose label it was told."""


class SharedData(Task):
    """A node's share of a data set, and an optimizer. Subclasses give the model."""

    def __init__(self, sets: Sets, seen: Seen, *, optimizer: str = "sgd") -> None:
        """`optimizer`: sgd or adam.

        Raises:
            BadOption: there is no such optimizer.
        """
        if optimizer not in ("sgd", "adam"):
            raise BadOption(f"optimizer = {optimizer}: choose sgd or adam")
        x = sets.train[0][seen.part]
        self._train = tensors(x[seen.known], seen.labels[seen.known])
        self._unlabelled = tensors(x[~seen.known], seen.labels[~seen.known])[0]
        self._validation = None if sets.validation is None else tensors(*sets.validation)
        self._test = tensors(*sets.test)
        self._optimizer = optimizer

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return self._train

    def unlabelled_data(self) -> torch.Tensor | None:
        """See `Task`."""
        return self._unlabelled if len(self._unlabelled) else None

    def validation_data(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """See `Task`."""
        return self._validation

    def test_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return self._test

    def optimizer(self, params: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """See `Task`."""
        return torch.optim.Adam(params, lr=lr) if self._optimizer == "adam" else super().optimizer(params, lr)


def all_of(labels: Labels, part: Indices) -> Seen:
    """Return what a node sees that knows the labels of all its examples; `labels`: of the training part."""
    return Seen(part, labels[part], np.ones(len(part), bool))


def seen_of(
    labels: Labels,
    *,
    share: str,
    alpha: float,
    seed: int,
    minimum: int,
    labelled: float = 1.0,
    noise: float = 0.0,
    sparsity: float = 0.7,
    noisy: float = 0.8,
) -> Seen:
    """Return what a node sees of a Dirichlet share; the options are those of the task shapes.

    Raises:
        BadOption: an option makes no sense.
    """
    mine, peers = parse_share(share)
    part = dirichlet(labels, peers, alpha=alpha, seed=seed, minimum=minimum)[mine]
    level = noise if noisy_peers(peers, noisy, seed=seed)[mine] else 0.0
    # Every noisy peer has confusions of its own.
    given = add_noise(
        labels[part], int(labels.max()) + 1, level=level, sparsity=sparsity, seed=seed * 10_000 + mine
    )
    return Seen(part, given, known_subset(labels, labelled, seed=seed)[part])


def check_validation(share: float) -> None:
    """Refuse a share of the training examples that leaves too few to train on.

    Raises:
        BadOption: it is not from 0 to 0.5.
    """
    if not 0 <= share <= 0.5:
        raise BadOption(
            f"validation = {share}: choose which share of the training examples to put aside, from 0 to 0.5"
        )


def tensors(x: npt.NDArray[Any], y: Labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs as float32 and labels as int64."""
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.int64)
