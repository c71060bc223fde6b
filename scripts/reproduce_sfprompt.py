"""The study of reproduce.py for SFPrompt. See reproduction.py.

A perceptron 64-64-64-10 that was pre-trained on pictures as they are is fitted to pictures that are moved by
a pixel. The first layer is the frozen front, the second the frozen body at a host, the third the tail. Five
peers, Dirichlet 0.3; Adam. FedAvg trains the whole model by SGD. For every system one of six candidates is
chosen: three rates, and one or three passes with the host in a round, for FedAvg 15 or 45 steps. `kB a round`
is what a client sends and receives, in tensors, without the measurements on the test data.

How many rounds all systems have is chosen on validation data too, once, by

    python -m scripts.reproduce_sfprompt

It is the fewest of 5, 10 and 20 that are enough on both data sets, else 40: with twice as many the best
candidate of SFPrompt gains less than a point.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from scripts.reproduction import CHOICE_SEED, PUT_ASIDE, Case, Metrics, Study, System, differing
from shoal.methods.base import Method
from shoal.methods.fedpeft.shifted import Shifted
from shoal.methods.learning.in_lockstep import LockstepRun as Run
from shoal.methods.learning.task import Examples, Task
from shoal.methods.mpsl.in_lockstep import SplitRun
from shoal.methods.registry import load_method
from shoal.methods.sfprompt.method import AGAIN, NAMES, SFPrompt
from shoal.methods.tasks.regrouped import Pooled, on_validation

PEERS: Final = 5
ROUNDS: Final = 20
CURVE: Final = (5, 10, 20, 40)
RATES: Final = (0.003, 0.01, 0.03)
EPOCHS: Final = (1, 3)
FULL_RATES: Final = (0.05, 0.1, 0.2)
FULL_STEPS: Final = (15, 45)
SFPROMPT, ALL, NO_LOCAL = "sfprompt", "all examples sent", "no passes without the body"
DRAWN: Final = "40 % sent, drawn"
POOLED, ALONE, FEDAVG = "one process", "each alone", "all of the model (FedAvg)"
TRAINING: Final = (NAMES.forward, NAMES.grad, AGAIN)


class Whole(Pooled):
    """The data of all nodes, with the loss that split learning asks for."""

    loss = Task.loss

    def test_data(self) -> Examples | None:
        """See `Task`."""
        return self._first.test_data()


@dataclass(frozen=True, slots=True)
class PromptDone(Run):
    """What whole rounds of SFPrompt led to."""

    reached: float
    leak: float

    @property
    def accuracy(self) -> float:
        """As the clients measured it through a host, on the test data."""
        return self.reached


@dataclass(frozen=True, slots=True)
class PromptSystem(System):
    """Clients and a host, in one process."""

    def runs(self, method: Method, tasks: Sequence[Task], rounds: int, seed: int) -> list[Run]:
        """See `System`."""
        assert isinstance(method, SFPrompt)
        groups: list[list[Task]] = [list(tasks)]
        if self.among != "nodes":
            groups = [[Whole(tasks)]] if self.among == "one" else [[task] for task in tasks]
        return [self._run(method, group, rounds, seed) for group in groups]

    @staticmethod
    def _run(method: SFPrompt, tasks: Sequence[Task], rounds: int, seed: int) -> Run:
        split = SplitRun(method, tasks, seed=seed)
        reports = [split.round() for _ in range(rounds)]
        sent = sum(n for played in split.played for (_, verb), n in played.sent.items() if verb in TRAINING)
        params = 2 * 4 * len(split.states[split.peers[0]].params)
        leaks = [report.metrics["leak_r2"] for report in reports[0] if "leak_r2" in report.metrics]
        accuracy = fmean(report.metrics["accuracy"] for report in reports[-1])
        learners = list(split.learners.values())
        return PromptDone(
            [], [], 0.0, sent / rounds / len(tasks) + params, learners, accuracy, fmean(leaks or [0.0])
        )


def _tasks(data: str) -> Callable[[int, float], list[Task]]:
    def tasks(seed: int, validation: float) -> list[Task]:
        held: dict[str, Any] = {"validation": validation} if data == "digits" else {}
        return [Shifted(f"{i + 1}/{PEERS}", seed=seed, data=data, **held) for i in range(PEERS)]

    return tasks


def _systems(case: Case) -> dict[str, System]:
    def prompted(**options: Any) -> tuple[Method, ...]:
        return tuple(
            load_method("sfprompt", {"lr": lr, "epochs": epochs, **options})
            for epochs in EPOCHS
            for lr in RATES
        )

    full = [{"steps": steps, "lr": lr, "batch_size": 32} for steps in FULL_STEPS for lr in FULL_RATES]
    return {
        SFPROMPT: PromptSystem(prompted()),
        ALL: PromptSystem(prompted(gamma=1.0)),
        DRAWN: PromptSystem(prompted(gamma=0.4)),
        NO_LOCAL: PromptSystem(prompted(local_epochs=0)),
        POOLED: PromptSystem(prompted(gamma=1.0), "one"),
        ALONE: PromptSystem(prompted(), "each"),
        FEDAVG: System(tuple(load_method("fedavg", each) for each in full)),
    }


def _measure(method: Method, runs: Sequence[Run]) -> Metrics:
    first, found = runs[0], {"accuracy": fmean(done.accuracy for done in runs)}
    if not isinstance(first, PromptDone):
        return {**found, "kB a round": 2 * first.vector_bytes / 1000}
    if len(first.learners) < PEERS:
        return found
    return {**found, "kB a round": first.vector_bytes / 1000, "leak R²": first.leak}


STUDIES: Final = {
    "sfprompt": Study(
        [Case(f"{data}, shifted", _tasks(data), ROUNDS) for data in ("digits", "shapes")],
        _systems,
        [(SFPROMPT, ALL), (SFPROMPT, ALONE), (SFPROMPT, FEDAVG)],
        _measure,
    )
}


def curves() -> None:
    """Print what each candidate of SFPrompt reaches on the validation data, by rounds."""
    study = STUDIES["sfprompt"]
    for case in study.cases:
        candidates = study.systems(case)[SFPROMPT].candidates
        for method in candidates:
            reached = _curve(method, case)
            shown = "  ".join(f"{rounds}: {value:.3f}" for rounds, value in reached.items())
            print(f"{case.name}, {differing(method, candidates)}:  {shown}", flush=True)


def _curve(method: Any, case: Case) -> dict[int, float]:
    """Return the mean accuracy on validation data after some numbers of rounds."""
    tasks = [on_validation(task) for task in case.tasks(CHOICE_SEED, PUT_ASIDE)]
    split = SplitRun(method, tasks, seed=CHOICE_SEED)
    return {rounds: split.rounds(rounds - len(split.played)) for rounds in CURVE}


if __name__ == "__main__":
    curves()
