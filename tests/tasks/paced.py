"""A task whose rounds take the time one wants, nearly without computing: for tests of the swarm around it."""

import time
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from shoal.methods.learning.task import Task
from shoal.methods.tasks.digits import Digits

INPUTS = 8
CLASSES = 4


class Paced(Task):
    """Points and their classes; `pause` seconds per step, about 12 · `hidden` parameters."""

    def __init__(self, pause: float = 0.05, hidden: int = 16, seed: int = 0) -> None:
        """`seed`: of this node's own points."""
        dice = torch.Generator().manual_seed(seed)
        self._pause = pause
        self._hidden = hidden
        self._x = torch.randn(64, INPUTS, generator=dice)
        self._y = (self._x[:, :CLASSES] + 0.1).argmax(-1)

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Sequential(nn.Linear(INPUTS, self._hidden), nn.ReLU(), nn.Linear(self._hidden, CLASSES))

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return self._x, self._y

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Task`."""
        time.sleep(self._pause)
        x, y = batch
        return functional.cross_entropy(model(x), y)


class OnBase(Paced):
    """The same under a frozen first layer of some name, all of whose weights are `base`."""

    def __init__(self, base: float = 0.1, name: str = "0", **options: Any) -> None:
        """`options`: of `Paced`."""
        super().__init__(**options)
        self._base, self._name = base, name

    def model(self) -> nn.Module:
        """See `Task`."""
        first, *others = super().model()
        nn.init.constant_(first.requires_grad_(False).weight, self._base)
        named = {str(number): layer for number, layer in enumerate(others, 1)}
        return nn.Sequential(OrderedDict({self._name: first, **named}))


class OnWideBase(Paced):
    """The same under frozen layers of 17 MB; a node that `lacks` them has only their shapes."""

    def __init__(self, lacks: bool = False, **options: Any) -> None:
        """`options`: of `Paced`."""
        super().__init__(**options)
        self._lacks = lacks

    def model(self) -> nn.Module:
        """See `Task`."""
        head = nn.Linear(16, CLASSES)
        with torch.device("meta" if self._lacks else "cpu"):
            base = nn.Sequential(nn.Linear(INPUTS, 1024), nn.Linear(1024, 4096), nn.Linear(4096, 16))
        dice = torch.Generator().manual_seed(7)
        for parameter in base.requires_grad_(False).parameters():
            if not self._lacks:
                nn.init.uniform_(parameter, -0.03, 0.03, generator=dice)
        return nn.Sequential(base, nn.ReLU(), head)


class PacedDigits(Digits):
    """Digits whose steps take `pause` seconds more, in which other nodes may have the processor."""

    def __init__(self, pause: float = 0.01, **options: Any) -> None:
        """`options`: of `Digits`."""
        super().__init__(**options)
        self._pause = pause

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Task`."""
        time.sleep(self._pause)
        return super().loss(model, batch)


class WideDigits(Digits):
    """Digits by a perceptron of 301,066 parameters, beside which other traffic is little."""

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Sequential(
            nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )


class Half(Paced):
    """The same in bfloat16."""

    def model(self) -> nn.Module:
        """See `Task`."""
        return super().model().bfloat16()

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Task`."""
        x, y = batch
        return super().loss(model, (x.bfloat16(), y))
