"""FedYogi: FedAdam whose step sizes grow no faster than they shrink.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive Federated Optimization", ICLR 2021,
https://arxiv.org/abs/2003.00295, algorithm 2. It differs from fedadam.py in one line:

    v ← v − (1 − β2) g² sign(v − g²)

With β1 = 0, β2 = 1 and η = 2 τ it is FedAvg bit for bit.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from shoal.gossip.events import Vector
from shoal.methods.base import About
from shoal.methods.fedadam import FedAdam, FedAdamConfig


class FedYogiConfig(FedAdamConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of FedYogi."""


@dataclass(frozen=True, slots=True)
class FedYogi(FedAdam):
    """See `Method`."""

    about: ClassVar[About] = About(
        paper="Reddi et al., Adaptive Federated Optimization, ICLR 2021, https://arxiv.org/abs/2003.00295,"
        " algorithm 2",
        exchanges="the change of the params, once per round, as a weighted mean",
        use="As fedadam, where some rounds change far more than others: its step sizes recover more slowly."
        " Its outer rate must be chosen with care; where peers' states differ, take fedavg.",
    )

    config: FedYogiConfig = field(default_factory=FedYogiConfig)

    def square(self, before: Vector, squared: Vector) -> Vector:
        """See `FedAdam`."""
        added = np.float32(1 - self.config.beta2)
        after: Vector = np.subtract(before, np.multiply(added, squared) * np.sign(before - squared))
        return after
