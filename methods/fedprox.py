"""FedProx: FedAvg whose local work is held near the common params.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys
2020, https://arxiv.org/abs/1812.06127, algorithm 2. Peer k minimises, instead of its loss F_k(w),

    h_k(w) = F_k(w) + μ/2 · |w − w_t|²

so that peers with unlike data, or with time for unlike numbers of steps, drift less far apart. A peer that
is slow contributes fewer steps (γ-inexactness in the paper), which here is what HURRY does. The paper takes
the plain mean of sampled peers; here all take part, weighted by examples as in FedAvg, so that μ = 0 is
FedAvg bit for bit.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import msgspec

from shoal.methods.base import About, Learner, State, Trained
from shoal.methods.fedavg import FedAvg, FedAvgConfig


class FedProxConfig(FedAvgConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of FedProx."""

    mu: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.01
    """Strength of the pull to the common params (μ); the paper tries 0.001 to 1. 0 is FedAvg."""


@dataclass(frozen=True, slots=True)
class FedProx(FedAvg):
    """See `Method`."""

    # Its local work is what makes it FedProx.
    follows_any_loop: ClassVar[bool] = False
    about: ClassVar[About] = About(
        paper="Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020,"
        " https://arxiv.org/abs/1812.06127",
        exchanges="the params, once per round, as a mean weighted by examples",
        use="Seldom: with very unlike data (Dirichlet 0.1) it gained nothing over a FedAvg whose rate was"
        " chosen as carefully. Meant for peers that end their rounds after very unlike numbers of steps,"
        " which was not measured. No extra bytes.",
    )

    config: FedProxConfig = field(default_factory=FedProxConfig)

    def local(self, state: State, learner: Learner, round_: int) -> Trained:
        """Minimise h_k in place of F_k."""
        c = self.config
        return learner.train(
            state.params, steps=c.steps, lr=c.lr, batch_size=c.batch_size, proximal=c.mu, round_=round_
        )
