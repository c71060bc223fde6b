"""FedCompress: what travels, and what is kept, has a few shared values per tensor; how many, finds itself.

Tsouvalas, Saeed, Ozcelebi, Meratnia, "Communication-Efficient Federated Learning through Adaptive Weight
Clustering and Server-Side Distillation", ICASSP 2024, https://arxiv.org/abs/2401.14211. A round, with kappa
clusters:

    peer k   E1 epochs of plain training, E2 epochs of cluster-aware training (clustering.py)
             w_k in kappa values per tensor: codebook and indices (methods/coding/codebook.py)
             on a tenth of its data, kept out: accuracy, and the Gram matrix of the embeddings
    all      w = sum (n_k / n) w_k             no longer clustered
             E = effective rank of everyone's embeddings;  kappa may grow by one   (cluster_count.py)
             w clustered again, by k-means or by a student that one peer distils   (student.py)

Without a server: every peer gathers all bodies and reduces them itself, in fixed point, so that all get the
same bits; 1-D k-means is exact, so "everyone clusters the mean alone" is agreement. Embeddings stay home:
their singular values follow from the sum of everyone's Gram matrices. A body goes to every other peer, so a
node sends (group - 1) bodies, where an all-reduce would send about two vectors.

What is ours, and why:

- `target = delta`, the default, clusters the change of the round: w_k = w + C(w_k - w). It is far more
  accurate at the same bytes. The model is then clustered where it is saved (`codebook.encode_vector`), not
  in every round. `target = weights` is the paper's.
- `after = recluster`, the default, clusters the mean without distillation; `distil` elects a student.
- All tensors are clustered, not only kernels of convolutions, so that it serves other networks too.
- In delta mode the E2 epochs are plain: a delta has clusters only once it is made.
- No update counts more than three times the median norm, its change of the buffers neither, and no peer more
  than three times the median data. Running variances stay positive.
- A Gram matrix travels in 16 bits: directions below a two-thousandth of the whole count for nothing.
- Kappa is fixed unless `kappa_max` is given: at 8, or at 6 for a model below 10,000 numbers. Then nothing is
  kept out of training and no Gram matrix is sent. With the paper's rule (`kappa_max=30`) the small
  perceptron sends three times as much, and nothing that we tried learns more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import msgspec
import numpy as np

from shoal.gossip.averaging.origin import Origin, variances_of
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Vector
from shoal.gossip.policies.caps import cap, clip_to_median
from shoal.gossip.run_spec import TensorSpec
from shoal.methods.base import About, ModelSize, Report, State, Steps, Traffic, Trained
from shoal.methods.coding import codebook
from shoal.methods.coding.fixed_point import weighted_mean
from shoal.methods.coding.gathered import Bodies, exchange, unpack
from shoal.methods.coding.kmeans1d import cluster
from shoal.methods.errors import Diverged
from shoal.methods.fedcompress import effective_rank
from shoal.methods.fedcompress.cluster_count import Progress, advance
from shoal.methods.fedcompress.student import DistilConfig, Scene, elect, elected_student
from shoal.methods.needs import LAST_LINEAR, Need
from shoal.methods.params import views

if TYPE_CHECKING:
    import torch

    from shoal.methods.learning.learner import TorchLearner
    from shoal.methods.learning.task import Examples

PROGRESS: Final = "progress"
"""Shared: kappa and what its rule remembers."""
HELD_OUT_SEED: Final = 12
HEAD_BYTES: Final = 64
"""Of an update beside its model and its Gram matrix, at most."""
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]


class FedCompressConfig(DistilConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of FedCompress; defaults are the authors' code's unless said otherwise."""

    target: Literal["weights", "delta"] = "delta"
    """What is clustered: the paper's weights, or their change in the round, which loses less."""
    after: Literal["recluster", "distil"] = "recluster"
    """How the mean of clustered weights is clustered: by k-means, or by a student one peer distils."""
    epochs: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5
    """Passes of plain training per round (E1)."""
    cluster_epochs: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5
    """Passes of cluster-aware training per round (E2)."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1e-3
    """Learning rate of Adam in plain training."""
    cluster_lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 5e-4
    """Learning rate of Adam in cluster-aware training."""
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 128
    """Examples per step."""
    validation: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.1
    """Share of the examples kept out of training, for accuracy and embeddings."""
    clip: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 3.0
    """Longest update, in median norms of the round; ours, so that a liar cannot outshout the rest."""

    def __post_init__(self) -> None:
        """Refuse combinations that make no sense.

        Raises:
            ValueError: the range of kappa is empty, there is no training, or nothing to distil for.
        """
        if 1 in (self.kappa_min, self.kappa_max):
            raise ValueError("kappa_min or kappa_max is 1; choose 0 for the default, or from 2 to 256")
        if 0 < self.kappa_max < self.kappa_min:
            raise ValueError("kappa_min is above kappa_max; choose it at most as large")
        if self.epochs + self.cluster_epochs == 0:
            raise ValueError("epochs and cluster_epochs are both 0; give one of them a value")
        if self.after == "distil" and self.target == "delta":
            raise ValueError("after = distil clusters weights; choose target = weights with it")

    @property
    def validates(self) -> bool:
        """Whether examples are kept out of training."""
        return self.is_adaptive or self.after == "distil"


class Update(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a peer tells of a round."""

    examples: Count
    right: Count
    """Of its validation examples, how many its clustered model gets right."""
    total: Count
    gram: bytes
    """Gram matrix of its normalised embeddings there; empty if kappa is fixed."""
    model: bytes
    """Its weights, or their change, clustered."""
    buffers: bytes = b""
    """Its model's buffers as they are, float32: a variance clustered as a change could be negative."""


