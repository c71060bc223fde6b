"""DeltaMask: keep or drop each weight of a pre-trained model, and send only which of these choices changed.

Tsouvalas, Asano, Saeed, "Federated Fine-Tuning of Foundation Models via Probabilistic Masking", 2023,
https://arxiv.org/abs/2311.17299 (longer: "DeltaMask", IEEE BigData 2024). Training of the mask and its
aggregation are FedPM's: Isik et al., ICLR 2023, https://arxiv.org/abs/2209.15328.

    θ ∈ (0,1)^d    the agreed chance of each weight to be kept; effective weights W ⊙ m, m ~ Bernoulli(θ)
    u ∈ [0,1)^d    the same random numbers on all peers;  m_g = [u < θ]

    peer k:   s = logit θ; optimizer steps on s under drawn masks (methods/deltamask/masking.py);  θ_k = σ(s)
              m_k = [u < θ_k]              the same u, so that bits differ only where θ crossed it
              D   = {i : m_k,i ≠ m_g,i}    of these the κ|D| with the largest KL(θ_k,i ‖ θ_i) are sent
    all:      m'_k = m_g xor D'_k,   α += Σ_k m'_k,   β += K - Σ_k m'_k,   θ = (α - 1) / (α + β - 2)

The first rounds train the classifier on top of the untouched body as FedAvg would (a linear probe). Then it
is frozen, and rounds are of masks. Every few rounds the posterior starts again at α = β = λ.

Without a server: every peer gathers all updates, a few hundred bytes each, and does the aggregation
itself. The state has whole numbers: how often each weight was kept, out of how many votes (β is the rest,
since every weight gets every vote). θ and its comparison with u are integers of 32 bits.

What differs from the paper, and why:

- Positions may be sent as a Rice code in place of a filter (`coding`): at the few hundred changes of a
  small model it is shorter, and exact. Both lengths are reported each round.
- u is drawn from the agreed state and the round, not from the member list. Nobody gains by knowing u
  early: a peer has one vote on each bit whatever u is, and nothing ties that vote to u. And the state
  depends on every body of the round before, committed before any was seen, so nobody can choose u.
- θ is held within [0.01, 0.99], in place of FedPM's ε for masks at exactly 0 and 1: for the same reason,
  that a score at infinity never comes back.
- The share κ of changes that are sent is constant unless `kappa_end` is set: what the paper's cosine ends
  at is not known to us.
- An update may announce at most a tenth of all positions (`density_cap`), so that one message cannot turn
  the mask over; peers whose masks changed more send the most certain of their changes.
"""

from dataclasses import dataclass, field
from math import ceil, cos, pi
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import msgspec
import numpy as np

from shoal.gossip.events import Vector
from shoal.methods.base import About, ModelSize, Report, State, Steps, Traffic, Trained, all_reduce
from shoal.methods.coding.bit_coding import Bits, Indices
from shoal.methods.coding.gathered import SLICE_BYTES, exchange
from shoal.methods.coding.keystream import Words, derive_key, uniform_words
from shoal.methods.deltamask.mask_update import Bounds, Coding, read, write
from shoal.methods.deltamask.posterior import ONE, Posterior, Prior, divergence, from_scores, to_scores
from shoal.methods.needs import Need

if TYPE_CHECKING:
    from shoal.methods.learning.learner import TorchLearner

MOST: Final = 8 * SLICE_BYTES // 16
"""Positions that fit in one gather, whatever the coding: none takes more than 16 bits when there are many."""
BASE: Final = "base"
"""Shared vector: the model as it was when the head was frozen."""
KEPT: Final = "kept"
"""Shared vector: how many votes each weight has for being kept, α - λ."""
VOTES: Final = "votes"
"""Shared number: how many votes every weight has, α + β - 2λ."""


class DeltaMaskConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of DeltaMask."""

    head_rounds: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 10
    """Rounds in which the head is trained, before the masks. The paper: one or a few."""
    head_steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 20
    """Optimizer steps in each of them."""
    head_lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.1
    """Learning rate of the head, with the task's optimizer."""
    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 30
    """Steps of Adam on the scores in a round of masks. FedPM: three epochs."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.1
    """Learning rate of the scores: FedPM's 0.01 for weights drawn at random; here they are pre-trained."""
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 32
    """Examples per step; a node with fewer takes all it has."""
    theta: Annotated[float, msgspec.Meta(ge=0.01, le=0.99)] = 0.85
    """Chance to keep a weight before the first vote; FedPM: 0.5, since its weights mean nothing yet."""
    floor: Annotated[float, msgspec.Meta(ge=0.0001, le=0.4)] = 0.01
    """Chances are held this far from 0 and 1; FedPM's ε."""
    prior: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    """λ, the α and β of a posterior before its votes. FedPM: 1."""
    reset_every: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    """The posterior starts again after so many rounds of masks (1/ρ). FedPM: 1; on the digits 5 is worse."""
    kappa: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    """Share of the changes that are sent, those with the largest divergence; the paper's 0.8."""
    kappa_end: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Where the share ends, by a cosine; 0: it stays."""
    kappa_rounds: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 100
    """Rounds of masks until it ends there; the paper trains 100."""
    coding: Literal["auto", "bfuse8", "rice", "bits"] = "auto"
    """How positions travel: the paper's filter bfuse8, rice, bits, or the shorter of the first two."""
    density_cap: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    """Share of all positions that an update may announce; one with more is refused."""


