"""FedSTAR: peers with few labels learn from their unlabelled examples too, by trusting what they believe.

Tsouvalas, Saeed, Ozcelebi, "Federated Self-Training for Semi-Supervised Audio Recognition", ACM TECS 21(6),
2022, https://arxiv.org/abs/2107.06877. Peer k has labelled examples L_k and unlabelled U_k. In round r of R
a pseudo-label counts when the model is confident by at least

    τ(r) = τ_max - (τ_max - τ_min)/2 · (1 + cos(π r/R))

and local work is, for every unlabelled half batch x_u and the next labelled half batch (x_l, y_l), in turn,

    p = softmax(z_u / T), no gradient;   ŷ = argmax p;   keep = [max p ≥ τ]
    L = (1 - β) · mean CE(z_l, y_l) + β · sum(keep · CE(z_u, ŷ)) / |x_u| + l2 · |kernels|²

so an epoch has ⌈|U_k| / (B/2)⌉ steps however few labels there are. Then FedAvg, weighted by |L_k| + |U_k|.

What is ours, and why:

- T = 1, as in the authors' training call. With the T = 4 of the paper's text no prediction on our tasks ever
  passed τ, and the method was supervised training to the last bit.
- The gate. A model whose pseudo-labels are wrong when they begin confirms its errors and gets worse. Until
  round R/3 peers train on labels alone and keep a fifth of them out of it. Of these the agreed model makes
  pseudo-labels as of any other example; all add how many pass τ, and how many of these are right. As soon as
  half of them pass, pseudo-labels begin if their skill, (right - chance) / (1 - chance), is at least
  `gate_skill`, with what few held-out labels may hide taken off. If so many do not pass until round 2R/3,
  they never begin. Three integers per peer, the same decision everywhere. What counts is how good pseudo-
  labels are, not how good the model is where it is unsure, so that the gate opens on hard data too.
  ``gate=false`` is the paper's method.
- The alarm. Where the agreed model falls by more than 15 points on a peer's own labels, as after a poisoned
  round, that peer stops using pseudo-labels until it has risen again. It belongs to the gate.
- A peer counts at most three times the median peer, as far as it says how much data it has: a wire that
  carries weights beside vectors lets a liar say something else there.
- The first weight is β's complement, as in the authors' code; the paper's text has Ls + β Lu.

Peers with labels alone take plain supervised steps; peers without any learn from pseudo-labels alone, and
count nothing in rounds in which there are none.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, cos, pi, sqrt
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec
import numpy as np

from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Vector
from shoal.gossip.policies.caps import cap
from shoal.methods.base import About, ModelSize, Report, State, Steps, Traffic, Trained, all_reduce
from shoal.methods.coding.gathered import exchange, unpack
from shoal.methods.needs import Need

if TYPE_CHECKING:
    from shoal.methods.learning.learner import TorchLearner
    from shoal.methods.learning.task import Examples

GATE: Final = "gate"
"""Shared, float32 [1]: `UNDECIDED`, `OPEN` or `SHUT`."""
UNDECIDED: Final = 0.0
OPEN: Final = 1.0
SHUT: Final = 2.0
BEST: Final = "best"
"""Private, float32 [1]: the agreed model's best accuracy so far on this peer's labels."""
HELD_OUT_SEED: Final = 11
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class FedSTARConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of FedSTAR; defaults are the authors' code's unless said otherwise."""

    rounds: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 100
    """Rounds over which the threshold rises (R); give the run as many."""
    epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    """Passes over the unlabelled examples per round."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1e-3
    """Learning rate of Adam."""
    batch_size: Annotated[int, msgspec.Meta(ge=2, le=1_000_000)] = 64
    """Examples per step, half of them labelled (B)."""
    beta: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    """Weight of the pseudo-labels' loss; 0 is supervised training in as many steps."""
    temperature: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0
    """Divides the logits before confidence is judged (T); with the paper's 4, small models are never sure."""
    tau_min: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    """Confidence that a pseudo-label needs in the first round."""
    tau_max: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.9
    """Confidence that it needs in the last."""
    l2: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1e-4
    """Weight decay of kernels, as a term of the loss."""
    gate: bool = True
    """Whether pseudo-labels wait until the model has proved itself; ours, false is the paper's method."""
    gate_at: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1 / 3
    """Share of the rounds from which on the gate may decide; from twice that on it stays shut; ours."""
    gate_skill: Annotated[float, msgspec.Meta(ge=-1, le=1)] = 0.6
    """Skill of pseudo-labels on held-out examples that opens the gate: 0 is chance, 1 all right; ours."""
    held_out: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2
    """Share of the labels kept out of training until the gate decides, at least one; ours."""
    alarm: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.15
    """Fall in accuracy on its labels at which a peer stops using pseudo-labels; ours, part of the gate."""

    def __post_init__(self) -> None:
        """Refuse a threshold that falls.

        Raises:
            ValueError: it does.
        """
        if self.tau_min > self.tau_max:
            raise ValueError("tau_min is above tau_max; choose it at most as large")


