"""FedIT: each node tunes low-rank changes of a frozen language model on its own instructions.

Zhang, Vahidian, Kuo, Li, Zhang, Yu, Wang, Chen, "Towards Building the Federated GPT: Federated Instruction
Tuning", ICASSP 2024, https://arxiv.org/abs/2305.05644; its code is Shepherd. With y = W x + (alpha/r) B A x:

    (A_k, B_k) ← H steps of AdamW on the node's own data, from (A, B)

    separate   A ← Σ_k w_k A_k,  B ← Σ_k w_k B_k      the paper's; the mean of products is another
    exact      B A ← the mean of the products, cut to rank r by its singular values
    freeze-a   A drawn once from the run's seed and pinned; B ← Σ_k w_k B_k, which is exact

The paper's server picks a tenth of its clients in each round; here all that are ready take part. W, and A
with freeze-a, are pinned: see methods/learning/parts.py. In ``exact`` the factors are gathered; since two
kinds of CPU may compute unlike last bits, what they come to is averaged once more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Vector
from shoal.gossip.policies.caps import cap, clip_to_median
from shoal.gossip.run_spec import TensorSpec
from shoal.methods.base import (
    About,
    Array,
    Learner,
    ModelSize,
    Report,
    State,
    Steps,
    Traffic,
    Trained,
    all_reduce,
)
from shoal.methods.coding.gathered import exchange, unpack
from shoal.methods.fedavg import FedAvgConfig
from shoal.methods.fedit.products import Factors, mean_product
from shoal.methods.needs import Need
from shoal.methods.params import flatten, views

HEAD_BYTES = 64
"""Of a body, beside its numbers."""
SKETCH = 256
"""Numbers by which ``separate`` measures its gap: lengths come out within a tenth."""


class FedITConfig(FedAvgConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of FedIT."""

    variant: Literal["freeze-a", "exact", "separate"] = "freeze-a"
    """How changes are averaged: B alone under one A; their products, cut to the rank; or A and B apart."""
    rank: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    """Of the changes (r). Of a model that has some already, theirs counts."""
    alpha: Annotated[float, msgspec.Meta(gt=0, le=10_000)] = 16.0
    """Changes are scaled by alpha / rank."""
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.05
    """Share of what goes into a change that is left out in training."""
    targets: Annotated[str, msgspec.Meta(max_length=200)] = ""
    """Which linear layers are changed: the last words of their names, with commas, such as q_proj,v_proj.
    Empty: all but the last."""
    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 20
    """Optimizer steps per round (H)."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.003
    """Learning rate of AdamW; the paper has 0.0003, for a model of 7 billion."""


class Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a peer tells in the variant ``exact``."""

    examples: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
    numbers: bytes
    """Its factors, little-endian float32, in the order of the vector."""


_decode = msgspec.msgpack.Decoder(Body).decode