@dataclass(frozen=True, slots=True)
class DeltaMask:
    """See `Method`."""

    # An update says what changed against the agreed mask; against another it says nothing.
    mergeable: ClassVar[bool] = False
    asks: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            what="role()",
            must=True,
            why="which tensors are the body, whose weights are masked, and which the head, trained before;"
            " without a head set head_rounds = 0",
        ),
        Need(
            what="a pre-trained model()",
            must=False,
            why="masks choose among its weights; random ones are worth little",
        ),
    )
    about: ClassVar[About] = About(
        paper="Tsouvalas, Asano, Saeed, Federated Fine-Tuning of Foundation Models via Probabilistic Masking,"
        " 2023, https://arxiv.org/abs/2311.17299",
        exchanges="first the head as a weighted mean; then which bits of a mask over the frozen body changed,"
        " about a tenth of a bit per weight. It shows which weights a node's data move",
        use="To fit a pre-trained model to new data over thin links. Not from random weights, and not where"
        " full fine-tuning is affordable and every point counts.",
        body_bound="One vote of n on a weight's chance to be kept, at `density_cap` of the positions at most"
        " and at what a filter has of false ones.",
    )

    config: DeltaMaskConfig = field(default_factory=DeltaMaskConfig)

    def init(self, params: Vector) -> State:
        """See `Method`; the params are the model under the most likely mask."""
        shared = {BASE: params.copy(), KEPT: np.zeros_like(params), VOTES: np.zeros(1, np.float32)}
        return State(params, shared)

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`: a tenth of a bit for each weight under the mask, or all bits if these are sent.

        Only the head is averaged, in the first rounds alone. Memory is made for all, since the parts of the
        model may not be known.
        """
        masks = max(1, model.body // (8 if self.config.coding == "bits" else 80))
        return Traffic(largest=model.numel, gathered=masks)

    def check(self, learner: "TorchLearner") -> None:
        """See `Demands`: a body to mask, and a head if one is to be trained."""
        from shoal.methods.deltamask.masking import where

        where(learner, "body")
        if self.config.head_rounds:
            where(learner, "head")

    def round(self, state: State, learner: "TorchLearner", round_: int) -> Steps[tuple[State, Report]]:
        """Probe first, then mask."""
        if round_ < self.config.head_rounds:
            return (yield from self._head_round(state, learner, round_))
        return (yield from self._mask_round(state, learner, round_))

    def _head_round(self, state: State, learner: "TorchLearner", round_: int) -> Steps[tuple[State, Report]]:
        from shoal.methods.deltamask.masking import HeadOnly, where

        c, head = self.config, where(learner, "head")
        trained = learner.train(
            state.params,
            steps=c.head_steps,
            lr=c.head_lr,
            batch_size=c.batch_size,
            round_=round_,
            objective=HeadOnly(learner),
        )
        mean = yield from all_reduce(trained.params[head], weight=learner.examples, tag="head")
        params = state.params.copy()
        params[head] = mean.vector
        after = State(params, {**state.shared, BASE: params.copy()})
        return after, Report.of(trained, mean.contributors)

    def _mask_round(self, state: State, learner: "TorchLearner", round_: int) -> Steps[tuple[State, Report]]:
        from shoal.methods.deltamask.masking import where

        body = where(learner, "body")
        posterior = self._posterior(state, body)
        agreed = posterior.chances()
        common = common_words(state, round_, agreed.size)
        mine, trained = self._local(learner, state, agreed, round_)
        bounds = self.bounds(agreed.size)
        flips = choose(agreed, mine, common, share=self.kappa(round_), most=bounds.most)
        updates = {coding: write(flips, coding, bounds) for coding in self._codings()}
        update = min(updates.values(), key=len)
        # A bit for every weight may take several gathers; positions always fit in one, see `bounds`.
        size = agreed.size // 8 + 64 if self.config.coding == "bits" else SLICE_BYTES
        bodies = yield from exchange(update, lambda data: read(data, bounds), tag="mask", bound=size)
        if bodies.values:
            if (round_ - self.config.head_rounds) % self.config.reset_every == 0:
                posterior = posterior.restarted()
            posterior = posterior.after((common < agreed) ^ flipped for _, flipped in bodies.values)
        metrics = {"changed": float(flips.size), "refused": float(bodies.refused)}
        metrics["bits_per_weight"] = 8 * len(update) / agreed.size
        metrics |= {f"bits_per_weight_{coding}": 8 * len(u) / agreed.size for coding, u in updates.items()}
        report = Report(trained.loss, trained.examples, trained.steps, bodies.peers, metrics)
        return masked_state(state, body, posterior), report

    def bounds(self, positions: int) -> Bounds:
        """Return what all peers know of an update to a mask of so many positions."""
        return Bounds(positions, max(1, min(int(self.config.density_cap * positions), MOST)))

    def kappa(self, round_: int) -> float:
        """Return the share of changes that are sent in a round."""
        c = self.config
        if c.kappa_end == 0:
            return c.kappa
        progress = min(1.0, (round_ - c.head_rounds) / c.kappa_rounds)
        return c.kappa_end + (c.kappa - c.kappa_end) * (1 + cos(pi * progress)) / 2

    def _posterior(self, state: State, body: Bits) -> Posterior:
        c = self.config
        prior = Prior(c.theta, c.prior, c.floor)
        return Posterior(prior, state.shared[KEPT][body], int(state.shared[VOTES][0]))

    def _local(
        self, learner: "TorchLearner", state: State, agreed: Words, round_: int
    ) -> tuple[Words, Trained]:
        """Train the scores; returns the chances they stand for."""
        from shoal.methods.deltamask.masking import MaskedBody

        c = self.config
        before = to_scores(agreed)
        objective = MaskedBody(learner, before)
        trained = learner.train(
            state.shared[BASE],
            steps=c.steps,
            lr=c.lr,
            batch_size=c.batch_size,
            optimizer="adam",
            round_=round_,
            objective=objective,
        )
        after = objective.scores
        # What did not move keeps its exact chance: its logit and back would be another number.
        return np.where(after == before, agreed, from_scores(after)), trained

    def _codings(self) -> tuple[Coding, ...]:
        """Return the codings that are tried; the shortest update is sent."""
        return ("bfuse8", "rice") if self.config.coding == "auto" else (self.config.coding,)


def common_words(state: State, round_: int, count: int) -> Words:
    """Return u, the random numbers of a round that all peers share."""
    parts = [state.shared[name].tobytes() for name in (BASE, KEPT, VOTES)]
    return uniform_words(derive_key("deltamask u", round_.to_bytes(8, "little"), *parts), count)


def choose(agreed: Words, mine: Words, common: Words, *, share: float, most: int) -> Indices:
    """Return, sorted, where our mask differs from the agreed one: of these the share that is most certain."""
    changed = np.flatnonzero((common < mine) != (common < agreed))
    wanted = min(ceil(share * changed.size), most)
    certainty = divergence(mine[changed], agreed[changed])
    # Stable, so that a tie is broken by position.
    return np.sort(changed[np.argsort(-certainty, kind="stable")[:wanted]])


def masked_state(state: State, body: Bits, posterior: Posterior) -> State:
    """Return the state with this posterior: its params are the base under the most likely mask."""
    base = state.shared[BASE]
    params, kept = base.copy(), np.zeros_like(base)
    params[body] = np.where(posterior.chances() >= ONE // 2, base[body], np.float32(0))
    kept[body] = posterior.kept
    return State(params, {BASE: base, KEPT: kept, VOTES: np.array([posterior.votes], np.float32)})
