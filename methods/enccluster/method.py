"""EncCluster: a mean of which every peer sees the sum alone, by encryption or by masks, and no server.

Tsouvalas, Mohammadi, Balador, Ozcelebi, Flammini, Meratnia, "EncCluster: Scalable Functional Encryption in
Federated Learning through Weight Clustering and Probabilistic Filters", 2024, https://arxiv.org/abs/2406.09152.
A round of the paper, with kappa clusters:

    peer n   train; (Z_n, P_n) = k-means of all weights; encrypt Z_n, send it with P_n in a fuse filter
    server   for every weight i: decrypt sum_n |D_n| Z_n[P_n[i]], with a key for these |D_n| alone

Here everyone is the server: all gather what is sealed, and all open the same integers (sums.py). Three modes:

- `masked-grid`, the default: the change of the round, clipped and rounded to a shared grid, under pairwise
  masks. It hides what the sum does not show, at the bytes of quantisation.
- `fe-dense`: every number of the change encrypted, under a label of its own. As much is hidden, by another
  assumption; 32 bytes and half a millisecond a number, so for models of a few thousand numbers.
- `fe-paper`: the paper's. It leaks by design: numbers that one key opens in any combination share a mask, so
  that everyone sees each peer's clusters up to one constant, and with the mapping its whole update up to it.

What is ours, and why:

- The paper's cryptographic back end is not here: its masks are linear in known numbers, and three labels give
  them away. crypto/functional has hashes to a prime-order group, and keys that each peer makes for itself.
- `target = delta`, the default, is the change of the round; `weights` is the paper's, for `fe-paper` alone.
- There are no rounds of plain averaging before: they would show what is to be hidden.
- Weights are whole numbers from 1 to `levels`, by examples, of which no peer counts more than three times the
  median: logarithms and masks stay short.
- Models with buffers (BatchNorm) are refused: the paper sends those in the open.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import msgspec
import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Vector
from shoal.methods.base import About, Learner, ModelSize, Report, State, Steps, Traffic, here
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
    MaskedGrid,
    Mode,
    Opened,
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
TYPICAL_PEERS: Final = 5


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
    """Weights are whole numbers from 1 to this, by examples; 1: all count alike, in the fewest bits."""

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
        exchanges="a one-time key and how many examples; the change of the params, masked or encrypted, to"
        " every other peer. Only the weighted sum opens, but in mode fe-paper, where everyone sees each"
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
        """See `Method`: of five peers."""
        return Traffic(gathered=self._body_bytes(model.numel))

    def _body_bytes(self, numel: int) -> int:
        c = self.config
        match c.mode:
            case "masked-grid":
                most = 2 * c.grid(c.mode).top * TYPICAL_PEERS * c.levels
                return numel * most.bit_length() // 8
            case "fe-dense":
                return POINT_BYTES * numel
        return POINT_BYTES * c.kappa + mapping_bound(numel, c.kappa, c.mapping)

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
        mine, grid = np.subtract(trained.params, base), c.grid(c.mode)
        me = (yield from here()).peer
        make = maker(mine, grid, rounding(me, round_), c)
        context = context_of("enccluster", state.params, round_)
        opened = yield from secure_sums(make, examples=learner.examples, levels=c.levels, context=context)
        params = np.add(base, grid.floats(opened.sums, opened.members.total))
        metrics = measured(opened, grid, mine)
        report = Report(trained.loss, trained.examples, trained.steps, opened.members.peers, metrics)
        return State(params), report


def maker(vector: Vector, grid: Grid, dice: np.random.Generator, c: EncClusterConfig) -> Maker:
    """Return what makes a way for every attempt: rounded once, sealed anew each time."""
    if c.mode == "fe-paper":
        few = cluster(np.clip(vector, -grid.clip, grid.clip), c.kappa)
        values = np.rint(few.codebook.astype(np.float64) / grid.step).astype(np.int64)
        values = np.clip(values, -grid.top, grid.top)
        book = Codebook(tuple(values.tolist()), few.indices.astype(np.int64))
        return lambda: FunctionalPaper(book, grid.top, c.kappa, c.mapping)
    numbers = grid.integers(vector, dice)
    way = MaskedGrid if c.mode == "masked-grid" else FunctionalDense
    return lambda: way(numbers, grid.top)


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


def measured(opened: Opened, grid: Grid, mine: Vector) -> dict[str, float]:
    """Return what a node tells itself of a sum; nothing of it leaves the node."""
    return {
        "attempts": float(opened.attempts),
        "sealed_bytes": float(opened.sealed_bytes),
        "clipped": grid.clipped(mine) / max(1, mine.size),
    }
