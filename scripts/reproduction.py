"""What the reproduce_*.py scripts share: whole runs in one process, and how values are chosen before figures.

A run has all its peers in lockstep: every ask is answered at once, with exact means. What a body or a
vector costs is counted in the bytes that an ask would give the network, before any framing; figures from
the socket come from `shoal testnet up`.

A study compares systems in some cases. Every system has as many candidates as any other: methods that differ
in their hyperparameters. The one that is best on the validation data, in a run of its own with another seed,
is measured on the test data, trained on all the rest. No test example has a say in what is chosen.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Final, Literal, TypeAlias

import msgspec

from shoal.methods.base import Method
from shoal.methods.errors import Diverged
from shoal.methods.learning.in_lockstep import LockstepRun as Run
from shoal.methods.learning.in_lockstep import lockstep as run
from shoal.methods.learning.task import Task
from shoal.methods.tasks.regrouped import OnePart, Pooled, on_validation

CHOICE_SEED: Final = 100
"""Of the shares and the model with which values are chosen; no table reports it."""
PUT_ASIDE: Final = 0.2
"""Share of the training examples that is validation data meanwhile, where a task has no others."""
TINY_ROUNDS: Final = 2

Among: TypeAlias = Literal["nodes", "each", "each part", "one", "holders"]
Metrics: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Case:
    """A data set, how it is shared out, and for how many rounds it is trained on."""

    name: str
    tasks: Callable[[int, float], list[Task]]
    """(seed, share of the training examples to put aside as validation data) -> the nodes' tasks."""
    rounds: int

    @property
    def data(self) -> str:
        """The data set, which is the first word of the name."""
        return self.name.replace(",", " ").split()[0]


@dataclass(frozen=True, slots=True)
class System:
    """What is compared: candidates of which one is chosen, and who trains together.

    ``nodes``: all of them; ``each``: every node alone; ``each part``: every node alone, for each of its
    tasks; ``one``: all data in one place; ``holders``: for each task of a node, those who have it.
    """

    candidates: tuple[Method, ...]
    among: Among = "nodes"

    def runs(self, method: Method, tasks: Sequence[Task], rounds: int, seed: int) -> list[Run]:
        """Run one of the candidates."""
        return [run(method, group, rounds, seed) for group in _groups(tasks, self.among)]


def _accuracy(method: Method, runs: Sequence[Run]) -> Metrics:
    return {"accuracy": fmean(done.accuracy for done in runs)}


@dataclass(frozen=True, slots=True)
class Study:
    """Systems in some cases."""

    cases: Sequence[Case]
    systems: Callable[[Case], Mapping[str, System]]
    beside: Sequence[tuple[str, str]]
    """Pairs of systems whose difference is told: ours, and what it is to be better than."""
    measure: Callable[[Method, Sequence[Run]], Metrics] = _accuracy

    @property
    def tiny(self) -> "Study":
        """A case of each data set, and two rounds, to see that it runs.

        The first system of each kind has two candidates, since choosing is seen to then. The others have one.
        """

        def systems(case: Case) -> dict[str, System]:
            found: dict[str, System] = {}
            kinds = set[tuple[type[System], Among]]()
            for name, each in self.systems(case).items():
                kind = (type(each), each.among)
                found[name] = replace(each, candidates=each.candidates[: 1 if kind in kinds else 2])
                kinds.add(kind)
            return found

        first = {case.data: case for case in reversed(self.cases)}
        cases = [replace(case, rounds=TINY_ROUNDS) for case in self.cases if first[case.data] is case]
        return replace(self, cases=cases, systems=systems)


@dataclass(slots=True)
class Outcome:
    """A system in a case: what was chosen, and what it reached on the test data."""

    chosen: str
    """The hyperparameters in which its candidates differ."""
    validation: float
    """Accuracy by which it was chosen; 0 where there was nothing to choose."""
    metrics: list[Metrics] = field(default_factory=list)
    """One per seed."""


Outcomes: TypeAlias = dict[tuple[str, str], Outcome]
"""(case, system) -> its outcome."""


def outcomes(study: Study, seeds: Sequence[int]) -> Iterator[tuple[str, str, Outcome]]:
    """Choose on validation data, then measure on test data; yield case, system and outcome one by one."""
    for case in study.cases:
        for name, system in study.systems(case).items():
            method, reached = choose(system, case)
            outcome = Outcome(differing(method, system.candidates), reached)
            for seed in seeds:
                done = system.runs(method, case.tasks(seed, 0.0), case.rounds, seed)
                outcome.metrics.append(study.measure(method, done))
            yield case.name, name, outcome


def choose(system: System, case: Case) -> tuple[Method, float]:
    """Return the candidate that is best on validation data, the first of equals, and its accuracy there."""
    if len(system.candidates) == 1:
        return system.candidates[0], 0.0
    reached = [validated(method, system, case) for method in system.candidates]
    best = max(reached)
    return system.candidates[reached.index(best)], best


def validated(method: Method, system: System, case: Case) -> float:
    """Return what a candidate reaches on the validation data; nothing where its training diverges."""
    tasks = [on_validation(task) for task in case.tasks(CHOICE_SEED, PUT_ASIDE)]
    try:
        return fmean(done.accuracy for done in system.runs(method, tasks, case.rounds, CHOICE_SEED))
    except Diverged:
        return 0.0


def differing(method: Method, candidates: Sequence[Method]) -> str:
    """Return the options of a method in which the candidates differ: ``lr 0.1, mu 0.01``."""
    options = [msgspec.to_builtins(each.config) for each in candidates]
    mine = msgspec.to_builtins(method.config)
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in mine.items()
        if len({repr(each.get(name)) for each in options}) > 1
    )


def difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Say by how many points we differ, seed by seed; none where that lies within the spread of the seeds."""
    points = [100 * (one - other) for one, other in zip(ours, theirs, strict=True)]
    mean = fmean(points)
    if len(points) < 2:
        return f"{mean:+.1f}, one seed"
    spread = 100 * max(stdev(ours), stdev(theirs))
    shown = f"{mean:+.1f} ± {spread:.1f}"
    return shown if abs(mean) > spread else f"none ({shown})"


def _groups(tasks: Sequence[Task], among: Among) -> list[list[Task]]:
    match among:
        case "each":
            return [[task] for task in tasks]
        case "each part":
            return [[OnePart(task, part)] for task in tasks for part in task.parts().values()]
        case "one":
            return [[Pooled(tasks)]]
        case "holders":
            held: dict[str, list[Task]] = {}
            for task in tasks:
                for name, part in task.parts().items():
                    held.setdefault(name, []).append(OnePart(task, part))
            return [held[name] for name in sorted(held)]
    return [list(tasks)]
