"""EncCluster: a mean of which every peer sees the sum alone, by encryption or by masks, and no server.

Tsouvalas, Mohammadi, Balador, Ozcelebi, Flammini, Meratnia, "EncCluster: Scalable Functional Encryption in
Federated Learning through Weight Clustering and Probabilistic Filters", 2024, https://arxiv.org/abs/2406.09152.
A round of the paper, with kappa clusters:

    peer n   train; (Z_n, P_n) = k-means of all weights; encrypt Z_n, send it with P_n in a fuse filter
    server   for every weight i: decrypt sum_n |D_n| Z_n[P_n[i]], with a key for these |D_n| alone

Here everyone is the server, and all open the same sum. Three modes:

- `masked-grid`, the default: the change of the round, clipped and rounded to a shared grid, in a sum under
  masks as a secure run makes it (gossip/averaging/secure). It hides what the sum does not show, at the bytes
  of quantisation, and up to a third may vanish. The other two gather what is sealed (sums.py).
- `fe-dense`: every number of the change encrypted, under a label of its own. As much is hidden, by another
  assumption; 32 bytes and half a millisecond a number, so for models of a few thousand numbers.
- `fe-paper`: the paper's. It leaks by design: numbers that one key opens in any combination share a mask, so
  that everyone sees each peer's clusters up to one constant, and with the mapping its whole update up to it.

What is ours, and why:

- The paper's cryptographic back end is not here: its masks are linear in known numbers, and three labels give
  them away. crypto/functional has hashes to a prime-order group, and keys that each peer makes for itself.
- `target = delta`, the default, is the change of the round; `weights` is the paper's, for `fe-paper` alone.
- There are no rounds of plain averaging before: they would show what is to be hidden.
- Weights are whole numbers up to `levels`, by examples, of which no peer counts more than three times the
  median, under masks twice, as in every mean: logarithms and fields stay short.
- Models with buffers (BatchNorm) are refused: the paper sends those in the open.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import msgspec
import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Vector
from shoal.gossip.policies.masking import Masking
from shoal.methods.base import About, Learner, ModelSize, Report, State, Steps, Traffic, all_reduce, here
from shoal.methods.coding.kmeans1d import cluster
from shoal.methods.enccluster.grid import Grid
from shoal.methods.enccluster.mapping import Form, mapping_bound
from shoal.methods.enccluster.sums import (
    MAX_LEVELS,
    POINT_BYTES,
    Codebook,
    FunctionalDense,
    FunctionalPaper,
    Maker,
    Mode,
    secure_sums,
)
from shoal.methods.errors import BadTask
from shoal.methods.needs import NO_BUFFERS, Need

if TYPE_CHECKING:
    from shoal.methods.learning.learner import TorchLearner

MOST_DENSE: Final = 20_000
"""Numbers that are encrypted one by one; more would take minutes a round."""
MASKED_BITS: Final = 6
FUNCTIONAL_BITS: Final = 12


class SealedConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of local work and of the sum."""

    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 50
    """Optimizer steps per round."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.2
    """Learning rate of local work."""
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 32
    """Examples per step; a node with fewer takes all it has."""
    clip: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 0.5
    """No number counts for more than this, and no mean is beyond it; larger ones are cut."""
    bits: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    """Of the grid. 0: 6 for masked-grid, whose bytes they are, and 12 for encrypted numbers."""
    levels: Annotated[int, msgspec.Meta(ge=1, le=MAX_LEVELS)] = 4
    """Weights are whole numbers up to this, by examples; 1: all count alike, in the fewest bits."""

    def grid(self, mode: Mode) -> Grid:
        """Return the grid of a mode."""
        return Grid(self.clip, self.bits or (MASKED_BITS if mode == "masked-grid" else FUNCTIONAL_BITS))


class EncClusterConfig(SealedConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of EncCluster."""

    mode: Mode = "masked-grid"
    """How the sum is made; fe-paper leaks every peer's update up to a constant."""
    kappa: Annotated[int, msgspec.Meta(ge=2, le=256)] = 16
    """Clusters of fe-paper; the paper: 128, and 16 in its small example."""
    mapping: Form = "packed"
    """How fe-paper tells which weight is in which cluster; the paper: a fuse filter, which is longer."""
    target: Literal["delta", "weights"] = "delta"
    """What is summed: the change of the round, or the paper's weights (fe-paper; choose clip with it)."""

    def __post_init__(self) -> None:
        """Refuse combinations that make no sense.

        Raises:
            ValueError: weights are to be summed in another mode than the paper's, or on one bit.
        """
        if self.target == "weights" and self.mode != "fe-paper":
            raise ValueError("target = weights is the paper's; choose mode = fe-paper with it")
        if self.bits == 1:
            raise ValueError("a grid of 1 bit has one point; choose bits = 2 or more, or 0")


