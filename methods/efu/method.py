"""EFU: enforced federated unlearning. A node unlearns inside its ordinary updates, and nobody can tell.

Mohammadi, Tsouvalas, Symeonidis, Balador, Ozcelebi, Flammini, Meratnia, "EFU: Enforcing Federated Unlearning
via Functional Encryption", CIKM 2025, https://arxiv.org/abs/2508.07873. A round:

    learner    train as usual
    forgetter  for D rounds of its choice: train on what is to be forgotten, with the loss of unlearning.py
    all        open the weighted sum of everyone's changes (as EncCluster does), and nothing else

Nobody can leave a forgetter out and open the sum all the same: it opens for the agreed list or not at all.
What a node forgets is asked for by `shoal forget`, on its own disk. No message, field or key names it, and a
forgetter sends as many messages of the same lengths, with the same weight, as before.

What is ours, and why:

- The sum is made as in EncCluster's `masked-grid` or `fe-dense`. The paper's clustered mode shows each peer's
  update up to a constant, and so a forgetter's; it is not offered here.
- The bounded loss - log(1 - p) in place of the paper's - CE (`ascent`), so that a forgetter pulls no further
  than it needs to.
- A forgetter takes fewer steps, each with its search for adversarial inputs, so that it computes about as
  long as a learner. `forget_steps` overrides that.
- The regulariser weighs every number; the authors' code has one number for a whole tensor.
- Afterwards the node trains on what is left. Where nothing is left it sends no change, masked as ever, until
  its owner stops it: better at some later round than at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from shoal.gossip.events import Vector
from shoal.gossip.state.tree_hash import state_hash
from shoal.methods.base import About, ModelSize, Report, State, Steps, Traffic, Trained
from shoal.methods.enccluster.method import (
    EncCluster,
    EncClusterConfig,
    SealedConfig,
    context_of,
    hidden_mean,
)
from shoal.methods.learning.forgetting import Note, Request
from shoal.methods.needs import NO_BUFFERS, Need

if TYPE_CHECKING:
    import torch

    from shoal.methods.learning.learner import TorchLearner
    from shoal.methods.learning.task import Examples

Places = npt.NDArray[np.int64]
TRIGGER_WITHIN: Final = 1e-4
"""How near a number must be to the trigger's."""


