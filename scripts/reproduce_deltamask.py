"""DeltaMask beside a linear probe, full fine-tuning, FedPM, and masks that each peer trains alone.

Five peers, Dirichlet 1.0, 40 rounds; perceptrons pre-trained on transposed pictures: digits, with a body of
49,152 weights, and drawn shapes, with 90,112. Bits are those of a peer's update per masked weight and round,
in the rounds of masks.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Final

from scripts.reproduction import Case, Study, System
from shoal.methods.base import Method
from shoal.methods.deltamask.method import DeltaMask, DeltaMaskConfig
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.learning.in_lockstep import LockstepRun as Run
from shoal.methods.learning.task import Task, load_task

PEERS: Final = 5
ROUNDS: Final = 40
HEAD_ROUNDS: Final = DeltaMaskConfig().head_rounds
LAST: Final = 3
HEAD_RATES: Final = (0.1, 0.5)


def case(data: str) -> Case:
    """Return a data set in five shares, and a body to fit to it."""

    def tasks(seed: int, validation: float) -> list[Task]:
        options: dict[str, Any] = {"data": data, "seed": seed, "validation": validation}
        return [load_task("digits_body", {"share": f"{i + 1}/{PEERS}", **options}) for i in range(PEERS)]

    return Case(data, tasks, ROUNDS)


def masks(**options: Any) -> tuple[Method, ...]:
    """Return the candidates of DeltaMask with these options: rates of the head."""
    return tuple(DeltaMask(DeltaMaskConfig(head_lr=lr, **options)) for lr in HEAD_RATES)


def systems(case: Case) -> dict[str, System]:
    """Return the systems."""
    probes = masks(head_rounds=ROUNDS, head_steps=50)
    tuning: tuple[Method, ...] = tuple(FedAvg(FedAvgConfig(steps=30, lr=lr)) for lr in (0.1, 0.3))
    return {
        "linear probe": System(probes),
        "full fine-tuning (FedAvg)": System(tuning),
        "FedPM: all mask bits": System(masks(coding="bits", kappa=1.0, density_cap=1.0)),
        "DeltaMask, filter (paper)": System(masks(coding="bfuse8")),
        "DeltaMask": System(masks()),
        "DeltaMask, each alone": System(masks(), "each"),
    }


def measure(method: Method, runs: Sequence[Run]) -> dict[str, float]:
    """Return accuracy and bits per weight and round, on average and in the last rounds."""
    found = {"accuracy": fmean(done.accuracy for done in runs)}
    if isinstance(method, FedAvg):
        return {**found, "bits per weight": 32.0, "in the last rounds": 32.0}
    if len(runs) > 1:
        return found
    rounds = [
        [report.metrics["bits_per_weight"] for report in each]
        for each in runs[0].reports[HEAD_ROUNDS:]
        if "bits_per_weight" in each[0].metrics
    ]
    if rounds:
        found["bits per weight"] = fmean(value for each in rounds for value in each)
        found["in the last rounds"] = fmean(value for each in rounds[-LAST:] for value in each)
    return found


STUDIES: Final = {
    "deltamask": Study(
        [case("digits"), case("shapes")],
        systems,
        [
            ("DeltaMask", "linear probe"),
            ("DeltaMask", "full fine-tuning (FedAvg)"),
            ("DeltaMask", "FedPM: all mask bits"),
            ("DeltaMask", "DeltaMask, each alone"),
        ],
        measure,
    )
}
