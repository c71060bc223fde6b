"""Digit tasks: many questions about the same digits, some of them at odds, and a few of them on each node.

    upright, rotated, turned, tilted, mirrored, inverted    the same labels on other pictures
    relabelled                                              other labels on the same pictures
    parity, large                                           two classes: odd? five or more?

All tasks share a body 64-128-64 (16,576 parameters), pre-trained on transposed digits, and train nothing
else. A head is 64 by 10 numbers of ±1/8, frozen, from a keystream: the same bits on every machine, so that
its hash can be a part of the task's identity.

    conflict="strong"    one head for all: upright and relabelled want opposite things of the body
    conflict="mild"      a head for each: tasks differ, but need not contradict each other

Nodes stand in a ring with the tasks: node i of n holds the tasks i, i+1, ... Each training digit of a task
goes to one of the task's holders (methods/tasks/partition.py).
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from hashlib import blake2b
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from shoal.methods.coding.keystream import derive_key, uniform_words
from shoal.methods.errors import BadOption
from shoal.methods.learning.task import Task
from shoal.methods.learning.task_identity import Identity
from shoal.methods.tasks.digits import Images, Labels
from shoal.methods.tasks.digits_pretrained import (
    BODY_SEED,
    as_squares,
    images_tensor,
    perceptron,
    picture_sets,
    pretrain,
    transposed,
)
from shoal.methods.tasks.partition import dirichlet, parse_share
from shoal.methods.tasks.shares import Sets

CLASSES: Final = 10
FEATURES: Final = 64
SHARED_HEAD: Final = "shared"
Conflict = Literal["strong", "mild"]


def _rotated(quarters: int) -> Callable[[Images], Images]:
    return lambda x: np.rot90(as_squares(x), quarters, (1, 2)).reshape(x.shape)


def _mirrored(x: Images) -> Images:
    return as_squares(x)[:, :, ::-1].reshape(x.shape)


def _inverted(x: Images) -> Images:
    return 1.0 - x


def _same(x: Images) -> Images:
    return x


def _kept(y: Labels) -> Labels:
    return y


def _shifted(y: Labels) -> Labels:
    return (y + 1) % CLASSES


def _odd(y: Labels) -> Labels:
    return y % 2


def _large(y: Labels) -> Labels:
    return (y >= CLASSES // 2).astype(np.int64)


PICTURES: Final[Mapping[str, Callable[[Images], Images]]] = {
    "upright": _same,
    "rotated": _rotated(1),
    "mirrored": _mirrored,
    "relabelled": _same,
    "turned": _rotated(2),
    "inverted": _inverted,
    "tilted": _rotated(3),
    "parity": _same,
    "large": _same,
    "transposed": transposed,
}
"""Task -> what it does to the pictures."""
LABELS: Final[Mapping[str, Callable[[Labels], Labels]]] = {
    "relabelled": _shifted,
    "parity": _odd,
    "large": _large,
}
"""Task -> what it does to the labels; the others leave them."""
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "relabelled": tuple(str((label + CLASSES - 1) % CLASSES) for label in range(CLASSES)),
    "parity": ("even", "odd"),
    "large": ("0 to 4", "5 to 9"),
}
"""Task -> its classes; the others have the ten digits."""


class DigitTask(Task):
    """One question about the digits, with a frozen head of its own on the common body."""

    def __init__(self, name: str, head: str, sets: Sets, data: str = "digits") -> None:
        """`head`: the name from which its numbers are drawn. `sets`: ours, as `data` has them."""
        self.name, self._head, self._data = name, frozen_head(head), data
        self._train, self._test = self._asked(*sets.train), self._asked(*sets.test)
        self._validation = None if sets.validation is None else self._asked(*sets.validation)

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return self._train

    def validation_data(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """See `Task`."""
        return self._validation

    def test_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return self._test

    def outputs(self, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """See `Task`."""
        scores: torch.Tensor = model(x) @ self._head.to(x.device).T
        return scores

    def identity(self) -> Identity:
        """See `Task`."""
        classes = NAMES.get(self.name, tuple(str(label) for label in range(CLASSES)))
        head = blake2b(self._head.numpy().tobytes(), digest_size=32).digest()
        name = self.name if self._data == "digits" else f"{self.name} {self._data}"
        return Identity(name=name, classes=classes, head=head)

    def _asked(self, x: Images, y: Labels) -> tuple[torch.Tensor, torch.Tensor]:
        labels = LABELS.get(self.name, _kept)(y)
        return images_tensor(np.ascontiguousarray(PICTURES[self.name](x))), torch.tensor(labels)


class DigitTasks(Task):
    """Several questions about the digits. As one task it trains one body on all of this node's questions."""

    def __init__(
        self,
        share: str = "1/6",
        tasks: str = "upright,rotated,mirrored,relabelled,turned,inverted",
        per_node: int = 2,
        own: str = "",
        conflict: Conflict = "strong",
        alpha: float = 100.0,
        seed: int = 0,
        data: str = "digits",
        validation: float = 0.0,
    ) -> None:
        """`share`: which node of how many. `tasks`: of all nodes. `per_node`: how many each holds.

        `own`: what this node holds, instead of what its place in the ring says; each of its tasks gets a
        share of the digits as if all nodes held it. `alpha`: small means few labels per holder. `seed`: of
        the split. `data`: digits, or the pictures of the task shapes. `validation`: as for the task digits.

        Raises:
            BadOption: an option makes no sense.
        """
        if conflict not in ("strong", "mild"):
            raise BadOption(f"conflict = {conflict}: choose strong or mild")
        mine, nodes = parse_share(share)
        ring = _names(tasks)
        if not 1 <= per_node <= len(ring):
            raise BadOption(f"per_node = {per_node}: choose from 1 to {len(ring)}, the number of tasks")
        holders = _holders(ring, nodes, per_node)
        held = _names(own) if own else [name for name in ring if mine in holders[name]]
        sets = picture_sets(data, validation)
        x, y = sets.train
        self._source = data, validation
        self._parts: dict[str, DigitTask] = {}
        for name in held:
            among = list(range(nodes)) if own else holders[name]
            split = dirichlet(y, len(among), alpha=alpha, seed=seed, minimum=8)[among.index(mine)]
            head = SHARED_HEAD if conflict == "strong" else name
            self._parts[name] = DigitTask(name, head, replace(sets, train=(x[split], y[split])), data)

    def model(self) -> nn.Module:
        """Return the pre-trained body."""
        return deepcopy(pretrained_body(*self._source))

    def parts(self) -> dict[str, DigitTask]:
        """See `Task`."""
        return dict(self._parts)

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return pictures, labels and which of our questions each is about."""
        data = [part.train_data() for part in self._parts.values()]
        asked = torch.cat([torch.full((len(y),), i) for i, (_, y) in enumerate(data)])
        return torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]), asked

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Task`: the mean over all examples, each under the head of its question."""
        x, y, asked = batch
        scores = torch.zeros(len(x), CLASSES, device=x.device)
        for i, part in enumerate(self._parts.values()):
            scores[asked == i] = part.outputs(model, x[asked == i])
        return functional.cross_entropy(scores, y)

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """See `Task`: the mean accuracy over this node's questions, and each."""
        found = {name: part.accuracy(model, part.test_data()) for name, part in self.parts().items()}
        each = {f"accuracy {name}": value for name, value in found.items()}
        return {"accuracy": sum(found.values()) / len(found), **each}


def frozen_head(name: str) -> torch.Tensor:
    """Return a head of ±1/8, float32 [classes, features]."""
    words = uniform_words(derive_key("digit head", name.encode()), CLASSES * FEATURES)
    signs = np.where(words & 1, np.float32(1), np.float32(-1)) / np.float32(8)
    return torch.tensor(signs.reshape(CLASSES, FEATURES))


@cache
def pretrained_body(data: str = "digits", validation: float = 0.0) -> nn.Sequential:
    """Return the body, trained on transposed pictures under the shared head; do not change it."""
    pictures = picture_sets(data, validation).train
    with torch.random.fork_rng():
        torch.manual_seed(BODY_SEED)
        body = perceptron(pictures[0].shape[1], 128, FEATURES)
    head = frozen_head(SHARED_HEAD)
    return pretrain(body, lambda x: body(x) @ head.T, pictures)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PICTURES:
            raise BadOption(f"no digit task {name!r}; there are: {', '.join(PICTURES)}")
    return names


def _holders(ring: list[str], nodes: int, per_node: int) -> dict[str, list[int]]:
    """Return which nodes hold each task."""
    count = len(ring)
    return {
        name: [node for node in range(nodes) if (place - node) % count < per_node]
        for place, name in enumerate(ring)
    }
