"""Local SGD: every node trains alone and tells nobody anything.

Not a method to learn together but the yardstick for those that are: what a node reaches on its own share.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import msgspec

from shoal.gossip.events import Vector
from shoal.methods.base import About, Learner, ModelSize, Report, State, Steps, Traffic


class LocalSGDConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of local work."""

    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 50
    """Optimizer steps between two reports."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.2
    """Learning rate."""
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 32
    """Examples per step; a node with fewer takes all it has."""


@dataclass(frozen=True, slots=True)
class LocalSGD:
    """See `Method`."""

    mergeable: ClassVar[bool] = True
    asks: ClassVar[bool] = False
    about: ClassVar[About] = About(
        paper="none: plain stochastic gradient descent",
        exchanges="nothing",
        use="To see what a node reaches alone. Never to learn together.",
    )

    config: LocalSGDConfig = field(default_factory=LocalSGDConfig)

    def init(self, params: Vector) -> State:
        """See `Method`."""
        return State(params)

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`."""
        return Traffic()

    def round(self, state: State, learner: Learner, round_: int) -> Steps[tuple[State, Report]]:
        """Train; ask for nothing."""
        c = self.config
        trained = learner.train(state.params, steps=c.steps, lr=c.lr, batch_size=c.batch_size, round_=round_)
        yield from ()
        return State(trained.params), Report.of(trained)
