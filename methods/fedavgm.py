"""FedAvgM: FedAvg whose mean change is a step of momentum.

Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", 2019, https://arxiv.org/abs/1909.06335, section 4.3:

    v ← β v + g;   θ ← θ − v                g: the pseudo-gradient, see outer_step.py

The outer rate η (θ ← θ − η v) is that of Reddi et al., "Adaptive Federated Optimization", ICLR 2021. With
η = 1 and β = 0 it is FedAvg bit for bit.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from shoal.gossip.events import Vector
from shoal.methods.base import About
from shoal.methods.outer_step import Memory, OuterStep, OuterStepConfig

MOMENTUM = "outer_momentum"


class FedAvgMConfig(OuterStepConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of FedAvgM."""

    outer_lr: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1.0
    """Step size of the outer momentum (η); the paper: 1."""
    outer_momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    """Of the outer optimizer (β); the paper tries 0.7 to 0.997. 0, with a rate of 1, is FedAvg."""


@dataclass(frozen=True, slots=True)
class FedAvgM(OuterStep):
    """See `Method`."""

    about: ClassVar[About] = About(
        paper="Hsu et al., Measuring the Effects of Non-Identical Data Distribution for Federated Visual"
        " Classification, 2019, https://arxiv.org/abs/1909.06335, section 4.3",
        exchanges="the change of the params, once per round, as a weighted mean",
        use="Very unlike data and rounds of few steps, where means of single rounds swing. A newcomer fetches"
        " twice as much as with fedavg; where peers' states differ, take fedavg.",
    )

    config: FedAvgMConfig = field(default_factory=FedAvgMConfig)

    def memory(self, params: Vector) -> Memory:
        """See `OuterStep`."""
        return {MOMENTUM: np.zeros_like(params)}

    @property
    def is_plain(self) -> bool:
        """See `OuterStep`."""
        return self.config.outer_lr == 1 and self.config.outer_momentum == 0

    def step(self, gradient: Vector, memory: Memory) -> tuple[Vector, Memory]:
        """See `OuterStep`: heavy-ball momentum."""
        lr, momentum = np.float32(self.config.outer_lr), np.float32(self.config.outer_momentum)
        velocity = np.add(np.multiply(momentum, memory[MOMENTUM]), gradient)
        return np.multiply(lr, velocity), {MOMENTUM: velocity}
