"""FedDyn: each node's loss is regularised anew every round, so that the nodes' optima meet in the common one.

Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama, "Federated Learning Based on Dynamic
Regularization", ICLR 2021, https://arxiv.org/abs/2111.04263, algorithm 1. Node k keeps ∇L_k, and all keep h:

    θ_k  ≈ argmin  L_k(w) − <∇L_k, w> + α/2 · |w − θ|²        by H steps of SGD
    ∇L_k ← ∇L_k − α (θ_k − θ)
    h    ← h − α Σ_k weight_k (θ_k − θ)
    θ    ← Σ_k weight_k θ_k − h / α

Both are kept divided by −α: d_k = −∇L_k / α is the sum of the node's moves, and never sent; D = −h / α is the
sum of the mean moves, the same on all peers, part of the shared state and so what a newcomer fetches:

    D ← D + (mean − θ);   θ ← mean + D

The paper's server divides by all clients m, of which some are sampled. Here nobody knows m: who is ready
takes part, and the mean is over those. With α = 0 there is nothing to keep, and it is FedAvg bit for bit.

With all peers in every round it is FedSpeed with ρ = 0. They differ when some are absent: their moves stay in
D here, and leave the mean there. D is computed by single float32 operations, so that unlike machines agree.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from shoal.gossip.events import Vector
from shoal.methods.base import About, Learner, ModelSize, Report, State, Steps, Traffic, all_reduce
from shoal.methods.duals import check_pull, moves
from shoal.methods.fedavg import FedAvgConfig

DUAL = "dual"
DRIFT = "drift"


class FedDynConfig(FedAvgConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of FedDyn."""

    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.1
    """Learning rate of local work."""
    alpha: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.1
    """Strength of the regularisation (α); the paper tries 0.001 to 0.1. 0 is FedAvg."""
    weighted: bool = True
    """Count peers by their examples; false: all alike, as in the paper."""

    def __post_init__(self) -> None:
        """Refuse a pull that overshoots."""
        check_pull("alpha", self.alpha, self.lr)


@dataclass(frozen=True, slots=True)
class FedDyn:
    """See `Method`."""

    # Moves from unlike θ, added to unlike D, mean nothing.
    mergeable: ClassVar[bool] = False
    asks: ClassVar[bool] = True
    one_exchange: ClassVar[bool] = True
    private_matches_state: ClassVar[bool] = True
    about: ClassVar[About] = About(
        paper="Acar et al., Federated Learning Based on Dynamic Regularization, ICLR 2021,"
        " https://arxiv.org/abs/2111.04263, algorithm 1",
        exchanges="the params, once per round, as a weighted mean",
        use="Peers with very unlike data that all stay for the whole run: what one that leaves has added to"
        " the common state stays in it. Where peers come and go, take fedavg.",
    )

    config: FedDynConfig = field(default_factory=FedDynConfig)

    def init(self, params: Vector) -> State:
        """See `Method`."""
        return State(params, shared={DRIFT: np.zeros_like(params)})

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`."""
        return Traffic.one_mean(model.numel)

    def round(self, state: State, learner: Learner, round_: int) -> Steps[tuple[State, Report]]:
        """Train on the regularised loss, then agree."""
        c = self.config
        dual = state.private.get(DUAL, np.zeros_like(state.params))
        trained = learner.train(
            state.params,
            steps=c.steps,
            lr=c.lr,
            batch_size=c.batch_size,
            proximal=c.alpha,
            round_=round_,
            correction=np.float32(c.alpha) * dual if c.alpha else None,
        )
        dual = dual + moves(state, trained.params)
        mean = yield from all_reduce(trained.params, weight=learner.examples if c.weighted else 1.0)
        after = replace(state, params=mean.vector)
        if c.alpha:
            drift = np.add(state.shared[DRIFT], moves(state, mean.vector))
            after = replace(
                after, params=np.add(mean.vector, drift), shared={DRIFT: drift}, private={DUAL: dual}
            )
        return after, Report.of(trained, mean.contributors)
