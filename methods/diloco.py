"""DiLoCo: many local steps, then one Nesterov step on what they led to.

Douillard, Feng, Rusu, Chhaparia, Donchev, Kuncoro, Ranzato, Szlam, Shen, "DiLoCo: Distributed
Low-Communication Training of Language Models", 2023, https://arxiv.org/abs/2311.08105, algorithm 1:

    θ_k ← H steps of InnerOpt on the peer's own data, from θ
    Δ   ← Σ_k weight_k (θ − θ_k)                       the pseudo-gradient
    θ   ← OuterOpt(θ, Δ):   v ← m v + Δ;   θ ← θ − η (Δ + m v)

The inner optimizer is AdamW, whose moments stay on the node between rounds; the outer one is Nesterov's
momentum with η = 0.7 and m = 0.9 in the paper, whose models have 60 to 400 million parameters and whose
rounds have 500 steps. The defaults here suit small models and few rounds; what differs is said at the field.

The outer momentum v is shared; how, and what becomes of buffers, is said in outer_step.py.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np

from shoal.gossip.events import Vector
from shoal.methods.base import About, Learner, Report, State, Steps, Trained
from shoal.methods.outer_step import Memory, OuterStep

MOMENTUM = "outer_momentum"


class DiLoCoConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of DiLoCo."""

    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 50
    """Inner steps per round (H). The paper: 500."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.1
    """Learning rate of the inner optimizer."""
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 32
    """Examples per inner step; a node with fewer takes all it has."""
    inner: Literal["task", "sgd", "adamw"] = "task"
    """Inner optimizer: the task's own, SGD, or the paper's AdamW (give it a lower lr, such as 0.001)."""
    outer_lr: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.7
    """Step size of the outer optimizer (η); the paper's best."""
    outer_momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    """Of the outer optimizer (m); the paper's best is 0.9."""
    weighted: bool = True
    """Count peers by their examples; false: all alike, as in the paper where all shares are of one size."""


@dataclass(frozen=True, slots=True)
class DiLoCo(OuterStep):
    """See `Method`."""

    about: ClassVar[About] = About(
        paper="Douillard et al., DiLoCo: Distributed Low-Communication Training of Language Models, 2023,"
        " https://arxiv.org/abs/2311.08105",
        exchanges="the change of the params, once per round, as a weighted mean",
        use="Hundreds of local steps per round, for large models on slow links. Where peers come and go every"
        " few rounds, or their states differ, take fedavg.",
    )

    config: DiLoCoConfig = field(default_factory=DiLoCoConfig)

    def round(self, state: State, learner: Learner, round_: int) -> Steps[tuple[State, Report]]:
        """Take the inner steps, then the outer one."""
        trained = self.local(state, learner, round_)
        after, contributors = yield from self.outer(state, trained.params, learner.examples)
        return replace(after, private=trained.memory), Report.of(trained, contributors)

    def local(self, state: State, learner: Learner, round_: int) -> Trained:
        """Run the inner optimizer, which goes on from its own moments."""
        c = self.config
        return learner.train(
            state.params,
            steps=c.steps,
            lr=c.lr,
            batch_size=c.batch_size,
            optimizer=c.inner,
            memory=state.private,
            round_=round_,
        )

    def memory(self, params: Vector) -> Memory:
        """See `OuterStep`."""
        return {MOMENTUM: np.zeros_like(params)}

    @property
    def is_plain(self) -> bool:
        """See `OuterStep`: never, since changes are what the coarsest codecs can carry."""
        return False

    def step(self, gradient: Vector, memory: Memory) -> tuple[Vector, Memory]:
        """See `OuterStep`: Nesterov's momentum."""
        lr, momentum = np.float32(self.config.outer_lr), np.float32(self.config.outer_momentum)
        velocity = np.add(np.multiply(momentum, memory[MOMENTUM]), gradient)
        step = np.multiply(lr, np.add(gradient, np.multiply(momentum, velocity)))
        return step, {MOMENTUM: velocity}