@dataclass(frozen=True, slots=True)
class EncCluster:
    """See `Method`."""

    mergeable: ClassVar[bool] = False
    asks: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (NO_BUFFERS,)
    about: ClassVar[About] = About(
        paper="Tsouvalas, Mohammadi et al., EncCluster: Scalable Functional Encryption in Federated Learning"
        " through Weight Clustering and Probabilistic Filters, 2024, https://arxiv.org/abs/2406.09152",
        exchanges="one-time keys and how many examples; the change of the params, masked or encrypted."
        " Only the weighted sum opens, but in mode fe-paper, where everyone sees each"
        " change up to a constant",
        use="Where no peer may see another's update, and three peers or more are there. With fewer than three"
        " it refuses. Where updates may be seen, fedavg sends less and bears liars.",
        body_bound="No number of the model moves by more than `clip` in a round. Within that one peer can"
        " move it anywhere, since nobody sees what it sent, and it can keep rounds from opening: for closed"
        " runs.",
    )

    config: EncClusterConfig = field(default_factory=EncClusterConfig)

    def init(self, params: Vector) -> State:
        """See `Method`."""
        return State(params)

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`."""
        c, numel = self.config, model.numel
        if c.mode == "masked-grid":
            return Traffic.one_mean(numel)
        if c.mode == "fe-dense":
            return Traffic(gathered=POINT_BYTES * numel)
        return Traffic(gathered=POINT_BYTES * c.kappa + mapping_bound(numel, c.kappa, c.mapping))

    @property
    def masks(self) -> bool:
        """Whether it asks for sums under masks by itself."""
        return self.config.mode == "masked-grid"

    def check(self, learner: "TorchLearner") -> None:
        """See `Demands`: parameters alone, and not too many to encrypt one by one."""
        refuse_buffers(learner)
        if self.config.mode == "fe-dense" and learner.numel > MOST_DENSE:
            raise BadTask(
                f"mode fe-dense encrypts every number, and this model has {learner.numel:,} of at most"
                f" {MOST_DENSE:,}; choose mode = masked-grid"
            )

    def round(self, state: State, learner: Learner, round_: int) -> Steps[tuple[State, Report]]:
        """Train, seal what was learned, open everyone's sum."""
        c = self.config
        trained = learner.train(state.params, steps=c.steps, lr=c.lr, batch_size=c.batch_size, round_=round_)
        base = state.params if c.target == "delta" else np.zeros_like(state.params)
        mine, context = np.subtract(trained.params, base), context_of("enccluster", state.params, round_)
        mean = yield from hidden_mean(mine, learner.examples, c, round_, context)
        report = Report(trained.loss, trained.examples, trained.steps, mean.peers, mean.metrics)
        return State(np.add(base, mean.vector)), report


@dataclass(frozen=True, slots=True)
class HiddenMean:
    """A mean of vectors that nobody saw."""

    vector: Vector
    peers: tuple[PeerId, ...]
    metrics: dict[str, float]
    """What a node tells itself of it; nothing of that leaves the node."""


def hidden_mean(
    vector: Vector, examples: int, c: EncClusterConfig, round_: int, context: bytes
) -> Steps[HiddenMean]:
    """Return the mean of everyone's vectors, by examples, in the mode of a config.

    `vector`: float32 [n], the method's own, which may be overwritten. `context`: see `context_of`.

    Raises:
        GossipError: no group formed, too few were left, or the sum does not open.
    """
    grid = c.grid(c.mode)
    metrics = {"clipped": grid.clipped(vector) / max(1, vector.size)}
    if c.mode == "masked-grid":
        masking = Masking(clip=c.clip, bits=grid.bits, levels=c.levels)
        mean = yield from all_reduce(vector, weight=examples, tag="delta", masking=masking)
        return HiddenMean(mean.vector, mean.contributors, metrics)
    me = (yield from here()).peer
    make = maker(vector, grid, rounding(me, round_), c)
    opened = yield from secure_sums(make, examples=examples, levels=c.levels, context=context)
    metrics |= {"attempts": float(opened.attempts), "sealed_bytes": float(opened.sealed_bytes)}
    return HiddenMean(grid.floats(opened.sums, opened.members.total), opened.members.peers, metrics)


def maker(vector: Vector, grid: Grid, dice: np.random.Generator, c: EncClusterConfig) -> Maker:
    """Return what makes a way for every attempt: rounded once, sealed anew each time."""
    if c.mode == "fe-paper":
        few = cluster(np.clip(vector, -grid.clip, grid.clip), c.kappa)
        values = np.rint(few.codebook.astype(np.float64) / grid.step).astype(np.int64)
        values = np.clip(values, -grid.top, grid.top)
        book = Codebook(tuple(values.tolist()), few.indices.astype(np.int64))
        return lambda: FunctionalPaper(book, grid.top, c.kappa, c.mapping)
    numbers = grid.integers(vector, dice)
    return lambda: FunctionalDense(numbers, grid.top)


def rounding(me: PeerId, round_: int) -> np.random.Generator:
    """Return the dice of stochastic rounding: a peer's own, and the same when a round is run again."""
    seed = blake2b(f"{me} {round_}".encode(), digest_size=8, person=b"shoal/rounding").digest()
    return np.random.default_rng(int.from_bytes(seed, "little"))


def context_of(name: str, params: Vector, round_: int) -> bytes:
    """Return bytes that only peers in the same round and state of a method hold."""
    state = blake2b(params.tobytes(), digest_size=32).digest()
    return name.encode() + b"\x00" + round_.to_bytes(8, "little") + state


def refuse_buffers(learner: "TorchLearner") -> None:
    """Refuse a model that has more than parameters.

    Raises:
        BadTask: it has buffers.
    """
    if learner.buffers:
        raise BadTask(
            f"the model has {learner.buffers} numbers of running statistics (BatchNorm), which a secure sum"
            " of changes does not carry; use GroupNorm or LayerNorm"
        )
