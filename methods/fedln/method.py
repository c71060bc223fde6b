"""FedLN: every peer estimates how wrong its own labels are, and then corrects, dampens or outweighs them.

Tsouvalas, Saeed, Ozcelebi, Meratnia, "Labeling Chaos to Learning Harmony: Federated Learning with Noisy
Labels", ACM TIST, 2024, https://arxiv.org/abs/2208.09378. Two estimators of the noise level e_k,

    A  neighbours   e_k = share of labels that the k nearest in a frozen embedding h vote down
    B  energy       E(x) = logsumexp f(x); ν = 75th percentile of everyone's E before local work;
                    e_k = share of own examples with E ≥ ν after it

and three remedies for noisy peers, of which one is chosen,

    average   NA-FedAvg: the mean weighs clean peers by a_k = n_k, others by a_k = n_k min(1/10, 1 - e_k)
    correct   NNC: labels of a noisy peer are replaced by their neighbours' vote
    distil    AKD: a noisy peer's loss is CE + α · mean |g(z(x)) - h(x)|, with g a head that stays home

Without a server: A is local. Each round every peer tells (n_k, e_k), e_k in 8 bits; who is noisy follows
from these for everyone alike, and who is makes itself lighter (`all_reduce(..., discount=...)`); a newcomer
needs nothing else. For B nobody tells a score: peers count their energies into 64 common bins, in the
first round of a window that they are in, and tell these counts until the window is over; the sum over the
group of its last round is part of the shared state. A peer that missed the window counts as clean, but no
more than the median.

What is ours, and why:

- Noisy peers. The paper calls a peer clean below e_k = 0.15. That needs an embedding in which examples of
  one class lie together: with raw inputs of other data than digits, clean peers have e_k of 0.25 to 0.6, so
  all were noisy, and the mean was that of FedAvg. Here noisy is who stands 0.15 above the clean peers of its
  group (methods/fedln/noisy_peers.py). Where nobody stands apart all count alike; if all labels seem wrong
  then, each peer warns once.
- `correct` and `distil` act on what the group told in the round before: the first round is FedAvg's.
- A is the default. On our digits it tells noisy peers from clean ones; B, at that scale, does not.
- B's energies are counted within a window of rounds, not in one round in which all must be present; before
  and after are of the same round of the same peer. Both ends at 25 are the paper's code. In no round does a
  peer's histogram count more examples than the median, and none adds up over rounds: who told one in every
  round while others told theirs once would have chosen the percentile.
- The examples that count of a peer are capped at three times the median of what peers tell. A mean caps them
  at twice; so a noisy peer's share is no smaller weight, but a discount, which comes after that cap.
- The paper's l2 has no published weight; it is 0 here unless given.
- Not built: verifiers that score a single peer's model. No ask of ours shows one peer's params to another, so
  that a liar who claims e_k = 0 is held by the bounds of a mean alone.

Choose by need: `average` is safe; `correct` fails where wrong labels are systematic (the paper's own table)
and below some 30 examples per class and peer (ours); `distil` helps little on our data.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import msgspec
import numpy as np

from shoal.gossip.events import Vector
from shoal.gossip.policies.caps import CAP, cap
from shoal.methods.base import About, ModelSize, Report, State, Steps, Traffic, Trained, all_reduce
from shoal.methods.coding.gathered import exchange, unpack
from shoal.methods.fedln import histogram
from shoal.methods.fedln.noisy_peers import NOBODY, SMALLEST_PART, noisy_from
from shoal.methods.needs import LAST_LINEAR, Need

if TYPE_CHECKING:
    from shoal.methods.learning.learner import TorchLearner
    from shoal.methods.learning.objective import Objective
    from shoal.methods.learning.task import Examples

log = logging.getLogger(__name__)

ENERGY: Final = "energy"
"""Shared, float32 [64]: everyone's energies before local work, as told in the last round of the window."""
NOISE: Final = "noise"
"""Private, float32 [1]: e_k; absent until it is estimated."""
NOISY_FROM: Final = "noisy_from"
"""Shared, float32 [1]: the level from which on a peer was noisy in the last round; see `LEVELS`."""
LABELS: Final = "labels"
"""Private, float32 [n]: what neighbours say of our labels; used while we are noisy."""
HEAD: Final = "head"
"""Private: the head g of a noisy peer."""
WARNED: Final = "warned"
"""Private, float32 [1]: there once it was said that nobody stands apart."""
BEFORE: Final = "energy_before"
"""Private, float32 [64]: our energies before the local work of our first round in the window, counted."""
AFTER: Final = "energy_after"
"""Private, float32 [n]: our energies after the local work of that round."""
LEVELS: Final = 255
"""e_k travels as a whole number of 255ths."""


class FedLNConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of FedLN; defaults are the authors' code's unless said otherwise."""

    estimator: Literal["neighbours", "energy"] = "neighbours"
    """How noise is estimated; energy needs no embedding, but tells peers apart less well."""
    remedy: Literal["average", "correct", "distil"] = "average"
    """What is done about it: weights in the mean, corrected labels, or distillation."""
    neighbours: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    """How many neighbours vote on a label (k)."""
    excess: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.15
    """How far above the clean peers' estimated noise a noisy peer's lies at least; the paper: above 0."""
    floor: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    """Most that an example of a noisy peer counts beside one of a clean peer."""
    percentile: Annotated[float, msgspec.Meta(gt=0, lt=100)] = 75.0
    """Of everyone's energies, from which on an example counts as noisy."""
    estimate_from: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 10
    """First round in which energies are counted; ours, the paper's code has 25 alone."""
    estimate_until: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 25
    """Last round in which energies are counted; the estimate is used after it."""
    energy_low: Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)] = 0.0
    """Where the bins of energies begin; ours. Energies are near the largest logit."""
    energy_high: Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)] = 32.0
    """Where they end; ours."""
    alpha: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 10.0
    """Weight of the distillation."""
    l2: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Weight decay of kernels in distillation; the paper has one, of no published weight."""
    epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    """Passes over the examples per round."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1e-3
    """Learning rate of Adam."""
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 128
    """Examples per step."""

    def __post_init__(self) -> None:
        """Refuse combinations that make no sense.

        Raises:
            ValueError: ranges are empty, or a remedy lacks the neighbours it is made of.
        """
        if self.estimate_from > self.estimate_until:
            raise ValueError("estimate_from is after estimate_until; choose it at most as large")
        if self.energy_low >= self.energy_high:
            raise ValueError("energy_low is not below energy_high; choose it smaller")
        if self.remedy == "correct" and self.estimator != "neighbours":
            raise ValueError("remedy = correct takes the neighbours' labels; choose estimator = neighbours")

    @property
    def energies(self) -> histogram.Range:
        """The bins of energies."""
        return histogram.Range(self.energy_low, self.energy_high)


