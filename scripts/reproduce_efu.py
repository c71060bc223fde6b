"""EFU beside leaving and beside training anew: how fast a class is forgotten, and what else is lost.

Five peers; the last one alone has the classes that it is to forget, the others share the rest. Sixty rounds
with all, then four in which it unlearns, or is gone, then six without it. Digits, classes 8 and 9, with a
perceptron of 4,810 numbers; wine, class 2, with one of 547. SGD. "Anew" is all 70 rounds without the peer.

    forgotten    accuracy on test examples of these classes: before, after 1, 2 and 4 rounds, at the end
    kept         accuracy on those of the other classes: before, after 4 rounds, at the end
    accuracy     kept at the end, by which systems are compared

Values are chosen by kept less forgotten after four rounds, on validation data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import torch
from torch import nn

from scripts.reproduction import Case, Study, System
from shoal.methods.base import Me, Method, State
from shoal.methods.efu.method import EFU, EFUConfig
from shoal.methods.learning.forgetting import Note, Request
from shoal.methods.learning.in_lockstep import LockstepRun as Run
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Task
from shoal.methods.lockstep import names, run_round
from shoal.methods.tasks.digits import load_sets
from shoal.methods.tasks.partition import parse_share
from shoal.methods.tasks.shares import Sets, SharedData, all_of
from shoal.methods.tasks.tables import load_table

PEERS: Final = 5
FORGOTTEN: Final = {"digits": (8, 9), "tables": (2,)}
WARM: Final = 60
UNLEARN: Final = 4
AFTER: Final = 6
ROUNDS: Final = WARM + UNLEARN + AFTER
RATES: Final = (0.05, 0.1)
FORGET_RATES: Final = (3e-3, 3e-2, 1e-1)
"""Each with each of the rates, the same for both data sets: the default, ten times it, and more."""
How = Literal["efu", "leaves", "anew"]


class ClassExclusive(SharedData):
    """A data set of which the last peer alone has some classes."""

    def __init__(
        self, share: str = "1/5", data: str = "digits", seed: int = 0, validation: float = 0.0
    ) -> None:
        """`data`: digits or tables, which is the wine."""
        mine, peers = parse_share(share)
        sets = sets_of(data, validation)
        labels = sets.train[1]
        is_last = np.isin(labels, FORGOTTEN[data])
        rest = np.random.default_rng(seed).permutation(np.flatnonzero(~is_last))
        part = np.flatnonzero(is_last) if mine == peers - 1 else np.array_split(rest, peers - 1)[mine]
        super().__init__(sets, all_of(labels, np.sort(part)))
        self.forgotten = FORGOTTEN[data]
        self._inputs, self._classes = sets.train[0].shape[1], int(labels.max()) + 1

    def model(self) -> nn.Module:
        """See `Task`."""
        hidden = 64 if self._inputs == 64 else 32
        return nn.Sequential(nn.Linear(self._inputs, hidden), nn.ReLU(), nn.Linear(hidden, self._classes))


def sets_of(data: str, validation: float) -> Sets:
    """Return a data set's parts."""
    return load_sets(validation) if data == "digits" else load_table("wine")


@dataclass(frozen=True, slots=True)
class Stage:
    """Accuracies at one time."""

    forgotten: float
    kept: float


@dataclass
class Switch:
    """A request in memory."""

    asked: Request | None
    notes: dict[int, Note] = field(default_factory=dict)

    def request(self) -> Request | None:
        """See `Forgetting`."""
        return self.asked

    def unlearned(self) -> int:
        """See `Forgetting`."""
        return sum(note.unlearned for note in self.notes.values())

    def note(self, note: Note) -> None:
        """See `Forgetting`."""
        self.notes[note.round] = note


@dataclass(frozen=True, slots=True)
class Swarm:
    """A method, and what the last peer does."""

    method: EFU
    how: How


