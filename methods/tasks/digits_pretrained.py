"""Digits with a pre-trained body: a model that knows transposed digits, to be fitted to upright ones.

A transposed digit is mirrored along the diagonal: the strokes are the same, their places are not. So the
body is worth keeping and yet wrong, as a foundation model is on pictures unlike those it has seen.

Every node trains the same body, in a second or so, from the same digits with the same random numbers. Two
kinds of CPU may end with unlike last bits. That is no matter: the body is part of the shared state, and
peers whose states differ at the start of a run agree on one of them before the first round.
"""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from math import isqrt
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from shoal.methods.errors import BadOption
from shoal.methods.learning.task import Role
from shoal.methods.tasks.digits import Images, load_sets
from shoal.methods.tasks.partition import dirichlet, parse_share
from shoal.methods.tasks.shapes import load_shapes
from shoal.methods.tasks.shares import Examples, Sets, SharedData, all_of

BODY_SEED: Final = 20_240
BODY_STEPS: Final = 2000
"""Enough for 97 % on transposed test digits, and for a body that has forgotten what it does not need."""
BODY_BATCH: Final = 64
FEATURES: Final = 32
"""Few, so that a new head on the old body cannot do it all: more random features would."""
CLASSES: Final = 10


class DigitsBody(SharedData):
    """Which digit is it? A perceptron 64-512-32-10; two layers, of 49,152 weights, are pre-trained."""

    def __init__(
        self,
        share: str = "1/1",
        alpha: float = 1.0,
        seed: int = 0,
        minimum: int = 16,
        width: int = 512,
        data: str = "digits",
        validation: float = 0.0,
    ) -> None:
        """`share`, `alpha`, `seed`, `minimum`, `validation`: as for the task digits.

        `width`: of the first layer. `data`: digits, or shapes, of the task of that name.

        Raises:
            BadOption: an option makes no sense.
        """
        if not 8 <= width <= 65_536:
            raise BadOption(f"width = {width}: choose a number from 8 to 65536")
        mine, shares = parse_share(share)
        sets = picture_sets(data, validation)
        labels = sets.train[1]
        part = dirichlet(labels, shares, alpha=alpha, seed=seed, minimum=minimum)[mine]
        self._width, self._source = width, (data, validation)
        super().__init__(sets, all_of(labels, part))

    def model(self) -> nn.Module:
        """Return the pre-trained body under a new head."""
        trained_body = pretrained(self._width, *self._source)
        model = perceptron(trained_body[0].in_features, self._width, FEATURES, CLASSES)
        for layer, trained in zip(model[:-1], trained_body[:-1], strict=True):
            layer.load_state_dict(trained.state_dict())
        return model

    def role(self, name: str) -> Role:
        """See `Task`: weights of the first two layers are the body; their biases stay."""
        if name.startswith("4."):
            return "head"
        return "body" if name.endswith("weight") else "frozen"


def picture_sets(data: str, validation: float) -> Sets:
    """Return the parts of the digits or of the shapes: square pictures of ten classes.

    Raises:
        BadOption: there are no such pictures, or the share to put aside makes no sense.
    """
    if data not in _SOURCES:
        raise BadOption(f"data = {data}: choose one of: {', '.join(_SOURCES)}")
    return _SOURCES[data](validation)


_SOURCES: Final = {"digits": load_sets, "shapes": lambda _: load_shapes()}


def perceptron(*widths: int) -> nn.Sequential:
    """Return linear layers with rectifiers between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def transposed(images: Images) -> Images:
    """Mirror images along their diagonal."""
    return as_squares(images).transpose(0, 2, 1).reshape(images.shape)


def as_squares(images: Images) -> Images:
    """Return flat square images as [n, side, side]."""
    side = isqrt(images.shape[1])
    return images.reshape(-1, side, side)


@cache
def pretrained(width: int, data: str = "digits", validation: float = 0.0) -> nn.Sequential:
    """Return a perceptron trained on transposed training pictures; do not change it."""
    pictures = picture_sets(data, validation).train
    with torch.random.fork_rng():
        torch.manual_seed(BODY_SEED)
        model = perceptron(pictures[0].shape[1], width, FEATURES, CLASSES)
        return pretrain(model, model, pictures)


def pretrain(
    body: nn.Sequential, outputs: Callable[[torch.Tensor], torch.Tensor], pictures: Examples
) -> nn.Sequential:
    """Train a body, so that `outputs` names the transposed pictures, and return it."""
    x_train, y_train = pictures
    x, y = images_tensor(transposed(x_train)), torch.tensor(y_train)
    optimizer = torch.optim.Adam(body.parameters(), lr=1e-3)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(BODY_SEED)
        for _ in range(BODY_STEPS):
            batch = torch.randint(len(x), (BODY_BATCH,))
            optimizer.zero_grad()
            functional.cross_entropy(outputs(x[batch]), y[batch]).backward()
            optimizer.step()
    return body


def images_tensor(images: Images) -> torch.Tensor:
    """Return images as a model takes them."""
    return torch.tensor(images.astype(np.float32))
