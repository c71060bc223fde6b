"""MaTU: peers with unlike tasks, often several each, send one vector for all of them.

Tsouvalas, Ozcelebi, Meratnia, "Many-Task Federated Fine-Tuning via Unified Task Vectors", IJCAI 2025,
https://arxiv.org/abs/2502.06376. Unifying is EMR-Merging's, see methods/matu/task_vectors.py.

    θ_0                     the pre-trained model, frozen; a task's model is θ_0 + τ_t
    peer n, tasks T_n:      fine-tune each t from θ_0 + th_t, subtract θ_0, unify, send τ, m_t, λ_t, |D_t|
    all, for each task t:   agree = |mean over holders of sign(m τ)|;  mh = 1 where agree ≥ ρ, else agree
                            th_t  = mh ⊙ Σ_n γ_n λ_n m_n τ_n,   γ by examples
    optionally:             S(t,q) = (1 + mean of sign·sign) / 2;   th_t += mh ⊙ mean of S(t,q) th_q over the
                            κ tasks most like t, of those with S ≥ ε

Without a server: every peer gathers all messages and computes the vectors of all tasks, which are the
shared state (task_table.py). So all hold the same state though no two need hold the same task, and
a newcomer with a new task has all it needs after one download. A round's vectors are a function of that
round's messages alone: the method is stateless, but for tasks that nobody spoke for, whose vectors stay.

What differs from the paper, and why:

- A peer starts from th_t itself. The paper's server sends every client the unified vector of its tasks,
  which loses what they disagree on a second time; here th_t is at hand. `start = "unified"` is the paper's.
- Tasks are not mixed unless asked for (`neighbours` is 0): it can undo the method, and on six digit tasks
  it does (docs/methods/matu.md). Where it is asked for, peers try it on their own examples, and it is left
  out of a round in which most of them find it to do harm.
- Similarity is of sign planes, not of reconstructed vectors, whose zeros would make any two tasks of one
  peer alike; and it is measured once, when a task is new: mixed vectors would soon be alike by the mixing.
- Holders of a task try each other's vectors on their own examples: does the task do better without this
  one, or this one far worse alone than the others? Whom more than half of the others find harmful is left
  out of the task for the round. This is what there is against a peer that trains on something else than its
  task id says. It takes three holders; two can only contradict each other (`holders` is reported).
- A message is also refused if λ is above 8, and vectors and counts of examples are cut at three times the
  median of the task's holders. A neighbour that is mixed into a task is no longer than three times the
  task's own vector: one holder alone makes a vector of any length.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import msgspec
import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Vector
from shoal.methods.base import About, ModelSize, Report, State, Steps, Traffic, Trained
from shoal.methods.coding.gathered import exchange
from shoal.methods.errors import BadOption
from shoal.methods.learning.task_identity import ID_BYTES
from shoal.methods.matu.ballots import Cells, accused, is_mixing_harmful, read_ballot, write_ballot
from shoal.methods.matu.message import Coding, Form, read, tau_bytes, write
from shoal.methods.matu.reduction import Holder, by_task, mixed, with_similarities
from shoal.methods.matu.task_table import TaskTable
from shoal.methods.matu.task_vectors import Combined, Contribution, combine, reconstruct, unify
from shoal.methods.needs import Need

if TYPE_CHECKING:
    from shoal.methods.learning.learner import TorchLearner
    from shoal.methods.matu.part_work import Part


UNLIKE: Final = 0.15
"""A median holder so much worse alone than all together means holders of unlike labels. To such, who is
merely other and who lies look alike, so they accuse nobody: accusing cost 11 points at Dirichlet 0.1."""


class MaTUConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of MaTU."""

    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 20
    """Optimizer steps for each task of a peer in a round. The paper: one epoch."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.1
    """Learning rate of local work."""
    optimizer: Literal["task", "sgd", "adam", "adamw"] = "task"
    """Of local work; it starts anew each round, as the method keeps nothing."""
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 32
    """Examples per step; a task with fewer takes all it has."""
    coding: Coding = "float16"
    """How the unified vector travels; the paper's figures are of float32."""
    start: Literal["exact", "unified"] = "exact"
    """What a peer fine-tunes from: its tasks' vectors, or these unified and reconstructed as in the paper."""
    rho: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.4
    """Share of holders that must agree on a sign for a number to count in full; the paper's 0.4."""
    neighbours: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    """Similar tasks mixed into each (κ). The paper: a few; mixing can undo the method, see above."""
    least_similarity: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.6
    """Of a neighbour (ε). The paper: 0.5, which tasks without relation reach."""
    try_mixing: bool = True
    """Leave mixing out of a round in which most peers find that it does harm. The paper: always mix."""
    slots: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    """Tasks of the whole run; further ones are not carried."""
    tasks_per_peer: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8
    """Tasks in one message; one with more is refused."""
    keep: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 100
    """Rounds for which a task without a holder keeps its slot and its vector."""
    tolerance: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.02
    """How much better a task must do without a holder's vector for that to be harmful: two points."""
    doubt: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.25
    """How much worse than the median holder's a vector may do alone; 1 doubts nobody. A guess between what
    honest holders of very unlike labels show (0.2) and what one of other labels does (0.3 to 0.4)."""


