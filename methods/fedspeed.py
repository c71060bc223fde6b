"""FedSpeed: local work held near the common params by a term whose bias a dual of the node takes back.

Sun, Shen, Huang, Ding, Tao, "FedSpeed: Larger Local Interval, Less Communication Round, and Higher
Generalization Accuracy", ICLR 2023, https://arxiv.org/abs/2302.10429, algorithm 1. Node i keeps h_i, which is
0 at first and never sent:

    w  ← θ;  K times:   g ← ∇F_i(w);   g ← ∇F_i(w + ρ g / |g|)             the same batch, uphill
                        w ← w − η (g + λ (w − θ + h_i))
    h_i ← h_i + (w − θ)
    θ  ← Σ_i weight_i (w_i + h_i)

λ is 1/λ of the paper, and λ h_i is its −ĝ_i. As in the authors' code, the step takes the gradient uphill
alone (the paper's α = 1). With λ = 0 there is no pull and so no dual: with ρ = 0 too, it is FedAvg bit for
bit.

The server of the paper knows the duals of the clients that are absent; a group averages those of its
members, which the metric ``dual_coverage`` tells: the peers in this mean, of the most that were in one. A
node that missed more than `forget_after` rounds starts with a dual of 0.

Buffers have no dual: they are averaged as they are.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from shoal.gossip.events import Vector
from shoal.methods.base import (
    About,
    Array,
    Learner,
    ModelSize,
    Report,
    State,
    Steps,
    Traffic,
    all_reduce,
    here,
)
from shoal.methods.duals import check_pull, moves
from shoal.methods.fedavg import FedAvgConfig

DUAL = "dual"
PEERS = "peers"


class FedSpeedConfig(FedAvgConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of FedSpeed."""

    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.1
    """Learning rate of local work (η)."""
    lam: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.1
    """Strength of the pull to the common params and of the dual (λ, 1/λ in the paper). 0: neither."""
    rho: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.1
    """How far uphill the gradient is taken (ρ); 0: here, at half the cost of a step."""
    weighted: bool = True
    """Count peers by their examples; false: all alike, as in the paper."""
    forget_after: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 10
    """A node that missed more rounds than this starts with a dual of 0."""

    def __post_init__(self) -> None:
        """Refuse a pull that overshoots."""
        check_pull("lam", self.lam, self.lr)


@dataclass(frozen=True, slots=True)
class FedSpeed:
    """See `Method`."""

    # A dual is measured from the common params: means of duals from unlike ones keep the peers apart.
    mergeable: ClassVar[bool] = False
    asks: ClassVar[bool] = True
    private_matches_state: ClassVar[bool] = True
    about: ClassVar[About] = About(
        paper="Sun et al., FedSpeed: Larger Local Interval, Less Communication Round, and Higher"
        " Generalization Accuracy, ICLR 2023, https://arxiv.org/abs/2302.10429, algorithm 1",
        exchanges="the params plus the node's dual, once per round, as a weighted mean; the dual never leaves"
        " alone",
        use="Peers with very unlike data that stay for the whole run. Where they come and go in a few rounds,"
        " or their states differ, take fedavg.",
    )

    config: FedSpeedConfig = field(default_factory=FedSpeedConfig)

    def init(self, params: Vector) -> State:
        """See `Method`."""
        return State(params)

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`."""
        return Traffic.one_mean(model.numel)

    def round(self, state: State, learner: Learner, round_: int) -> Steps[tuple[State, Report]]:
        """Train under pull and dual, then agree on the params plus the duals."""
        c = self.config
        dual = self._dual(state, (yield from here()).away)
        trained = learner.train(
            state.params,
            steps=c.steps,
            lr=c.lr,
            batch_size=c.batch_size,
            proximal=c.lam,
            round_=round_,
            correction=np.float32(c.lam) * dual if c.lam else None,
            ascent=c.rho,
        )
        if c.lam:
            dual = dual + moves(state, trained.params)
        mean = yield from all_reduce(
            trained.params + dual if c.lam else trained.params,
            weight=learner.examples if c.weighted else 1.0,
        )
        most = max(len(mean.contributors), int(state.private.get(PEERS, np.zeros(1))[0]))
        private: dict[str, Array] = {DUAL: dual, PEERS: np.array([most])} if c.lam else {}
        report = Report.of(trained, mean.contributors)
        coverage = {"dual_coverage": len(mean.contributors) / most} if c.lam else {}
        return replace(state, params=mean.vector, private=private), replace(report, metrics=coverage)

    def _dual(self, state: State, away: int) -> Vector:
        """Return the dual that this round begins with."""
        if DUAL not in state.private or away > self.config.forget_after:
            return np.zeros_like(state.params)
        return state.private[DUAL]
