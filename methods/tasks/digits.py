"""Digits: 1,797 handwritten digits of 8 by 8 pixels, from scikit-learn; learns in seconds, needs no download.

A quarter of the digits, stratified by label, is the test set of every node. The rest is split into
private shares by labels (partition.py): each node computes the same split and keeps its own part.
"""

from functools import cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from shoal.methods.learning.task import Task
from shoal.methods.tasks.partition import dirichlet, parse_share

Images: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.int64]

TEST_FRACTION: Final = 0.25
MAX_PIXEL: Final = 16.0


class Digits(Task):
    """Which digit is it? A perceptron with two hidden layers of 64; 8,970 parameters."""

    def __init__(self, share: str = "1/1", alpha: float = 0.1, seed: int = 0, minimum: int = 16) -> None:
        """`share`: ours, such as 2/5. `alpha`: small means few labels per share. `minimum`: examples in each.

        `seed` is of the split into shares: nodes with other seeds would overlap.

        Raises:
            BadOption: an option makes no sense.
        """
        mine, shares = parse_share(share)
        x_train, x_test, y_train, y_test = load_split()
        part = dirichlet(y_train, shares, alpha=alpha, seed=seed, minimum=minimum)[mine]
        self._train = _tensors(x_train[part], y_train[part])
        self._test = _tensors(x_test, y_test)

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return self._train

    def test_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return self._test


@cache
def load_split() -> tuple[Images, Images, Labels, Labels]:
    """Return training images, test images, training labels, test labels; equal on every node.

    Images are float64 [n, 64] from 0 to 1. Everyone gets the same arrays: do not change them.
    """
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x / MAX_PIXEL, y, test_size=TEST_FRACTION, random_state=0, stratify=y
    )
    return x_train, x_test, y_train, y_test


def _tensors(x: object, y: object) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.int64)