def run_swarm(swarm: Swarm, learners: Sequence[TorchLearner], warm: int = WARM) -> list[Stage]:
    """Return the stages before, after each round of unlearning, and at the end."""
    method, all_ids = swarm.method, names(len(learners))
    state = method.init(learners[0].initial)
    stages: list[Stage] = []
    for round_ in range(warm + UNLEARN + AFTER):
        if round_ == warm and swarm.how == "efu":
            classes = learners[-1].task.forgotten  # type: ignore[attr-defined]
            learners[-1].forgetting = Switch(Request(classes=classes, rounds=UNLEARN))
        is_here = swarm.how != "anew" and (round_ < warm or (swarm.how == "efu" and round_ < warm + UNLEARN))
        count = len(learners) - (not is_here)
        if warm <= round_ <= warm + UNLEARN:
            stages.append(stage_of(state, learners[0]))
        ended = run_round(
            {
                peer: method.round(state, learner, round_)
                for peer, learner in zip(all_ids[:count], learners[:count], strict=True)
            },
            here={peer: Me(peer, round_) for peer in all_ids[:count]},
        )
        state = ended.results[all_ids[0]][0]
    return [*stages, stage_of(state, learners[0])]


def stage_of(state: State, learner: TorchLearner) -> Stage:
    """Return the accuracies of a state on the task's test examples."""
    data = learner.task.test_data()
    assert data is not None
    x, y = data
    assert isinstance(learner.task, ClassExclusive)
    is_forgotten = torch.isin(y, torch.tensor(learner.task.forgotten))
    found = [learner.score(state.params, (x[part], y[part])) for part in (is_forgotten, ~is_forgotten)]
    return Stage(*(right / total for right, total in found))


@dataclass(frozen=True, slots=True)
class Staged(Run):
    """A run with its stages."""

    stages: list[Stage]

    @property
    def accuracy(self) -> float:
        """What values are chosen by."""
        return self.stages[UNLEARN].kept - self.stages[UNLEARN].forgotten


@dataclass(frozen=True, slots=True)
class Forgetters(System):
    """Systems that differ in what the last peer does."""

    how: How = "efu"

    def runs(self, method: Method, tasks: Sequence[Task], rounds: int, seed: int) -> list[Run]:
        """See `System`."""
        assert isinstance(method, EFU)
        learners = [TorchLearner(task, seed=seed, method=method) for task in tasks]
        warm = max(1, rounds - UNLEARN - AFTER)
        stages = run_swarm(Swarm(method, self.how), learners, warm)
        return [Staged([], [], 0.0, 0.0, learners, stages)]


def case(data: str) -> Case:
    """Return a data set in five shares."""

    def tasks(seed: int, validation: float) -> list[Task]:
        shares = [f"{i + 1}/{PEERS}" for i in range(PEERS)]
        return [ClassExclusive(share, data, seed, validation) for share in shares]

    return Case(data, tasks, ROUNDS)


def systems(case: Case) -> dict[str, System]:
    """Return the systems for a data set."""
    steps = 27 if case.data == "digits" else 6

    def candidates(**options: object) -> tuple[Method, ...]:
        return tuple(
            EFU(EFUConfig(steps=steps, lr=lr, clip=0.1, forget_lr=forget_lr, **options))  # type: ignore[arg-type]
            for lr in RATES
            for forget_lr in FORGET_RATES
        )

    return {
        "EFU": Forgetters(candidates()),
        "EFU, unbounded loss (paper)": Forgetters(candidates(forget_loss="ascent")),
        "the peer leaves": Forgetters(candidates(), how="leaves"),
        "trained anew without it": Forgetters(candidates(), how="anew"),
    }


def measure(method: Method, runs: Sequence[Run]) -> dict[str, float]:
    """Return what a run is judged by."""
    done = runs[0]
    assert isinstance(done, Staged)
    stages = done.stages
    return {
        "accuracy": stages[-1].kept,
        "forgotten before": stages[0].forgotten,
        "after 1": stages[1].forgotten,
        "after 2": stages[2].forgotten,
        "after 4": stages[4].forgotten,
        "at the end": stages[-1].forgotten,
        "kept before": stages[0].kept,
        "kept after 4": stages[4].kept,
    }


STUDIES: Final = {
    "efu": Study(
        [case("digits"), case("tables")],
        systems,
        [("EFU", "the peer leaves"), ("EFU", "trained anew without it")],
        measure,
    )
}
