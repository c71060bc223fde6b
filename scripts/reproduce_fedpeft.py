"""The study of reproduce.py for FedPEFT. See reproduction.py.

A perceptron that was pre-trained on pictures as they are is fitted to pictures that are moved by a pixel.
Eight peers, Dirichlet 0.3, 15 steps of SGD in batches of 32 between exchanges, 20 rounds. Of every system
the rate is chosen among three.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Final

from scripts.reproduction import Case, Metrics, Study, System
from shoal.methods.base import Method
from shoal.methods.fedpeft.shifted import Shifted
from shoal.methods.learning.in_lockstep import LockstepRun as Run
from shoal.methods.learning.task import Task
from shoal.methods.registry import load_method

PEERS: Final = 8
ROUNDS: Final = 20
WORK: Final[Mapping[str, Any]] = {"steps": 15, "batch_size": 32}
RATES: Final = (0.05, 0.1, 0.2)
FULL: Final = "all of the model (FedAvg)"
ADAPTER, BIAS, HEAD = "adapters and head", "biases and head", "head"


def _tasks(data: str) -> Callable[[int, float], list[Task]]:
    def tasks(seed: int, validation: float) -> list[Task]:
        held: dict[str, Any] = {"validation": validation} if data == "digits" else {}
        return [Shifted(f"{i + 1}/{PEERS}", seed=seed, data=data, **held) for i in range(PEERS)]

    return tasks


def _system(method: str, **options: Any) -> System:
    return System(tuple(load_method(method, {**WORK, **options, "lr": lr}) for lr in RATES))


def _systems(case: Case) -> dict[str, System]:
    return {
        FULL: _system("fedavg"),
        ADAPTER: _system("fedpeft", family="adapter"),
        BIAS: _system("fedpeft", family="bias"),
        HEAD: _system("fedpeft", family="head"),
    }


def _measure(method: Method, runs: Sequence[Run]) -> Metrics:
    first = runs[0].learners[0]
    return {
        "accuracy": fmean(done.accuracy for done in runs),
        "before": first.evaluate(first.initial)["accuracy"],
        "kB a round": fmean(done.wire_bytes for done in runs) / 1000,
    }


STUDIES: Final = {
    "fedpeft": Study(
        [Case(data, _tasks(data), ROUNDS) for data in ("digits", "shapes")],
        _systems,
        [(ADAPTER, FULL), (BIAS, FULL), (HEAD, FULL)],
        _measure,
    )
}
