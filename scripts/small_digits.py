"""A perceptron of 2,410 numbers on the digits, trained by many peers at once in numpy. See byzantine.py."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Floats: TypeAlias = npt.NDArray[np.float32]
Batch: TypeAlias = tuple[Floats, Floats]
INPUTS, HIDDEN, LABELS = 64, 32, 10
NUMEL: Final = INPUTS * HIDDEN + HIDDEN + HIDDEN * LABELS + LABELS
"""Of the model: 2,410."""
BATCH: Final = 32


@dataclass(frozen=True)
class Data:
    """Training examples, and those on which accuracy is measured."""

    x: Floats
    y: npt.NDArray[np.int64]
    x_test: Floats
    y_test: npt.NDArray[np.int64]


@cache
def load(validation: bool = False) -> Data:
    """Return the digits as every node splits them; `validation`: measure on held-out training data."""
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x / 16.0, y, test_size=0.25, random_state=0, stratify=y
    )
    if validation:
        x_train, x_test, y_train, y_test = train_test_split(
            x_train, y_train, test_size=0.2, random_state=1, stratify=y_train
        )
    return Data(x_train.astype(np.float32), y_train, x_test.astype(np.float32), y_test)


def views(flat: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the tensors of models [n, 2410], as views: weights and biases of both layers."""
    n, at, found = len(flat), 0, []
    for shape in ((INPUTS, HIDDEN), (1, HIDDEN), (HIDDEN, LABELS), (1, LABELS)):
        size = shape[0] * shape[1]
        found.append(flat[:, at : at + size].reshape(n, *shape))
        at += size
    return found[0], found[1], found[2], found[3]


def initial(seed: int) -> Floats:
    """Return the model that all begin with [2410]."""
    dice = np.random.default_rng(seed)
    flat = np.zeros((1, NUMEL), np.float32)
    first, _, second, _ = views(flat)
    first[:] = dice.uniform(-1, 1, first.shape) / np.sqrt(INPUTS)
    second[:] = dice.uniform(-1, 1, second.shape) / np.sqrt(HIDDEN)
    model: Floats = flat[0]
    return model


def train(params: Floats, batches: Iterator[Batch], steps: int, lr: float, n: int) -> Floats:
    """Return what n peers learn from the same params [2410] in some steps of SGD: deltas [n, 2410]."""
    with np.errstate(all="ignore"):  # a model that liars have blown up is trained on all the same
        return _train(params, batches, steps, lr, n)


def _train(params: Floats, batches: Iterator[Batch], steps: int, lr: float, n: int) -> Floats:
    flat = np.repeat(params[None], n, axis=0)
    first, first_bias, second, second_bias = views(flat)
    for x, wanted in (next(batches) for _ in range(steps)):
        hidden = np.maximum(x @ first + first_bias, 0)
        scores = hidden @ second + second_bias
        scores -= scores.max(axis=2, keepdims=True)
        likely = np.exp(scores)
        likely /= likely.sum(axis=2, keepdims=True)
        slope = (likely - wanted) / np.float32(x.shape[1])
        back = (slope @ second.transpose(0, 2, 1)) * (hidden > 0)
        second -= np.float32(lr) * (hidden.transpose(0, 2, 1) @ slope)
        second_bias -= np.float32(lr) * slope.sum(axis=1, keepdims=True)
        first -= np.float32(lr) * (x.transpose(0, 2, 1) @ back)
        first_bias -= np.float32(lr) * back.sum(axis=1, keepdims=True)
    return flat - params


def accuracy(params: Floats, data: Data) -> float:
    """Return the share of the test examples that a model gets right."""
    first, first_bias, second, second_bias = (each[0] for each in views(params[None]))
    with np.errstate(all="ignore"):
        scores = np.maximum(data.x_test @ first + first_bias, 0) @ second + second_bias
    return float((scores.argmax(axis=1) == data.y_test).mean())


def batches(data: Data, shares: Sequence[npt.NDArray[np.int64]], liars: int, seed: int) -> Iterator[Batch]:
    """Yield a batch of every peer's, for ever; the last `liars` peers see 9 minus the right label."""
    dice = np.random.default_rng(seed)
    eye = np.eye(LABELS, dtype=np.float32)
    while True:
        picked = np.stack([dice.choice(share, BATCH) for share in shares])
        labels = data.y[picked]
        if liars:
            labels[-liars:] = LABELS - 1 - labels[-liars:]
        yield data.x[picked], eye[labels]
