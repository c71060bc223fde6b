"""Digits: 1,797 handwritten digits of 8 by 8 pixels, from scikit-learn; learns in seconds, needs no download.

A quarter of the digits, stratified by label, is the test set of every node. The rest is split into
private shares by labels (partition.py): each node computes the same split and keeps its own part.

With `validation` = 0.2 a fifth of the rest, the same on every node and stratified by label, is put aside
first. Hyperparameters are chosen on it; a figure is then measured on the test set, trained on all the rest.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import nn

from shoal.methods.tasks.partition import dirichlet, parse_share, stratified_split
from shoal.methods.tasks.shares import Sets, SharedData, all_of, check_validation

Images: TypeAlias = npt.NDArray[np.floating[Any]]
Labels: TypeAlias = npt.NDArray[np.int64]

TEST_FRACTION: Final = 0.25
MAX_PIXEL: Final = 16.0


def _data_file() -> Path:
    """Return scikit-learn's file of digits. It is read without loading scikit-learn, which takes a second.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


DATA: Final = _data_file()
"""A line per digit: 64 pixels from 0 to 16, and the label."""


class Digits(SharedData):
    """Which digit is it? A perceptron with two hidden layers of 64; 8,970 parameters."""

    def __init__(
        self,
        share: str = "1/1",
        alpha: float = 0.1,
        seed: int = 0,
        minimum: int = 16,
        validation: float = 0.0,
    ) -> None:
        """`share`: ours, such as 2/5. `alpha`: small means few labels per share. `minimum`: examples in each.

        `seed` is of the split into shares: nodes with other seeds would overlap. `validation`: which share
        of the training digits no node trains on, so that values can be chosen on them.

        Raises:
            BadOption: an option makes no sense.
        """
        mine, shares = parse_share(share)
        sets = load_sets(validation)
        labels = sets.train[1]
        super().__init__(
            sets, all_of(labels, dirichlet(labels, shares, alpha=alpha, seed=seed, minimum=minimum)[mine])
        )

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def load_sets(validation: float = 0.0) -> Sets:
    """Return the parts of the digits; `validation`: which share of the training digits is put aside.

    Raises:
        BadOption: the share is not from 0 to 0.5.
    """
    check_validation(validation)
    return _load_sets(validation)


@cache
def _load_sets(validation: float) -> Sets:
    x_train, x_test, y_train, y_test = load_split()
    return Sets(train=(x_train, y_train), validation=None, test=(x_test, y_test)).hold_out(validation)


@cache
def load_split() -> tuple[Images, Images, Labels, Labels]:
    """Return training images, test images, training labels, test labels; equal on every node.

    Images are float64 [n, 64] from 0 to 1. Everyone gets the same arrays: do not change them.
    """
    table = np.loadtxt(DATA, delimiter=",")
    x, y = table[:, :-1] / MAX_PIXEL, table[:, -1].astype(np.int64)
    rest, held = stratified_split(y, TEST_FRACTION, seed=0)
    return x[rest], x[held], y[rest], y[held]
