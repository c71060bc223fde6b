"""MaTU beside one model for all tasks, a run for each task, and each peer alone.

Six peers in a ring with six picture tasks, two tasks each, 15 rounds of 20 steps per task; digits, with
16,576 parameters, and drawn shapes, with 26,816. Bytes are those of a peer's message, against separate
float32 vectors for its tasks.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Final

from scripts.reproduction import Case, Study, System
from shoal.methods.base import Method
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.learning.in_lockstep import LockstepRun as Run
from shoal.methods.learning.task import Task, load_task
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig
from shoal.methods.matu.method import MaTU, MaTUConfig

PEERS: Final = 6
ROUNDS: Final = 15
STEPS: Final = 20
PER_NODE: Final = 2
RATES: Final = (0.1, 0.3)


def case(data: str, conflict: str) -> Case:
    """Return six nodes with two questions each about the same pictures."""

    def tasks(seed: int, validation: float) -> list[Task]:
        options: dict[str, Any] = {"data": data, "conflict": conflict, "seed": seed, "validation": validation}
        return [
            load_task("digit_tasks", {"share": f"{i + 1}/{PEERS}", "per_node": PER_NODE, **options})
            for i in range(PEERS)
        ]

    return Case(f"{data}, {conflict} conflict", tasks, ROUNDS)


def matu(**options: Any) -> System:
    """Return MaTU with these options."""
    return System(tuple(MaTU(MaTUConfig(steps=STEPS, lr=lr, **options)) for lr in RATES))


def systems(case: Case) -> dict[str, System]:
    """Return the systems; one model for all tasks is trained in as many steps."""

    def averaged(steps: int) -> tuple[Method, ...]:
        return tuple(FedAvg(FedAvgConfig(steps=steps, lr=lr)) for lr in RATES)

    alone = tuple(LocalSGD(LocalSGDConfig(steps=STEPS, lr=lr)) for lr in RATES)
    return {
        "one model for all (FedAvg)": System(averaged(PER_NODE * STEPS)),
        "FedAvg for each task": System(averaged(STEPS), "holders"),
        "each alone": System(alone, "each part"),
        "MaTU": matu(),
        "MaTU, unified start (paper)": matu(start="unified"),
        "MaTU, mixing two neighbours (paper)": matu(neighbours=2, least_similarity=0.5, try_mixing=False),
    }


def measure(method: Method, runs: Sequence[Run]) -> dict[str, float]:
    """Return the accuracy, and of MaTU how large a message is beside its tasks' vectors."""
    found = {"accuracy": fmean(done.accuracy for done in runs)}
    if isinstance(method, MaTU):
        found["bytes, two tasks"] = fmean(
            report.metrics["bytes_per_number"] / 4 for report in runs[0].reports[-1]
        )
    return found


STUDIES: Final = {
    "matu": Study(
        [case("digits", "strong"), case("shapes", "strong")],
        systems,
        [
            ("MaTU", "one model for all (FedAvg)"),
            ("MaTU", "FedAvg for each task"),
            ("MaTU", "each alone"),
            ("MaTU, mixing two neighbours (paper)", "MaTU"),
        ],
        measure,
    )
}