@dataclass(frozen=True, slots=True)
class FedIT:
    """See `Method`."""

    mergeable: ClassVar[bool] = True
    asks: ClassVar[bool] = True
    # What is trained is chosen before the first step.
    follows_any_loop: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            what="a pre-trained model()",
            must=False,
            why="the same on all nodes, with linear layers: what is frozen never changes, and its hash is in"
            " the run's name",
        ),
    )
    about: ClassVar[About] = About(
        paper="Zhang et al., Towards Building the Federated GPT: Federated Instruction Tuning, ICASSP 2024,"
        " https://arxiv.org/abs/2305.05644",
        exchanges="the low-rank changes, once per round: B alone with freeze-a, A and B with separate; with"
        " exact all gather both, and average what comes of it",
        use="To tune a language model that all nodes have, each on its own instructions. freeze-a sends half"
        " of what separate does, and averages without an error; exact costs more with every peer.",
        body_bound="With exact, one body counts three times the median examples at most, and in each layer"
        " its product counts for no more than the median one; any other tensor changes by the median change"
        " at most.",
    )

    config: FedITConfig = field(default_factory=FedITConfig)

    def prepare(self, model: Any) -> Collection[str] | None:
        """See `Prepares`."""
        # Here, since this module is read where torch is not.
        from shoal.methods.fedit.lora import add_lora, draw_factors, pairs_of

        c = self.config
        pairs = pairs_of(name for name, _ in model.named_parameters())
        if not pairs:
            targets = [word.strip() for word in c.targets.split(",") if word.strip()]
            add_lora(model, c.rank, c.alpha, c.dropout, targets)
            pairs = pairs_of(name for name, _ in model.named_parameters())
        # PEFT may have drawn them before the seed was set.
        draw_factors(model, pairs)
        if c.variant == "freeze-a":
            return [pair.b for pair in pairs]
        return [name for pair in pairs for name in pair]

    def init(self, params: Vector) -> State:
        """See `Method`."""
        return State(params)

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`; ``exact`` gathers the factors and averages what comes of them."""
        numel, variant = model.numel, self.config.variant
        sketch = SKETCH if variant == "separate" else 0
        gathered = 4 * numel + HEAD_BYTES if variant == "exact" else 0
        return Traffic(largest=max(numel, sketch), reduced=numel + sketch, gathered=gathered)

    def _tune(self, state: State, learner: Learner, round_: int) -> Trained:
        """Tune the changes; AdamW begins anew in each round, as in Shepherd."""
        c = self.config
        return learner.train(
            state.params,
            steps=c.steps,
            lr=c.lr,
            batch_size=c.batch_size,
            optimizer="adamw",
            round_=round_,
        )

    def round(self, state: State, learner: Any, round_: int) -> Steps[tuple[State, Report]]:
        """Tune, then agree."""
        trained = self._tune(state, learner, round_)
        specs: Sequence[TensorSpec] = getattr(learner, "manifest", ())
        metrics: Mapping[str, float] = {}
        if self.config.variant == "exact" and _pairs(specs):
            after, contributors, refused = yield from _exact(state, trained.params, learner.examples, specs)
            metrics = {"refused": float(refused)} if refused else {}
        else:
            mean = yield from all_reduce(trained.params, weight=learner.examples)
            after, contributors = State(mean.vector), mean.contributors
            if self.config.variant == "separate" and _pairs(specs):
                metrics = yield from _gap(trained.params, after.params, learner.examples, specs, round_)
        return after, replace(Report.of(trained, contributors), metrics=metrics)


def _pairs(specs: Sequence[TensorSpec]) -> Sequence[tuple[str, str]]:
    """Return the names of the factors that travel together."""
    names = {spec.name for spec in specs}
    found = ((spec.name, spec.name.replace(".lora_A.", ".lora_B.")) for spec in specs)
    return [(a, b) for a, b in found if a != b and b in names]


def _exact(
    state: State, trained: Vector, examples: int, specs: Sequence[TensorSpec]
) -> Steps[tuple[State, tuple[PeerId, ...], int]]:
    """Agree on the mean of everyone's products."""

    def read(body: bytes) -> tuple[int, Vector]:
        told = unpack(body, _decode)
        if len(told.numbers) != trained.nbytes:
            raise RemoteViolation("factors of another size")
        vector = np.frombuffer(told.numbers, "<f4").astype(np.float32)
        if not np.isfinite(vector).all():
            raise RemoteViolation("factors are not finite")
        return told.examples, vector

    body = msgspec.msgpack.encode(Body(examples, trained.astype("<f4").tobytes()))
    told = yield from exchange(body, read, tag="factors", bound=trained.nbytes + HEAD_BYTES)
    counts = [count for _, (count, _) in told.values]
    most = cap(counts)
    weights = [min(count, most) for count in counts] if most else [1] * len(counts)
    total = sum(weights)
    held = [views(vector, specs) for _, (_, vector) in told.values]
    tensors: dict[str, Array] = {}
    for a, b in _pairs(specs):
        factors: list[Factors] = [(each[a], each[b]) for each in held]
        tensors[a], tensors[b] = mean_product(factors, [weight / total for weight in weights])
    before = views(state.params, specs)
    for spec in specs:
        if (name := spec.name) not in tensors:
            moves = clip_to_median([(each[name] - before[name]).ravel() for each in held], 1.0)
            mean_move = np.average(moves, axis=0, weights=weights).astype(np.float32)
            tensors[name] = before[name] + mean_move.reshape(spec.shape)
    mean = yield from all_reduce(flatten(tensors, specs), weight=1.0)
    return State(mean.vector), mean.contributors, told.refused


def _gap(
    trained: Vector, agreed: Vector, examples: int, specs: Sequence[TensorSpec], round_: int
) -> Steps[dict[str, float]]:
    """Return how far the product of the means is from the mean of the products, as a share of that.

    Each layer's products are compared on one random vector, drawn from the round, and of what comes of
    all layers only a sketch travels: a number for each output would cost a tenth of the factors.
    """
    dice = np.random.default_rng(round_)
    held, common = views(trained, specs), views(agreed, specs)
    own, made = [], []
    for a, b in _pairs(specs):
        probe = dice.standard_normal(held[a].shape[1], dtype=np.float32)
        own.append(held[b] @ (held[a] @ probe))
        made.append(common[b] @ (common[a] @ probe))
    ours, theirs = _sketched(np.stack([np.concatenate(own), np.concatenate(made)]), dice)
    mean = yield from all_reduce(ours, weight=examples, tag="products")
    size = float(np.linalg.norm(mean.vector))
    return {"gap": float(np.linalg.norm(mean.vector - theirs)) / size if size else 0.0}


def _sketched(vectors: Array, dice: np.random.Generator) -> Array:
    """Return [n, SKETCH] of about the same lengths as `vectors` [n, d]; these themselves where d is less.

    Signs are drawn, and what lies SKETCH apart is added: linear, so the sketch of a mean is the mean of the
    sketches. Charikar, Chen, Farach-Colton, Finding Frequent Items in Data Streams, ICALP 2002, section 3.
    """
    count, size = vectors.shape
    if size <= SKETCH:
        return vectors
    padded = np.zeros((count, -(-size // SKETCH) * SKETCH), np.float32)
    padded[:, :size] = vectors * dice.choice(np.array([-1, 1], np.float32), size)
    return np.ascontiguousarray(padded.reshape(count, -1, SKETCH).sum(axis=1))
