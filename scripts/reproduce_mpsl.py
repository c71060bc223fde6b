"""The study of reproduce.py for MPSL. See reproduction.py.

Five peers with Dirichlet 0.5 shares of digits with captions, or with tones; eight passes over the data in 40
steps each, Adam; on captions with more systems. Each system has four rates, of which the one is taken that
is best on validation data with another seed: of split learning those of fronts and heads, which are averaged
once per pass only, beside 0.003 at the hosts. `kB a round` is what a client sends and receives in a pass.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

import msgspec

from scripts.reproduction import Case, Metrics, Study, System
from shoal.methods.base import Method
from shoal.methods.learning.in_lockstep import LockstepRun as Run
from shoal.methods.learning.in_lockstep import lockstep
from shoal.methods.learning.task import Task, load_task
from shoal.methods.mpsl.estimate import split_cost
from shoal.methods.mpsl.in_lockstep import SplitRun
from shoal.methods.mpsl.method import MPSL
from shoal.methods.mpsl.pairs import Pairs, Use
from shoal.methods.mpsl.sides import Shapes
from shoal.methods.registry import load_method
from shoal.methods.tasks.regrouped import Pooled

PEERS: Final = 5
ROUNDS: Final = 8
STEPS: Final = 40
CLIENT_RATES: Final = (0.003, 0.01, 0.03, 0.1)
"""Of fronts and heads in split learning."""
RATES: Final = (0.001, 0.003, 0.01, 0.03)
"""Of the systems that train whole models."""
SPLIT, HOST, APART = "split", "split, head at the host", "split, fronts not averaged"
TWO_HOSTS: Final = "split, two hosts"
POOLED, ALONE, FEDAVG = "one process", "each alone", "fedavg"
USES: Final[Mapping[Use, str]] = {"image": "image only", "other": "other modality only"}


@dataclass(frozen=True, slots=True)
class SplitDone(Run):
    """What whole rounds of split learning led to."""

    reached: float

    @property
    def accuracy(self) -> float:
        """As the clients measured it through a host, on the test data."""
        return self.reached


@dataclass(frozen=True, slots=True)
class SplitSystem(System):
    """Clients and hosts, in one process."""

    hosts: int = 1
    use: Use = "both"

    def runs(self, method: Method, tasks: Sequence[Task], rounds: int, seed: int) -> list[Run]:
        """See `System`."""
        assert isinstance(method, MPSL)
        split = SplitRun(method, _seen(tasks, self.use), self.hosts, seed)
        reached = split.rounds(rounds)
        c = method.config
        sent = fmean(
            split_cost(
                Shapes(learner, c.cut, c.stages, own_head=c.head == "client").sizes, c.number, head=c.head
            ).bytes
            for learner in split.learners.values()
        )
        return [SplitDone([], [], 0.0, sent, list(split.learners.values()), reached)]


@dataclass(frozen=True, slots=True)
class LocalSystem(System):
    """Training in one process, of all data or of each share, in steps of equal parts of the data."""

    use: Use = "both"

    def runs(self, method: Method, tasks: Sequence[Task], rounds: int, seed: int) -> list[Run]:
        """See `System`."""
        rate = msgspec.to_builtins(method.config)["lr"]
        done = []
        seen = _seen(tasks, self.use)
        for task in [Pooled(seen)] if self.among == "one" else seen:
            size = max(1, len(task.train_data()[0]) // STEPS)
            local = load_method("local", {"steps": STEPS, "lr": rate, "batch_size": size})
            done.append(lockstep(local, [task], rounds, seed))
        return done


def _seen(tasks: Sequence[Task], use: Use) -> list[Task]:
    """Return the tasks with one modality, or with both."""
    found: list[Task] = []
    for task in tasks:
        assert isinstance(task, Pairs)
        found.append(task.seen_by(use))
    return found


def _tasks(name: str) -> Callable[[int, float], list[Task]]:
    def tasks(seed: int, validation: float) -> list[Task]:
        options: dict[str, Any] = {"seed": seed, "validation": validation}
        return [load_task(name, {**options, "share": f"{i + 1}/{PEERS}"}) for i in range(PEERS)]

    return tasks


def _systems(case: Case) -> dict[str, System]:
    def split(**options: Any) -> tuple[Method, ...]:
        return tuple(load_method("mpsl", {"steps": STEPS, "lr": lr, **options}) for lr in CLIENT_RATES)

    fedavg = tuple(load_method("fedavg", {"steps": STEPS, "lr": lr, "batch_size": 32}) for lr in RATES)
    found: dict[str, System] = {
        SPLIT: SplitSystem(split()),
        POOLED: LocalSystem(fedavg, "one"),
        ALONE: LocalSystem(fedavg, "each"),
        **{f"{SPLIT}, {name}": SplitSystem(split(), use=use) for use, name in USES.items()},
        **{f"{POOLED}, {name}": LocalSystem(fedavg, "one", use=use) for use, name in USES.items()},
    }
    if case.data != "digits_captions":
        return found
    return found | {
        HOST: SplitSystem(split(head="host")),
        APART: SplitSystem(split(sync_tokenizers=False)),
        TWO_HOSTS: SplitSystem(split(), hosts=2),
        FEDAVG: System(fedavg),
    }


def _measure(method: Method, runs: Sequence[Run]) -> Metrics:
    found = {"accuracy": fmean(done.accuracy for done in runs)}
    first = runs[0]
    if isinstance(first, SplitDone):
        return {**found, "kB a round": first.vector_bytes / 1000}
    if len(first.states) == PEERS:
        return {**found, "kB a round": 2 * first.vector_bytes / 1000}
    return found


STUDIES: Final = {
    "mpsl": Study(
        [Case(f"digits_{other}", _tasks(f"digits_{other}"), ROUNDS) for other in ("captions", "tones")],
        _systems,
        [
            (SPLIT, POOLED),
            (SPLIT, ALONE),
            *((SPLIT, f"{SPLIT}, {name}") for name in USES.values()),
            *((POOLED, f"{POOLED}, {name}") for name in USES.values()),
        ],
        _measure,
    )
}
