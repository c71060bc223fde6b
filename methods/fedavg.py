"""FedAvg: train alone for a while, then take the mean of everyone's params.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, https://arxiv.org/abs/1602.05629, algorithm 1:

    w_k ← H steps of SGD on the peer's own data, from w
    w   ← Σ_k (n_k / n) w_k                n_k: how many examples peer k has

Here every peer that is ready takes part (the paper's C = 1), nobody is the server, and local work is
counted in steps H, not in epochs E, so that peers with unlike shares end their work at the same time.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Vector
from shoal.methods.base import About, Learner, ModelSize, Report, State, Steps, Traffic, Trained, all_reduce


class FedAvgConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of FedAvg."""

    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 50
    """Optimizer steps per round (H). More saves messages, but peers with unlike data drift apart."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.2
    """Learning rate of local work."""
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 32
    """Examples per step (B); a node with fewer takes all it has."""


@dataclass(frozen=True, slots=True)
class FedAvg:
    """See `Method`."""

    mergeable: ClassVar[bool] = True
    asks: ClassVar[bool] = True
    one_exchange: ClassVar[bool] = True
    follows_any_loop: ClassVar[bool] = True
    about: ClassVar[About] = About(
        paper="McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,"
        " AISTATS 2017, https://arxiv.org/abs/1602.05629",
        exchanges="the params, once per round, as a mean weighted by examples",
        use="The first choice. With very unlike data, few rounds or hundreds of steps in each, try diloco: it"
        " sends as much.",
    )

    config: FedAvgConfig = field(default_factory=FedAvgConfig)

    def init(self, params: Vector) -> State:
        """See `Method`."""
        return State(params)

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`."""
        return Traffic.one_mean(model.numel)

    def round(self, state: State, learner: Learner, round_: int) -> Steps[tuple[State, Report]]:
        """Train, then agree."""
        trained = self.local(state, learner, round_)
        state, contributors = yield from self.outer(state, trained.params, learner.examples)
        return state, Report.of(trained, contributors)

    def local(self, state: State, learner: Learner, round_: int) -> Trained:
        """Run the paper's ClientUpdate."""
        c = self.config
        return learner.train(state.params, steps=c.steps, lr=c.lr, batch_size=c.batch_size, round_=round_)

    def outer(self, state: State, trained: Vector, weight: float) -> Steps[tuple[State, tuple[PeerId, ...]]]:
        """See `OuterMethod`."""
        mean = yield from all_reduce(trained, weight=weight)
        return State(mean.vector), mean.contributors
