"""Shifted pictures: a model that knows pictures as they are, to be fitted to pictures moved by a pixel.

    data = digits    64-64-64-10, pre-trained on the digits of scikit-learn
    data = shapes    the same with the generated shapes

Every node trains the same model first, in a second or so, from the same pictures with the same random
numbers. Where it stays frozen in a run (fedpeft), nodes on two kinds of CPU may end with unlike last bits and
refuse each other: give them one file then, as a task of your own would.
"""

from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from shoal.methods.tasks.digits import Images
from shoal.methods.tasks.digits_pretrained import as_squares, images_tensor, perceptron, picture_sets
from shoal.methods.tasks.partition import dirichlet, parse_share
from shoal.methods.tasks.shares import Sets, SharedData, all_of

SEED = 20_241
STEPS = 1000
BATCH = 64
WIDTH = 64
CLASSES = 10


class Shifted(SharedData):
    """Which picture is it, one pixel to the right? A pre-trained perceptron with two hidden layers of 64."""

    def __init__(
        self,
        share: str = "1/1",
        alpha: float = 0.3,
        seed: int = 0,
        minimum: int = 16,
        data: str = "digits",
        validation: float = 0.0,
    ) -> None:
        """`share`, `alpha`, `seed`, `minimum`, `validation`: as for digits. `data`: digits or shapes.

        Raises:
            BadOption: an option makes no sense.
        """
        mine, shares = parse_share(share)
        plain = picture_sets(data, validation)
        labels = plain.train[1]
        part = dirichlet(labels, shares, alpha=alpha, seed=seed, minimum=minimum)[mine]
        self._source = (data, validation)
        held = plain.validation
        sets = Sets(
            train=(shifted(plain.train[0]), labels),
            validation=None if held is None else (shifted(held[0]), held[1]),
            test=(shifted(plain.test[0]), plain.test[1]),
        )
        super().__init__(sets, all_of(labels, part))

    def model(self) -> nn.Module:
        """See `Task`."""
        trained = pretrained(*self._source)
        model = perceptron(trained[0].in_features, WIDTH, WIDTH, CLASSES)
        model.load_state_dict(trained.state_dict())
        return model


def shifted(images: Images) -> Images:
    """Move images by a pixel to the right; what leaves them comes in on the left."""
    return np.roll(as_squares(images), 1, axis=2).reshape(images.shape)


@cache
def pretrained(data: str = "digits", validation: float = 0.0) -> nn.Sequential:
    """Return a perceptron trained on the pictures as they are; do not change it."""
    x_train, y_train = picture_sets(data, validation).train
    x, y = images_tensor(x_train), torch.tensor(y_train)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(SEED)
        model = perceptron(x.shape[1], WIDTH, WIDTH, CLASSES)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(STEPS):
            batch = torch.randint(len(x), (BATCH,))
            optimizer.zero_grad()
            functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model
