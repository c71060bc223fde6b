"""FedAdam: FedAvg whose mean change is a step of Adam.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive Federated Optimization", ICLR 2021,
https://arxiv.org/abs/2003.00295, algorithm 2:

    m ← β1 m + (1 − β1) g
    v ← β2 v + (1 − β2) g²                  v = τ² at first
    θ ← θ − η m / (√v + τ)                  g: the pseudo-gradient, see outer_step.py

There is no correction of the first steps' bias, as in the paper. With β1 = 0, β2 = 1 and η = 2 τ it is FedAvg
bit for bit, since v stays τ².
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from shoal.gossip.events import Vector
from shoal.methods.base import About
from shoal.methods.outer_step import Memory, OuterStep, OuterStepConfig

MEAN, SQUARE = "outer_mean", "outer_square"


class FedAdamConfig(OuterStepConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of FedAdam."""

    outer_lr: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.03
    """Step size of the outer optimizer (η): about how far a parameter moves in a round."""
    beta1: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    """Share of the mean that is kept (β1); the paper: 0.9."""
    beta2: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.99
    """Share of the mean square that is kept (β2); the paper: 0.99. 1: it stays τ²."""
    tau: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.001
    """Changes far below this are not blown up (τ); the paper: 0.001 mostly."""


@dataclass(frozen=True, slots=True)
class FedAdam(OuterStep):
    """See `Method`."""

    about: ClassVar[About] = About(
        paper="Reddi et al., Adaptive Federated Optimization, ICLR 2021, https://arxiv.org/abs/2003.00295,"
        " algorithm 2",
        exchanges="the change of the params, once per round, as a weighted mean",
        use="Models whose params change by very unlike amounts, such as embeddings of rare words. Its outer"
        " rate must be chosen with care; where peers' states differ, take fedavg.",
    )

    config: FedAdamConfig = field(default_factory=FedAdamConfig)

    def memory(self, params: Vector) -> Memory:
        """See `OuterStep`."""
        tau = np.float32(self.config.tau)
        return {MEAN: np.zeros_like(params), SQUARE: np.full_like(params, tau * tau)}

    @property
    def is_plain(self) -> bool:
        """See `OuterStep`."""
        c = self.config
        return c.beta1 == 0 and c.beta2 == 1 and c.outer_lr == 2 * c.tau

    def step(self, gradient: Vector, memory: Memory) -> tuple[Vector, Memory]:
        """See `OuterStep`."""
        c = self.config
        kept, added = np.float32(c.beta1), np.float32(1 - c.beta1)
        mean = np.add(np.multiply(kept, memory[MEAN]), np.multiply(added, gradient))
        square = self.square(memory[SQUARE], np.square(gradient))
        scale = np.add(np.sqrt(square), np.float32(c.tau))
        step = np.divide(np.multiply(np.float32(c.outer_lr), mean), scale)
        return step, {MEAN: mean, SQUARE: square}

    def square(self, before: Vector, squared: Vector) -> Vector:
        """Return v after a gradient whose square is `squared`."""
        kept, added = np.float32(self.config.beta2), np.float32(1 - self.config.beta2)
        return np.add(np.multiply(kept, before), np.multiply(added, squared))
