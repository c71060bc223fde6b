"""SCAFFOLD: local steps corrected by the difference of two control variates, the node's and everyone's.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated
Learning", ICML 2020, https://arxiv.org/abs/1910.06378, algorithm 1 with option II. Node i keeps
c_i, at first 0; all keep c:

    y_i ← x;  K times:  y_i ← y_i − η_l (∇f_i(y_i) − c_i + c)
    c_i ← c_i − c + (x − y_i) / (K η_l)
    x   ← x + η_g · mean_i (y_i − x);     c ← mean_i c_i

The paper's server adds the changes of the sampled clients' c_i to c, so that c stays the mean over all
clients. Here everyone who is ready takes part, and c is the mean over those: so a peer that leaves, or
comes with c_i = 0, leaves no error behind. Both means are weighted by examples as in FedAvg, so that the
corrections of all peers cancel out; the paper counts clients alike. A round sends twice what FedAvg sends.

In round 0, and for one peer always, c_i = c: that is FedAvg bit for bit where η_g = 1. Local steps are SGD
whatever the task's optimizer is, since c_i is a mean gradient only then. Buffers have no control variate.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from shoal.gossip.events import Vector
from shoal.methods.base import About, Learner, ModelSize, Report, State, Steps, Traffic, all_reduce
from shoal.methods.duals import moves
from shoal.methods.fedavg import FedAvgConfig

CONTROL = "control"


class ScaffoldConfig(FedAvgConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of SCAFFOLD."""

    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.1
    """Learning rate of local SGD (η_l)."""
    global_lr: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1.0
    """Step size on the mean change (η_g); the paper's experiments have 1."""


@dataclass(frozen=True, slots=True)
class Scaffold:
    """See `Method`."""

    # Controls measured at unlike x do not cancel out.
    mergeable: ClassVar[bool] = False
    asks: ClassVar[bool] = True
    private_matches_state: ClassVar[bool] = True
    about: ClassVar[About] = About(
        paper="Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML"
        " 2020, https://arxiv.org/abs/1910.06378, algorithm 1, option II",
        exchanges="the params and the node's control variate, once per round, as means weighted by examples",
        use="Peers with very unlike data that take part in most rounds, where bytes are cheap: it sends twice"
        " as much as fedavg. Local work is SGD whatever the task's optimizer is.",
    )

    config: ScaffoldConfig = field(default_factory=ScaffoldConfig)

    def init(self, params: Vector) -> State:
        """See `Method`."""
        return State(params, shared={CONTROL: np.zeros_like(params)})

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`: params, and controls."""
        return Traffic(largest=model.numel, reduced=2 * model.numel)

    def round(self, state: State, learner: Learner, round_: int) -> Steps[tuple[State, Report]]:
        """Train with corrected steps, then agree on the params and on the controls."""
        c = self.config
        common = state.shared[CONTROL]
        own = state.private.get(CONTROL, np.zeros_like(state.params))
        trained = learner.train(
            state.params,
            steps=c.steps,
            lr=c.lr,
            batch_size=c.batch_size,
            optimizer="sgd",
            round_=round_,
            correction=np.subtract(common, own),
        )
        # A peer that is hurried takes fewer steps than the others.
        work = np.float32(trained.steps * c.lr)
        own = np.subtract(np.subtract(own, common), moves(state, trained.params) / work)
        mean = yield from all_reduce(trained.params, weight=learner.examples)
        controls = yield from all_reduce(own.copy(), weight=learner.examples, tag="control")
        params = mean.vector
        if c.global_lr != 1:
            params = params + np.float32(c.global_lr - 1) * moves(state, mean.vector)
        after = replace(state, params=params, shared={CONTROL: controls.vector}, private={CONTROL: own})
        return after, Report.of(trained, mean.contributors)