class EFUConfig(SealedConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of EFU; those of unlearning matter to nodes that forget."""

    mode: Literal["masked-grid", "fe-dense"] = "masked-grid"
    """How the sum is made; see enccluster."""
    forget_lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 3e-3
    """Learning rate of unlearning, by AdamW; the paper: 2e-4 for large networks."""
    strength: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 1.0
    """Of the pull to the model that the round began with (lambda)."""
    radius: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 0.4
    """How far adversarial inputs lie from the forgotten ones, in L2 (epsilon)."""
    attack_steps: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    """Steps that look for an adversarial input; the paper: 100."""
    forget_steps: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    """Steps of a round that unlearns; 0: as many as take about as long as a learner's steps."""
    forget_loss: Literal["bounded", "ascent"] = "bounded"
    """What is minimised on forgotten examples: - log(1 - p), or the paper's - CE."""

    def steps_that_forget(self) -> int:
        """Return how many steps a round of unlearning has."""
        # A step of learning is a pass; one of unlearning has the attack's and two of its own.
        return self.forget_steps or max(2, self.steps // (self.attack_steps + 2))

    @property
    def sums(self) -> EncClusterConfig:
        """What EncCluster calls the same."""
        return EncClusterConfig(clip=self.clip, bits=self.bits, levels=self.levels, mode=self.mode)


@dataclass(frozen=True, slots=True)
class EFU:
    """See `Method`."""

    mergeable: ClassVar[bool] = False
    asks: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (
        NO_BUFFERS,
        Need(what="(x, label) examples", must=False, why="what is forgotten is chosen by label or by input"),
    )
    about: ClassVar[About] = About(
        paper="Mohammadi et al., EFU: Enforcing Federated Unlearning via Functional Encryption, CIKM 2025,"
        " https://arxiv.org/abs/2508.07873",
        exchanges="as enccluster: a one-time key, how many examples, and the change of the params, masked or"
        " encrypted. Whether a node learns or forgets is in none of it",
        use="Where a node may want to take back what it taught, without asking and unseen. It makes the model"
        " perform badly on that data; it does not prove that nothing is left of it. Three peers or more.",
        body_bound="As in enccluster: no number of the model moves by more than `clip` in a round; within"
        " that one peer can move it anywhere. Forgetting is such a move: for closed runs.",
    )

    config: EFUConfig = field(default_factory=EFUConfig)

    def init(self, params: Vector) -> State:
        """See `Method`."""
        return State(params)

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`."""
        return EncCluster(self.config.sums).traffic(model)

    @property
    def masks(self) -> bool:
        """Whether it asks for sums under masks by itself."""
        return EncCluster(self.config.sums).masks

    def check(self, learner: "TorchLearner") -> None:
        """See `Demands`."""
        EncCluster(self.config.sums).check(learner)

    def round(self, state: State, learner: "TorchLearner", round_: int) -> Steps[tuple[State, Report]]:
        """Learn or forget, seal the change, open everyone's sum."""
        c = self.config
        forgetting = learner.forgetting
        request = None if forgetting is None else forgetting.request()
        unlearns = request is not None and forgetting is not None and forgetting.unlearned() < request.rounds
        trained = self.local(state.params, learner, round_, request, unlearns=unlearns)
        mine, context = np.subtract(trained.params, state.params), context_of("efu", state.params, round_)
        mean = yield from hidden_mean(mine, learner.examples, c.sums, round_, context)
        params = np.add(state.params, mean.vector)
        if request is not None and forgetting is not None:
            peers = tuple(str(peer) for peer in mean.peers)
            forgetting.note(note_of(state.params, params, learner, request, round_, peers, unlearns=unlearns))
        report = Report(trained.loss, trained.examples, trained.steps, mean.peers, mean.metrics)
        return State(params), report

    def local(
        self, params: Vector, learner: "TorchLearner", round_: int, request: Request | None, *, unlearns: bool
    ) -> Trained:
        """Train, unlearn, or train on what is left."""
        from shoal.methods.efu.unlearning import Unlearning
        from shoal.methods.learning.objective import Objective

        c = self.config
        if request is None:
            return learner.train(params, steps=c.steps, lr=c.lr, batch_size=c.batch_size, round_=round_)
        forgotten, kept = split(learner, request)
        if unlearns and len(forgotten):
            objective = Unlearning(
                learner.task,
                taken(learner, forgotten),
                strength=c.strength,
                radius=c.radius,
                attack_steps=c.attack_steps,
                ascent=c.forget_loss == "ascent",
            )
            return learner.train(
                params,
                steps=c.steps_that_forget(),
                lr=c.forget_lr,
                batch_size=min(c.batch_size, len(forgotten)),
                optimizer="adamw",
                round_=round_,
                objective=objective,
            )
        if not len(kept):
            return Trained(params, 0.0, 0, 0)
        return learner.train(
            params,
            steps=c.steps,
            lr=c.lr,
            batch_size=min(c.batch_size, len(kept)),
            round_=round_,
            objective=Objective(learner.task, taken(learner, kept)),
        )


def split(learner: "TorchLearner", request: Request) -> tuple[Places, Places]:
    """Return the places of own examples that are to be forgotten, and of the others."""
    x, y = (part.numpy() for part in _all(learner))
    found = np.full(len(y), request.peer_data)
    if request.classes:
        found |= np.isin(y, request.classes)
    flat = x.reshape(len(x), -1)
    if request.places and max(request.places) < flat.shape[1]:
        near = np.abs(flat[:, list(request.places)] - np.array(request.values)) <= TRIGGER_WITHIN
        found |= near.all(axis=1)
    return np.flatnonzero(found), np.flatnonzero(~found)


def taken(learner: "TorchLearner", places: Sequence[int] | Places) -> "Examples":
    """Return own examples at these places."""
    import torch

    from shoal.methods.learning.task import subset

    return subset(learner.data, torch.tensor(places, dtype=torch.int64))


def note_of(
    before: Vector,
    after: Vector,
    learner: "TorchLearner",
    request: Request,
    round_: int,
    peers: tuple[str, ...],
    *,
    unlearns: bool,
) -> Note:
    """Return what a round did to what is to be forgotten, and to the rest."""
    forgotten, kept = (taken(learner, places) for places in split(learner, request))

    def reached(params: Vector, data: "Examples") -> float | None:
        right, total = learner.score(params, data)
        return right / total if total else None

    return Note(
        round=round_,
        forgotten=len(split(learner, request)[0]),
        before=reached(before, forgotten) or 0.0,
        after=reached(after, forgotten) or 0.0,
        kept_before=reached(before, kept),
        kept_after=reached(after, kept),
        state_before=state_hash(before.data).hex(),
        state_after=state_hash(after.data).hex(),
        peers=peers,
        unlearned=unlearns,
    )


def _all(learner: "TorchLearner") -> tuple["torch.Tensor", "torch.Tensor"]:
    import torch

    from shoal.methods.learning.task import batch_of

    x, y = batch_of(learner.data, torch.arange(learner.examples))
    return x, y