_UPDATE: Final = msgspec.msgpack.Decoder(Update)


@dataclass(frozen=True, slots=True)
class Contribution:
    """A peer's update, checked."""

    update: Update
    gram: effective_rank.Integers
    vector: Vector
    buffers: Vector


def recluster(vector: Vector, specs: Sequence[TensorSpec], kappa: int) -> Vector:
    """Return a model's vector with at most `kappa` values per tensor; the same bits everywhere."""
    parts = [cluster(view.reshape(-1), kappa).values for view in views(vector, specs).values()]
    return np.concatenate(parts)


def split_buffers(learner: "TorchLearner") -> tuple[int, tuple[TensorSpec, ...]]:
    """Return how many numbers of a model are parameters, and the manifest of these alone."""
    stepped, specs, count = learner.numel - learner.buffers, learner.manifest, 0
    for place, spec in enumerate(specs):
        if count == stepped:
            return stepped, specs[:place]
        count += spec.numel
    return stepped, specs


@dataclass(frozen=True, slots=True)
class FedCompress:
    """See `Method`."""

    # A delta is one from the common params, and kappa and its memory are common too.
    mergeable: ClassVar[bool] = False
    asks: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            what=LAST_LINEAR,
            must=False,
            why="the representation before it, where kappa adapts; a fixed kappa does not ask for it",
        ),
        Need(
            what="10 labelled examples",
            must=False,
            why="a tenth is kept out of training, to see whether kappa should grow",
        ),
    )
    about: ClassVar[About] = About(
        paper="Tsouvalas et al., Communication-Efficient Federated Learning through Adaptive Weight"
        " Clustering and Server-Side Distillation, ICASSP 2024, https://arxiv.org/abs/2401.14211",
        exchanges="the change of the params (or the params) in a few values per tensor, gathered: a copy for"
        " every other peer; how many validation examples are right; the Gram matrix of their embeddings",
        use="Slow links and small groups: a node sends group - 1 bodies of a tenth of the model or less. In"
        " groups beyond some 16 an all-reduce with a codec sends less.",
        body_bound="One update counts three times the median examples at most, and its change of params and"
        " of buffers `clip` times the median change. It moves kappa by one at most, and a student needs the"
        " votes of two thirds of the others.",
    )

    config: FedCompressConfig = field(default_factory=FedCompressConfig)

    def init(self, params: Vector) -> State:
        """See `Method`."""
        return State(params, {PROGRESS: Progress(self.config.first(params.size)).write(self.config.window)})

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`: indices and codebooks at the first kappa, and the Gram matrix if kappa may grow."""
        kappa = self.config.first(model.numel)
        indices = model.numel * (kappa - 1).bit_length() // 8
        gram = model.embedding * (model.embedding + 1) if self.config.is_adaptive else 0
        return Traffic(gathered=indices + 4 * kappa * model.tensors + gram)

    def check(self, learner: "TorchLearner") -> None:
        """See `Demands`: embeddings to judge progress by, where kappa may grow."""
        from shoal.methods.learning.objective import head_of

        if self.config.is_adaptive:
            head_of(learner.model)

    def round(self, state: State, learner: "TorchLearner", round_: int) -> Steps[tuple[State, Report]]:
        """Train, tell it clustered, average what all told, and cluster that."""
        c, progress = self.config, Progress.read(state.shared[PROGRESS], self.config.window)
        training, held_out = self.split(learner)
        trained = self.local(state.params, learner, training, progress.kappa, round_)
        mine = self._update(state.params, trained.params, learner, held_out, progress.kappa)
        told = yield from self._exchange(mine, learner, progress.kappa)
        contributions = [contribution for _, contribution in told.values]
        teacher = self.reduce(state.params, contributions, variances_of(learner.manifest))
        if c.is_adaptive:
            progress = self._advance(progress, contributions)
        params, student = teacher, None
        if c.target == "weights":
            stepped, specs = split_buffers(learner)
            params = np.concatenate([recluster(teacher[:stepped], specs, progress.kappa), teacher[stepped:]])
        if c.after == "distil":
            elected = elect(round_, told.peers)
            scene = Scene(teacher, learner.manifest, progress.kappa, round_, held_out)
            student = yield from elected_student(scene, learner, c, elected, is_me=elected == told.me)
            params = params if student is None else student
        metrics = {
            "kappa": float(progress.kappa),
            "model_bytes": float(len(mine.model)),
            "refused": float(told.refused),
            "distilled": float(student is not None),
        }
        report = Report(trained.loss, trained.examples, trained.steps, told.peers, metrics)
        return State(params, {PROGRESS: progress.write(c.window)}), report

    def split(self, learner: "TorchLearner") -> "tuple[Examples, Examples]":
        """Return what is trained on and what is kept out for validation."""
        import torch

        from shoal.methods.learning.task import subset

        order = np.random.default_rng(HELD_OUT_SEED).permutation(learner.examples)
        held = 0
        if self.config.validates and learner.examples > 1:
            held = max(1, int(self.config.validation * learner.examples))
        training, held_out = np.sort(order[held:]), np.sort(order[:held])
        return tuple(subset(learner.data, torch.from_numpy(places)) for places in (training, held_out))

    def local(
        self, params: Vector, learner: "TorchLearner", training: "Examples", kappa: int, round_: int
    ) -> Trained:
        """Train E1 epochs plainly, then E2 epochs aware of the clusters."""
        from shoal.methods.fedcompress.clustering import ClusterAware
        from shoal.methods.learning.objective import Objective
        from shoal.methods.learning.task import count

        c, trained = self.config, Trained(params, 0.0, 0, 0)
        batch_size = min(c.batch_size, count(training))
        for epochs, lr, is_aware in ((c.epochs, c.lr, False), (c.cluster_epochs, c.cluster_lr, True)):
            if epochs == 0:
                continue
            aware = ClusterAware(learner.task, training, kappa)
            is_clustered = is_aware and c.target == "weights"
            part = learner.train(
                trained.params,
                steps=epochs * ceil(count(training) / batch_size),
                lr=lr,
                batch_size=batch_size,
                optimizer="adam",
                round_=round_,
                objective=aware if is_clustered else Objective(learner.task, training),
            )
            steps = trained.steps + part.steps
            loss = (trained.loss * trained.steps + part.loss * part.steps) / steps
            params = aware.clustered(learner.model) if is_clustered else part.params
            trained = Trained(params, loss, trained.examples + part.examples, steps)
        return trained

    def reduce(
        self,
        params: Vector,
        contributions: Sequence[Contribution],
        variances: tuple[tuple[int, int], ...] = (),
    ) -> Vector:
        """Return the weighted mean of what all told, in fixed point, as params.

        Buffers are told as they are; here their changes count, as long as `clip` median ones at most. Running
        `variances`, told by their places, stay positive.

        Raises:
            Diverged: not even our own update could be read.
        """
        if not contributions:
            raise Diverged("no update of this round could be read, not even our own; lower lr")
        vectors = [contribution.vector for contribution in contributions]
        stepped, before = params[: vectors[0].size], params[vectors[0].size :]
        if self.config.target == "weights":
            vectors = [np.subtract(vector, stepped) for vector in vectors]
        buffers = [np.subtract(contribution.buffers, before) for contribution in contributions]
        examples = [contribution.update.examples for contribution in contributions]
        most = cap(examples)
        weights = [min(count, most) for count in examples]
        moved = [
            weighted_mean(clip_to_median(each, self.config.clip), weights) for each in (vectors, buffers)
        ]
        reduced = np.add(params, np.concatenate(moved))
        Origin("params", state=params, variances=variances).keep_positive(reduced, 0)
        return reduced

    def _update(
        self, before: Vector, trained: Vector, learner: "TorchLearner", held_out: "Examples", kappa: int
    ) -> Update:
        """Cluster our work, and measure the model that others will see."""
        from shoal.methods.learning.task import batch_of, count

        c, (stepped, specs) = self.config, split_buffers(learner)
        is_delta, buffers = c.target == "delta", trained[stepped:]
        before, trained = before[:stepped], trained[:stepped]
        model = codebook.encode_vector(np.subtract(trained, before) if is_delta else trained, specs, kappa)
        right, total, gram = 0, 0, b""
        if c.is_adaptive:
            told = codebook.decode(model, specs)
            seen = np.concatenate([np.add(before, told) if is_delta else told, buffers])
            right, total = learner.score(seen, held_out)
            x, _ = batch_of(held_out, _all(count(held_out)))
            gram = effective_rank.pack(effective_rank.gram(learner.predict(seen, x)[1].numpy()))
        return Update(learner.examples, right, total, gram, model, buffers.astype("<f4").tobytes())

    def _exchange(self, mine: Update, learner: "TorchLearner", kappa: int) -> Steps[Bodies[Contribution]]:
        """Gather everyone's updates, checked."""
        from shoal.methods.learning.objective import head_of

        _, specs = split_buffers(learner)
        width = head_of(learner.model).in_features if self.config.is_adaptive else 0

        def read(body: bytes) -> Contribution:
            update = unpack(body, _UPDATE.decode)
            if update.right > update.total:
                raise RemoteViolation("more is right than there is")
            vector = codebook.decode(update.model, specs, kappa=kappa)
            buffers = codebook.read_floats(update.buffers, learner.buffers)
            return Contribution(update, effective_rank.unpack(update.gram, width), vector, buffers)

        bound = HEAD_BYTES + 4 * learner.buffers + width * (width + 1) + codebook.max_bytes(specs, kappa)
        return (yield from exchange(msgspec.msgpack.encode(mine), read, tag="update", bound=bound))

    def _advance(self, progress: Progress, contributions: Sequence[Contribution]) -> Progress:
        """Move kappa by what all told of their validation."""
        most = cap([contribution.update.total for contribution in contributions])
        told = [contribution for contribution in contributions if contribution.update.total]
        counts = [min(contribution.update.total, most) for contribution in told]
        if not counts:
            return progress
        right = sum(
            contribution.update.right * count // contribution.update.total
            for contribution, count in zip(told, counts, strict=True)
        )
        merged = effective_rank.merged([contribution.gram for contribution in told], counts)
        rank = effective_rank.effective_rank(merged, effective_rank.WIRE_NOISE)
        return advance(progress, Fraction(right, sum(counts)), rank, self.config)


def _all(count: int) -> "torch.Tensor":
    import torch

    return torch.arange(count)