class Claim(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a peer says of its labels."""

    examples: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
    noise: Annotated[int, msgspec.Meta(ge=0, le=LEVELS)]
    """e_k in 255ths; 0: clean."""
    is_estimated: bool
    """Whether it is an estimate; a peer that has none yet, or missed the window, says so."""


_CLAIM: Final = msgspec.msgpack.Decoder(Claim)


def read_claim(body: bytes) -> Claim:
    """Return a peer's claim.

    Raises:
        RemoteViolation: no correct peer says this.
    """
    return unpack(body, _CLAIM.decode)


def level(noise: float) -> int:
    """Return a share of the labels as it travels."""
    return round(noise * LEVELS)


def discount(claim: Claim, noisy_from_: int, floor: float) -> Fraction:
    """Return what is left of a peer's weight: all, or of a noisy one min(floor, 1 - e_k)."""
    if claim.noise < noisy_from_:
        return Fraction(1)
    return min(Fraction(floor).limit_denominator(1000), Fraction(LEVELS - claim.noise, LEVELS))


def agreed_weight(
    mine: Claim, claims: Sequence[Claim], noisy_from_: int, floor: float
) -> tuple[float, float]:
    """Return our weight and our discount beside those of all claims; both 1 where nobody counts.

    Their product is a_k. They travel apart, since no weight counts more than twice the median, and a_k of the
    clean is far more than that where most are noisy.
    """
    most = cap([claim.examples for claim in claims])
    if not any(claim.examples and discount(claim, noisy_from_, floor) for claim in claims):
        return 1.0, 1.0
    examples = min(mine.examples, most if mine.is_estimated else most // CAP)
    left = discount(mine, noisy_from_, floor)
    # Nobody takes a discount of 0: who is to count nothing says that it weighs nothing.
    return (float(examples), float(left)) if left else (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class FedLN:
    """See `Method`."""

    mergeable: ClassVar[bool] = True
    asks: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            what="embed()",
            must=False,
            why="rows in which near means alike, from a frozen encoder; unless overridden the flattened"
            " inputs, which will do where raw inputs tell the classes apart",
        ),
        Need(
            what=LAST_LINEAR,
            must=False,
            why="the representation before it, for remedy = distil; no other remedy asks for it",
        ),
    )
    about: ClassVar[About] = About(
        paper="Tsouvalas et al., Labeling Chaos to Learning Harmony: Federated Learning with Noisy Labels,"
        " ACM TIST, 2024, https://arxiv.org/abs/2208.09378",
        exchanges="the params, once per round, as a weighted mean; how many examples a peer has and which"
        " share of its labels it thinks wrong; with estimator = energy, a histogram of 64 counts in the"
        " rounds of a window",
        use="Where many peers label badly and each in its own way. Take remedy = average; correct only for"
        " noise without a system and with 30 or more examples per class and peer.",
        body_bound="One claim can make another peer count as a noisy one does, or as a clean one, and never"
        " more; one histogram counts no more examples than the median one.",
    )

    config: FedLNConfig = field(default_factory=FedLNConfig)

    @property
    def weighs_peers(self) -> bool:
        """Whether the remedy is what each peer counts: nothing is left of it where all count alike."""
        return self.config.remedy == "average"

    def init(self, params: Vector) -> State:
        """See `Method`."""
        shared = {NOISY_FROM: np.array([NOBODY], np.float32)}
        if self.config.estimator == "energy":
            shared[ENERGY] = np.zeros(histogram.BINS, np.float32)
        return State(params, shared)

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`."""
        return Traffic.one_mean(model.numel)

    def check(self, learner: "TorchLearner") -> None:
        """See `Demands`: a representation to distil into, where that is the remedy."""
        from shoal.methods.learning.objective import head_of

        if self.config.remedy == "distil":
            head_of(learner.model)

    def round(self, state: State, learner: "TorchLearner", round_: int) -> Steps[tuple[State, Report]]:
        """Estimate if it is time, train, tell what our labels are worth, then agree."""
        c = self.config
        private = self.estimate(state, learner, round_)
        trained, private = self.local(state, private, learner, round_)
        shared, refused = dict(state.shared), 0
        if c.estimator == "energy" and c.estimate_from <= round_ <= c.estimate_until:
            shared[ENERGY], private, refused = yield from self._count_energies(
                state, private, trained, learner
            )
        noise = float(private[NOISE][0]) if NOISE in private else 0.0
        is_estimated = NOISE in private or (c.estimator == "energy" and round_ <= c.estimate_until)
        mine = Claim(learner.examples, level(noise), is_estimated)
        claims = yield from exchange(msgspec.msgpack.encode(mine), read_claim, tag="claims")
        told = [claim for _, claim in claims.values]
        from_ = noisy_from([claim.noise for claim in told if claim.is_estimated], level(c.excess))
        shared[NOISY_FROM] = np.array([from_], np.float32)
        from_here = from_ if c.remedy == "average" else NOBODY
        weight, discount_ = agreed_weight(mine, told, from_here, c.floor)
        mean = yield from all_reduce(trained.params, weight=weight, discount=discount_)
        is_unclear = from_ == NOBODY and seem_all_wrong(told, level(c.excess))
        metrics = {
            "noise": noise,
            "noisy_peers": float(sum(claim.noise >= from_ for claim in told)),
            "unclear": float(is_unclear),
            "weight": weight * discount_,
            "refused": float(refused + claims.refused),
        }
        report = Report(trained.loss, trained.examples, trained.steps, mean.contributors, metrics)
        if is_unclear:
            private = warned(private)
        return State(mean.vector, shared, private), report

    def estimate(self, state: State, learner: "TorchLearner", round_: int) -> dict[str, Vector]:
        """Return the private state with e_k in it, if it can be known by now."""
        import torch

        from shoal.methods.fedln.knn import neighbour_labels, noise_level
        from shoal.methods.learning.task import batch_of

        c, private = self.config, dict(state.private)
        if NOISE in private:
            return private
        if c.estimator == "neighbours":
            x, y = batch_of(learner.data, torch.arange(learner.examples))
            voted = neighbour_labels(learner.task.embed(x), y, c.neighbours)
            noise = noise_level(y, voted)
            if c.remedy == "correct":
                private[LABELS] = voted.numpy().astype(np.float32)
        elif round_ > c.estimate_until and AFTER in private:
            nu = c.energies.percentile(state.shared[ENERGY].astype(np.int64), c.percentile)
            noise = float(np.mean(private[AFTER] >= nu))
        else:
            return private
        private[NOISE] = np.array([noise], np.float32)
        return private

    def local(
        self, state: State, private: Mapping[str, Vector], learner: "TorchLearner", round_: int
    ) -> tuple[Trained, dict[str, Vector]]:
        """Train with what the remedy says; returns the private state after it, too."""
        from shoal.methods.fedln.local_distillation import LocalDistillation

        c, private = self.config, dict(private)
        is_noisy = NOISE in private and level(float(private[NOISE][0])) >= state.shared[NOISY_FROM][0]
        objective = self._objective(private, learner, is_noisy=is_noisy)
        trained = learner.train(
            state.params,
            steps=c.epochs * ceil(learner.examples / c.batch_size),
            lr=c.lr,
            batch_size=min(c.batch_size, learner.examples),
            optimizer="adam",
            round_=round_,
            objective=objective,
        )
        if isinstance(objective, LocalDistillation):
            private[HEAD] = objective.head_vector
        return trained, private

    def _objective(
        self, private: Mapping[str, Vector], learner: "TorchLearner", *, is_noisy: bool
    ) -> "Objective":
        import torch

        from shoal.methods.fedln.local_distillation import LocalDistillation
        from shoal.methods.learning.objective import Objective

        c = self.config
        if not is_noisy or c.remedy == "average":
            return Objective(learner.task, learner.data)
        data = self.labelled(private, learner)
        if c.remedy == "correct":
            return Objective(learner.task, data)
        with torch.no_grad():
            embeddings = learner.task.embed(data[0])
        return LocalDistillation(
            learner.task,
            data,
            learner.model,
            embeddings=embeddings,
            alpha=c.alpha,
            l2=c.l2,
            seed=learner.seed,
            head=private.get(HEAD),
        )

    def labelled(self, private: Mapping[str, Vector], learner: "TorchLearner") -> "Examples":
        """Return our examples with the labels that a noisy peer trains on."""
        import torch

        from shoal.methods.learning.task import batch_of

        x, y = batch_of(learner.data, torch.arange(learner.examples))
        return x, torch.tensor(private[LABELS]).to(y.dtype) if LABELS in private else y

    def _count_energies(
        self, state: State, private: dict[str, Vector], trained: Trained, learner: "TorchLearner"
    ) -> Steps[tuple[Vector, dict[str, Vector], int]]:
        """Agree on everyone's energies; ours are those of the first round of the window that we are in."""
        if not {BEFORE, AFTER} <= private.keys():
            before = self.config.energies.count(_energies(learner, state.params))
            private = private | {
                BEFORE: np.minimum(before, histogram.MAX_COUNT).astype(np.float32),
                AFTER: _energies(learner, trained.params),
            }
        mine = histogram.pack(private[BEFORE].astype(np.int64))
        bodies = yield from exchange(mine, histogram.unpack, tag="energies")
        merged = pooled([counts for _, counts in bodies.values])
        return merged.astype(np.float32), private, bodies.refused


def pooled(told: Sequence[histogram.Counts]) -> histogram.Counts:
    """Return the histogram of all; nobody counts more examples than the median of those who have any."""
    most = cap([int(counts.sum()) for counts in told], times=1)
    return np.minimum(histogram.merge(list(told), most), histogram.MAX_COUNT)


def seem_all_wrong(claims: Sequence[Claim], excess: int) -> bool:
    """Whether even the best labels seem too wrong for clean ones: of all peers but a fifth."""
    told = sorted(claim.noise for claim in claims if claim.is_estimated)
    return bool(told) and told[(len(told) - 1) // SMALLEST_PART] >= excess


def warned(private: Mapping[str, Vector]) -> dict[str, Vector]:
    """Say once that nobody is outweighed though labels seem wrong; returns the private state after it."""
    if WARNED not in private:
        log.warning(
            "fedln cannot tell noisy peers from clean ones and weighs all alike; of our labels %.0f %% seem"
            " wrong. If they are right, let the task's embed() bring examples of one class together:"
            " docs/methods/fedln.md",
            100 * float(private[NOISE][0]) if NOISE in private else 0.0,
        )
    return {**private, WARNED: np.ones(1, np.float32)}


def _energies(learner: "TorchLearner", params: Vector) -> Vector:
    """Return E(x) of all our examples at these params."""
    import torch

    from shoal.methods.learning.task import batch_of

    x, _ = batch_of(learner.data, torch.arange(learner.examples))
    outputs, _ = learner.predict(params, x)
    energies: Vector = torch.logsumexp(outputs, dim=-1).numpy().astype(np.float32)
    return energies