class Claim(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a peer says of itself in every round."""

    examples: Count
    gate: Annotated[int, msgspec.Meta(ge=0, le=2)]
    """As it stands in its shared state."""


class Judged(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a peer says of pseudo-labels on its held-out examples."""

    right: Count
    sure: Count
    """How many pass the threshold; of these some are right."""
    held_out: Count


_CLAIM: Final = msgspec.msgpack.Decoder(Claim)
_JUDGED: Final = msgspec.msgpack.Decoder(Judged)


def threshold(round_: int, rounds: int, low: float, high: float) -> float:
    """Return τ(r): `low` in round 0, `high` from round `rounds` on."""
    return high - (high - low) / 2 * (1 + cos(pi * min(round_, rounds) / rounds))


def read_claim(body: bytes) -> Claim:
    """Return a peer's claim.

    Raises:
        RemoteViolation: no correct peer says this.
    """
    return unpack(body, _CLAIM.decode)


def read_judged(body: bytes) -> Judged:
    """Return what a peer says of pseudo-labels.

    Raises:
        RemoteViolation: no correct peer says this.
    """
    judged = unpack(body, _JUDGED.decode)
    if not judged.right <= judged.sure <= judged.held_out:
        raise RemoteViolation("more than all is right or sure")
    return judged


def pooled(told: Sequence[Judged]) -> Judged:
    """Return the sums; no peer counts more than the median one.

    They are few, and three times the median of a liar could outvote a handful of honest peers.
    """
    most = cap([judged.held_out for judged in told], times=1)
    shares = [
        (judged, Fraction(min(judged.held_out, most), judged.held_out)) for judged in told if judged.held_out
    ]
    return Judged(
        int(sum(judged.right * share for judged, share in shares)),
        int(sum(judged.sure * share for judged, share in shares)),
        int(sum(judged.held_out * share for judged, share in shares)),
    )


def skill(right: int, total: int, classes: int) -> float:
    """Return how far above chance pseudo-labels are surely right: 0 is guessing, 1 always right.

    Taken off is one standard deviation of what so few tell (Wilson, "Probable Inference, the Law of
    Succession, and Statistical Inference", JASA 22, 1927).
    """
    if not total:
        return -1.0
    share = right / total
    least = (share + 1 / (2 * total) - sqrt(share * (1 - share) / total + 1 / (4 * total**2))) / (
        1 + 1 / total
    )
    chance = 1 / max(2, classes)
    return (least - chance) / (1 - chance)


def agreed_weight(examples: int, claimed: Sequence[int]) -> float:
    """Return what our examples count beside those that all peers claim; 1 where nobody has any."""
    return float(min(examples, cap(claimed))) if any(claimed) else 1.0


def agreed_gate(claims: Sequence[Claim], mine: Vector) -> Vector:
    """Return the gate of most peers; groups that decided apart thus come together when they mix."""
    counts = Counter(claim.gate for claim in claims)
    if not counts:
        return mine
    return np.array([min(counts, key=lambda gate: (-counts[gate], gate))], np.float32)


@dataclass(frozen=True, slots=True)
class Work:
    """A round's local work."""

    trained: Trained
    examples: int
    """What it counts in the mean, before the cap."""
    pseudo_labels: float
    """Which share of them was confident enough."""


@dataclass(frozen=True, slots=True)
class FedSTAR:
    """See `Method`."""

    mergeable: ClassVar[bool] = True
    asks: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            what="unlabelled_data()",
            must=False,
            why="inputs without labels, of the classes that train_data() has; without it FedSTAR is"
            " supervised training",
        ),
        Need(
            what="10 labelled examples",
            must=False,
            why="some are held out by each peer to judge the gate; a node may have none where others do",
        ),
    )
    about: ClassVar[About] = About(
        paper="Tsouvalas, Saeed, Ozcelebi, Federated Self-Training for Semi-Supervised Audio Recognition,"
        " ACM TECS 21(6), 2022, https://arxiv.org/abs/2107.06877",
        exchanges="the params, once per round, as a mean weighted by examples; how many examples a peer has;"
        " once, how many of its held-out labels the common model gets right",
        use="Few labels per peer (some percent) and many unlabelled examples of the same classes. The gain"
        " vanishes at half of the labels. Not where unlabelled examples may be of other classes.",
        body_bound="One vote on the gate, and of the held-out examples by which n peers decide it at most"
        " 2 / (n + 1).",
    )

    config: FedSTARConfig = field(default_factory=FedSTARConfig)

    def init(self, params: Vector) -> State:
        """See `Method`."""
        gate = UNDECIDED if self.config.gate else OPEN
        return State(params, {GATE: np.array([gate], np.float32)}, {BEST: np.zeros(1, np.float32)})

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`."""
        return Traffic.one_mean(model.numel)

    def round(self, state: State, learner: "TorchLearner", round_: int) -> Steps[tuple[State, Report]]:
        """Decide on pseudo-labels if it is time, train, then agree."""
        gate, refused = state.shared[GATE], 0
        if gate[0] == UNDECIDED and self._is_time(round_):
            gate, refused = yield from self._decide(state, learner, round_)
        best, trusted = self._check(state, learner, gate)
        work = self.local(state.params, learner, round_, trusted=trusted, decided=gate[0] != UNDECIDED)
        mine = msgspec.msgpack.encode(Claim(work.examples, int(gate[0])))
        claims = yield from exchange(mine, read_claim, tag="examples")
        told = [claim for _, claim in claims.values]
        weight = agreed_weight(work.examples, [claim.examples for claim in told])
        mean = yield from all_reduce(work.trained.params, weight=weight)
        trained = work.trained
        metrics = {
            "pseudo_labels": work.pseudo_labels,
            "gate": float(gate[0]),
            "alarm": float(gate[0] == OPEN and self.config.beta > 0 and not trusted),
            "refused": float(refused + claims.refused),
        }
        report = Report(trained.loss, trained.examples, trained.steps, mean.contributors, metrics)
        return State(mean.vector, {GATE: agreed_gate(told, gate)}, {BEST: best}), report

    def local(
        self, params: Vector, learner: "TorchLearner", round_: int, *, trusted: bool, decided: bool
    ) -> Work:
        """Run the local epochs; with pseudo-labels if they are `trusted`, on all labels once `decided`."""
        import torch

        from shoal.methods.fedstar.semi_supervised import SemiSupervised
        from shoal.methods.learning.task import count

        c = self.config
        training, _ = self.split(learner, decided=decided)
        unlabelled = learner.task.unlabelled_data()
        trusted = trusted and unlabelled is not None
        if count(training) == 0 and not trusted:
            return Work(Trained(params, 0.0, 0, 0), 0, 0.0)
        objective = SemiSupervised(
            learner.task,
            training,
            torch.empty(0) if unlabelled is None else unlabelled,
            beta=c.beta if trusted else 0.0,
            threshold=threshold(round_, c.rounds, c.tau_min, c.tau_max),
            temperature=c.temperature,
            l2=c.l2,
            seed=round_,
        )
        # Labelled examples alone come in whole batches.
        batch_size = 2 * c.batch_size if unlabelled is None else c.batch_size
        passed = count(training) if unlabelled is None else len(unlabelled)
        trained = learner.train(
            params,
            steps=c.epochs * ceil(passed / (batch_size // 2)),
            lr=c.lr,
            batch_size=batch_size,
            optimizer="adam",
            round_=round_,
            objective=objective,
        )
        examples = learner.examples + (0 if unlabelled is None else len(unlabelled))
        return Work(trained, examples, objective.kept / max(1, objective.seen))

    def split(self, learner: "TorchLearner", *, decided: bool) -> "tuple[Examples, Examples]":
        """Return which labelled examples are trained on, and which are held out until the gate decides."""
        import torch

        from shoal.methods.learning.task import count, subset

        order = np.random.default_rng(HELD_OUT_SEED).permutation(count(learner.data))
        held = 0 if decided or len(order) < 2 else max(1, int(self.config.held_out * len(order)))
        training, held_out = np.sort(order[held:]), np.sort(order[:held])
        return tuple(subset(learner.data, torch.from_numpy(places)) for places in (training, held_out))

    def _is_time(self, round_: int, times: int = 1) -> bool:
        return round_ >= times * self.config.gate_at * self.config.rounds

    def _decide(self, state: State, learner: "TorchLearner", round_: int) -> Steps[tuple[Vector, int]]:
        """Add up how good pseudo-labels are on held-out examples; open or shut the gate, or wait."""
        judged, classes = self.judge(state.params, learner, round_)
        bodies = yield from exchange(msgspec.msgpack.encode(judged), read_judged, tag="gate")
        found = pooled([judged for _, judged in bodies.values])
        gate = UNDECIDED
        if 0 < found.held_out <= 2 * found.sure:
            is_skilled = skill(found.right, found.sure, classes) >= self.config.gate_skill
            gate = OPEN if is_skilled else SHUT
        elif self._is_time(round_, times=2):
            gate = SHUT
        return np.array([gate], np.float32), bodies.refused

    def judge(self, params: Vector, learner: "TorchLearner", round_: int) -> tuple[Judged, int]:
        """Return how good pseudo-labels are on our held-out examples, and how many classes there are."""
        import torch

        from shoal.methods.fedstar.semi_supervised import pseudo_labels
        from shoal.methods.learning.task import batch_of, count

        c = self.config
        _, held_out = self.split(learner, decided=False)
        if not count(held_out):
            # The width of the output is the same on all nodes.
            unlabelled = learner.task.unlabelled_data()
            x = (
                batch_of(learner.data, torch.zeros(1, dtype=torch.int64))[0]
                if unlabelled is None
                else unlabelled[:1]
            )
            return Judged(0, 0, 0), learner.predict(params, x)[0].shape[-1]
        x, y = batch_of(held_out, torch.arange(count(held_out)))
        logits, _ = learner.predict(params, x)
        tau = threshold(round_, c.rounds, c.tau_min, c.tau_max)
        labels, keep = pseudo_labels(logits, tau, c.temperature)
        return Judged(int((keep & (labels == y)).sum()), int(keep.sum()), len(y)), logits.shape[-1]

    def _check(self, state: State, learner: "TorchLearner", gate: Vector) -> tuple[Vector, bool]:
        """Return the best accuracy so far on our labels, and whether pseudo-labels may be used now."""
        best = state.private.get(BEST, np.zeros(1, np.float32))
        if gate[0] != OPEN or self.config.beta == 0:
            return best, False
        right, total = learner.score(state.params, learner.data)
        if not (self.config.gate and total):
            return best, True
        accuracy = np.float32(right / total)
        return np.maximum(best, accuracy), bool(accuracy >= best[0] - self.config.alarm)
