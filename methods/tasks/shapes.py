"""Shapes: drawn figures of ten kinds, 12 by 12 pixels, anywhere in the picture; needs no download.

    disc ring square frame triangle plus cross bars stripes bow

A figure has a random place, size, turn (a few degrees), brightness and noise. Since places differ, two
pictures of one kind are often farther apart, pixel by pixel, than two of unlike kinds: among 400 pictures,
half of the ten nearest neighbours are of another kind. Among as many digits it is one in ten.

Train, validation and test pictures are drawn apart from each other, the same on every node.
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from torch import nn

from shoal.methods.errors import BadOption
from shoal.methods.tasks.label_noise import Labels
from shoal.methods.tasks.shares import Sets, SharedData, seen_of

SIDE: Final = 12
FINE: Final = 3
"""A pixel is the mean of this many by this many points."""
KINDS: Final = ("disc", "ring", "square", "frame", "triangle", "plus", "cross", "bars", "stripes", "bow")
TRAIN, VALIDATION, TEST = 2000, 600, 1000
NOISE: Final = 0.12
"""Standard deviation of every pixel's noise; figures have a brightness of 0.5 to 1."""

Pictures = npt.NDArray[np.float32]


class Shapes(SharedData):
    """Which figure is drawn? A perceptron 144-64-64-10 of 14,090 parameters, or a convolutional network."""

    def __init__(
        self,
        share: str = "1/1",
        alpha: float = 0.1,
        seed: int = 0,
        minimum: int = 16,
        labelled: float = 1.0,
        noise: float = 0.0,
        sparsity: float = 0.7,
        noisy: float = 0.8,
        network: str = "mlp",
        optimizer: str = "sgd",
    ) -> None:
        """`share`, `alpha`, `seed`, `minimum`: as for the task digits. `labelled`: as for digits_few_labels.

        `noise`, `sparsity`, `noisy`: as for digits_noisy. `network`: mlp or cnn. `optimizer`: sgd or adam.

        Raises:
            BadOption: an option makes no sense.
        """
        if network not in _NETWORKS:
            raise BadOption(f"network = {network}: choose one of: {', '.join(_NETWORKS)}")
        self._network = network
        sets = load_shapes()
        seen = seen_of(
            sets.train[1],
            share=share,
            alpha=alpha,
            seed=seed,
            minimum=minimum,
            labelled=labelled,
            noise=noise,
            sparsity=sparsity,
            noisy=noisy,
        )
        super().__init__(sets, seen, optimizer=optimizer)

    def model(self) -> nn.Module:
        """See `Task`."""
        return _NETWORKS[self._network]()


@cache
def load_shapes() -> Sets:
    """Return the pictures, float32 [n, 144] from about 0 to 1, and labels 0 to 9; do not change them."""
    train, validation, test = (draw(count, seed) for seed, count in enumerate((TRAIN, VALIDATION, TEST)))
    return Sets(train=train, validation=validation, test=test)


def draw(pictures: int, seed: int) -> tuple[Pictures, Labels]:
    """Return pictures, float32 [pictures, 144], and labels 0 to 9, all kinds as frequent."""
    dice = np.random.default_rng([seed, 11])
    labels = dice.permutation(np.arange(pictures) % len(KINDS))
    size = dice.uniform(3.0, 4.5, pictures)[:, None, None]
    centre = dice.uniform(-0.7, 0.7, (2, pictures))[:, :, None, None] * (SIDE / 2 - size)
    turn = dice.normal(0, 0.12, pictures)[:, None, None]
    points = (np.arange(SIDE * FINE) + 0.5) / FINE - SIDE / 2
    down, across = points[None, :, None] - centre[0], points[None, None, :] - centre[1]
    # In units of the figure, turned with it.
    x = (across * np.cos(turn) + down * np.sin(turn)) / size
    y = (down * np.cos(turn) - across * np.sin(turn)) / size
    inside = np.zeros(x.shape, bool)
    for label, kind in enumerate(KINDS):
        mine = labels == label
        inside[mine] = _inside(kind, x[mine], y[mine])
    fine = inside.reshape(pictures, SIDE, FINE, SIDE, FINE).mean(axis=(2, 4))
    shown = fine * dice.uniform(0.5, 1.0, pictures)[:, None, None]
    shown += NOISE * dice.standard_normal(shown.shape)
    return shown.reshape(pictures, -1).astype(np.float32), labels.astype(np.int64)


def _inside(kind: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Say which points, in units of the figure, are inked; figures lie within -1 and 1."""
    far, box = np.hypot(x, y), np.maximum(abs(x), abs(y))
    match kind:
        case "disc":
            return far < 1
        case "ring":
            return (far < 1) & (far > 0.6)
        case "square":
            return box < 0.9
        case "frame":
            return (box < 0.95) & (box > 0.55)
        case "triangle":
            return (y < 0.8) & (y > 2 * abs(x) - 1)
        case "plus":
            return (box < 1) & (np.minimum(abs(x), abs(y)) < 0.25)
        case "cross":
            return (box < 0.9) & (abs(abs(x) - abs(y)) < 0.35)
        case "bars":
            return (box < 1) & (abs(abs(y) - 0.6) < 0.28)
        case "stripes":
            return (box < 1) & (abs(abs(x) - 0.6) < 0.28)
        case _:
            return (abs(x) < 1) & (abs(y) < 0.15 + 0.8 * abs(x))


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(SIDE * SIDE, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, len(KINDS))
    )


def _cnn() -> nn.Module:
    """Return a convolutional network of 9,594 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, SIDE, SIDE)),
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * 9, 16), nn.ReLU(), nn.Linear(16, len(KINDS)),
    )  # fmt: skip


_NETWORKS = {"mlp": _mlp, "cnn": _cnn}
