"""FedSTAR beside supervised training in one epoch, in as many steps, alone, and with all labels.

Five peers, 60 rounds, Adam 1e-3; digits and generated tones of which few are labelled.
"""

from collections.abc import Callable
from typing import Final

from scripts.reproduction import run
from shoal.methods.base import Method
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedstar.method import FedSTAR, FedSTARConfig
from shoal.methods.learning.task import Task
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig
from shoal.methods.tasks.digits_variants import PartlyLabelledDigits
from shoal.methods.tasks.tones import Tones

PEERS: Final = 5
ROUNDS: Final = 60
BATCH: Final = 64
CASES: Final[tuple[tuple[str, Callable[..., Task], float], ...]] = (
    ("digits 3 %", PartlyLabelledDigits, 0.03),
    ("digits 5 %", PartlyLabelledDigits, 0.05),
    ("digits 50 %", PartlyLabelledDigits, 0.5),
    ("tones 3 %", Tones, 0.03),
    ("tones 20 %", Tones, 0.2),
)


def methods(labelled: float) -> dict[str, Method]:
    """Return the systems; an epoch of the labels a peer has is one batch or a few."""
    steps = max(1, round(labelled * 1300 / PEERS / BATCH))
    return {
        "supervised, one epoch": FedAvg(FedAvgConfig(steps=steps, lr=1e-3, batch_size=BATCH)),
        "supervised, equal steps": FedSTAR(FedSTARConfig(rounds=ROUNDS, beta=0, gate=False)),
        "FedSTAR, no gate (paper)": FedSTAR(FedSTARConfig(rounds=ROUNDS, gate=False)),
        "FedSTAR": FedSTAR(FedSTARConfig(rounds=ROUNDS)),
        "each alone": LocalSGD(LocalSGDConfig(steps=9, lr=1e-3, batch_size=BATCH // 2)),
    }


def systems(seed: int) -> dict[str, dict[str, float]]:
    """Return the accuracy of every system in every case."""
    found: dict[str, dict[str, float]] = {}
    for case, task, labelled in CASES:
        for system, method in methods(labelled).items():
            tasks = [task(share=f"{i + 1}/{PEERS}", labelled=labelled, seed=seed) for i in range(PEERS)]
            found.setdefault(system, {})[case] = run(method, tasks, ROUNDS, seed).accuracy
    every_label = [PartlyLabelledDigits(f"{i + 1}/{PEERS}", labelled=1.0, seed=seed) for i in range(PEERS)]
    plain = FedSTAR(FedSTARConfig(rounds=ROUNDS, beta=0, gate=False))
    found["all labels"] = {"digits 5 %": run(plain, every_label, ROUNDS, seed).accuracy}
    return found