@dataclass(frozen=True, slots=True)
class MaTU:
    """See `Method`."""

    # Whole task vectors travel, not changes of agreed ones.
    mergeable: ClassVar[bool] = True
    asks: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            what="parts()",
            must=False,
            why="the node's tasks by name, all on one model; with a single task fedavg sends less",
        ),
        Need(
            what="identity()",
            must=False,
            why="of each part: what makes it the same task on two nodes; its class's name unless overridden",
        ),
        Need(
            what="outputs()",
            must=False,
            why="of each part: a frozen head of its own on the common model, where classes differ",
        ),
    )
    about: ClassVar[About] = About(
        paper="Tsouvalas, Ozcelebi, Meratnia, Many-Task Federated Fine-Tuning via Unified Task Vectors,"
        " IJCAI 2025, https://arxiv.org/abs/2502.06376",
        exchanges="one vector for all tasks of a node, and for each task a bit per number, a scale and how"
        " many examples. It shows the sign of what each task changes",
        use="Where nodes have unlike tasks on one pre-trained model, several each. With one task for all,"
        " fedavg is simpler; where tasks contradict each other, training alone may do better.",
        body_bound="In a task of three or more holders three times the median length and examples at most,"
        " and one vote on each sign. A task that it holds alone or with one other it decides. It can fill"
        " free slots with such tasks.",
    )

    config: MaTUConfig = field(default_factory=MaTUConfig)

    def init(self, params: Vector) -> State:
        """See `Method`; the params are θ_0 and stay."""
        return State(params, TaskTable.empty(self.config.slots, params.size).shared())

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`: one vector, and for each task a mask with its scale and identity."""
        masks = model.parts * (-(-model.numel // 8) + 80)
        return Traffic(gathered=tau_bytes(model.numel, self.config.coding) + masks)

    def check(self, learner: "TorchLearner") -> None:
        """See `Demands`: no more tasks than a message may have."""
        from shoal.methods.matu.part_work import parts_of

        most, count = self.config.tasks_per_peer, len(parts_of(learner))
        if count > most:
            raise BadOption(f"this node has {count} tasks: raise tasks_per_peer = {most}")

    def round(self, state: State, learner: "TorchLearner", round_: int) -> Steps[tuple[State, Report]]:
        """Fine-tune each task, tell all, and reduce what all told."""
        from shoal.methods.matu.part_work import parts_of

        c = self.config
        parts, table = parts_of(learner), TaskTable.of(state.shared)
        trained = list(self._local(state.params, table, parts, round_))
        form = Form(digest(state.params), state.params.size, c.coding, c.tasks_per_peer)
        unified = unify([np.subtract(each.params, state.params) for each in trained])
        body = write(unified, [part.identity for part in parts], [part.examples for part in parts], form)
        bodies = yield from exchange(body, lambda data: read(data, form), tag="tasks", bound=form.bound)
        holders = by_task(bodies.values)
        left_out, harms = yield from self._vote(state.params, table, parts, holders)
        told = {
            id_: combine([h.contribution for h in each if (id_, h.peer) not in left_out], c.rho)
            for id_, each in holders.items()
            if any((id_, h.peer) not in left_out for h in each)
        }
        after = self._after(table, holders, told, is_mixed=not harms)
        metrics = measured(state.params, after, parts, holders)
        metrics |= {"refused": float(bodies.refused), "left_out": float(len(left_out))}
        metrics["bytes_per_number"] = len(body) / (len(parts) * state.params.size)
        return State(state.params, after.shared()), report(trained, bodies.peers, metrics)

    def _local(
        self, base: Vector, table: TaskTable, parts: "Sequence[Part]", round_: int
    ) -> Iterator[Trained]:
        """Fine-tune each of our tasks from where all left it."""
        c = self.config
        starts = [table.vector(part.identity.id) for part in parts]
        if c.start == "unified":
            unified = unify(starts)
            starts = [
                reconstruct(unified.tau, mask, scale)
                for mask, scale in zip(unified.masks, unified.scales, strict=True)
            ]
        for part, start in zip(parts, starts, strict=True):
            yield part.train(
                np.add(base, start),
                steps=c.steps,
                lr=c.lr,
                batch_size=c.batch_size,
                optimizer=c.optimizer,
                round_=round_,
            )

    def _vote(
        self, base: Vector, table: TaskTable, parts: "Sequence[Part]", holders: Mapping[bytes, list[Holder]]
    ) -> Steps[tuple[set[tuple[bytes, PeerId]], bool]]:
        """Agree on whose vectors do a task harm, and on whether mixing does."""
        cells = Cells.of({id_: [h.peer for h in each] for id_, each in holders.items()})
        if not cells.cells and not (self.config.neighbours and self.config.try_mixing):
            return set(), False
        harmful = set()
        for part in parts:
            if part.identity.id in cells.holders:
                harmful |= self._harmful(base, part, holders[part.identity.id])
        ballot = write_ballot(cells, harmful, mixing_harms=self._mixing_harms(base, table, parts, holders))
        ballots = yield from exchange(ballot, lambda data: read_ballot(data, cells), tag="ballots")
        return accused(cells, ballots.values), is_mixing_harmful(ballots.values)

    def _harmful(self, base: Vector, part: "Part", holders: Sequence[Holder]) -> set[tuple[bytes, PeerId]]:
        """Return the holders whose vectors do a task of ours harm, judged by our own examples."""

        def reached(contributions: list[Contribution]) -> float:
            return part.accuracy(np.add(base, combine(contributions, self.config.rho).vector))

        with_all = reached([holder.contribution for holder in holders])
        alone = [reached([holder.contribution]) for holder in holders]
        typical = sorted(alone)[len(alone) // 2]
        if typical < with_all - UNLIKE:
            return set()
        return {
            (part.identity.id, one.peer)
            for one, own in zip(holders, alone, strict=True)
            if own < typical - self.config.doubt
            or reached([h.contribution for h in holders if h is not one]) > with_all + self.config.tolerance
        }

    def _mixing_harms(
        self, base: Vector, table: TaskTable, parts: "Sequence[Part]", holders: Mapping[bytes, list[Holder]]
    ) -> bool:
        """Say whether our tasks do worse on our own examples with their neighbours mixed in."""
        if not (self.config.neighbours and self.config.try_mixing):
            return False
        told = {
            id_: combine([h.contribution for h in each], self.config.rho) for id_, each in holders.items()
        }
        plain, other = (self._after(table, holders, told, is_mixed=is_mixed) for is_mixed in (False, True))
        return (
            sum(
                part.accuracy(np.add(base, other.vector(part.identity.id)))
                - part.accuracy(np.add(base, plain.vector(part.identity.id)))
                for part in parts
            )
            < 0
        )

    def _after(
        self,
        table: TaskTable,
        holders: Mapping[bytes, list[Holder]],
        told: Mapping[bytes, Combined],
        *,
        is_mixed: bool,
    ) -> TaskTable:
        """Return the table after a round in which these vectors were told."""
        c = self.config
        wider = table.admitting(told)
        by_slot = {slot: each for id_, each in told.items() if (slot := wider.slot(id_)) is not None}
        similarities = with_similarities(wider, table, holders)
        vectors = {slot: each.vector for slot, each in by_slot.items()}
        if is_mixed and c.neighbours:
            vectors = mixed(by_slot, similarities, neighbours=c.neighbours, least=c.least_similarity)
        return wider.after(vectors, similarities, c.keep)


def digest(params: Vector) -> bytes:
    """Return the hash of the model that all task vectors are added to."""
    return blake2b(params.tobytes(), digest_size=ID_BYTES, person=b"shoal/base").digest()


def measured(
    base: Vector, table: TaskTable, parts: "Sequence[Part]", holders: Mapping[bytes, list[Holder]]
) -> dict[str, float]:
    """Return the accuracy on each of our tasks, their mean, how many peers hold the rarest, and what is left.

    `uncarried`: our tasks that found no slot.
    """
    metrics = {
        "holders": float(min((len(holders.get(p.identity.id, ())) for p in parts), default=0)),
        "uncarried": float(sum(p.identity.id not in table.known for p in parts)),
    }
    found = {p.identity.name: p.test_accuracy(np.add(base, table.vector(p.identity.id))) for p in parts}
    reached = {name: value for name, value in found.items() if value is not None}
    if reached:
        metrics["accuracy"] = sum(reached.values()) / len(reached)
        metrics |= {f"accuracy {name}": value for name, value in reached.items()}
    return metrics


def report(trained: Sequence[Trained], peers: tuple[PeerId, ...], metrics: dict[str, float]) -> Report:
    """Sum up the local work on all tasks."""
    steps = sum(each.steps for each in trained)
    loss = sum(each.loss * each.steps for each in trained) / max(1, steps)
    return Report(loss, sum(each.examples for each in trained), steps, peers, metrics)
