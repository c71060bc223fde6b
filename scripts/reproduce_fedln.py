"""FedLN's remedies beside federated averaging that knows of no noise.

Ten peers, eight of them noisy, 30 rounds of about five steps of 32 examples, Adam. Digits, and drawn shapes
whose raw pixels, the embedding, do not tell the classes apart.
"""

from typing import Any, Final

from scripts.reproduction import Case, Study, System
from shoal.methods.base import Method
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedln.method import FedLN, FedLNConfig
from shoal.methods.learning.task import Task, load_task

PEERS: Final = 10
ROUNDS: Final = 30
RATES: Final = (1e-3, 3e-3, 1e-2)
BATCH: Final = 32
NOISES: Final = ((0.0, 0.0), (0.7, 0.7), (0.7, 1.0))
SHAPES: Final = {"alpha": 100.0, "optimizer": "adam"}


def case(data: str, noise: float, sparsity: float) -> Case:
    """Return a data set in ten shares of about one size, of which eight have wrong labels."""

    def tasks(seed: int, validation: float) -> list[Task]:
        own: dict[str, Any] = {"validation": validation} if data == "digits" else SHAPES
        name = "digits_noisy" if data == "digits" else data
        options = {"noise": noise, "sparsity": sparsity, "seed": seed, **own}
        return [load_task(name, {"share": f"{i + 1}/{PEERS}", **options}) for i in range(PEERS)]

    return Case(f"{data}, noise {noise:g}, sparsity {sparsity:g}", tasks, ROUNDS)


def fedln(**options: Any) -> System:
    """Return FedLN with these options."""
    return System(tuple(FedLN(FedLNConfig(lr=lr, batch_size=BATCH, **options)) for lr in RATES))


def systems(case: Case) -> dict[str, System]:
    """Return the systems; a share of shapes has 200 examples, one of digits 134."""
    steps = 7 if case.name.startswith("shapes") else 5
    plain: tuple[Method, ...] = tuple(
        FedAvg(FedAvgConfig(steps=steps, lr=lr, batch_size=BATCH)) for lr in RATES
    )
    return {
        "FedAvg": System(plain),
        "NA-FedAvg, neighbours": fedln(),
        "NA-FedAvg, energy": fedln(estimator="energy"),
        "NNC": fedln(remedy="correct"),
        "AKD": fedln(remedy="distil"),
    }


STUDIES: Final = {
    "fedln": Study(
        [case(data, *noise) for data in ("digits", "shapes") for noise in NOISES],
        systems,
        [(system, "FedAvg") for system in ("NA-FedAvg, neighbours", "NA-FedAvg, energy", "NNC", "AKD")],
    )
}
