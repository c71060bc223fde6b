"""FedSTAR beside supervised training in one epoch, in as many steps, and alone.

Five peers, 60 rounds, Adam; digits, generated tones and drawn shapes of which few are labelled.
"""

from typing import Any, Final

from scripts.reproduction import Case, Study, System
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedstar.method import FedSTAR, FedSTARConfig
from shoal.methods.learning.task import Task, load_task
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig

PEERS: Final = 5
ROUNDS: Final = 60
BATCH: Final = 64
RATES: Final = (1e-3, 3e-3, 1e-2)
TASKS: Final = {"digits": "digits_few_labels", "tones": "tones", "shapes": "shapes"}
LABELLED: Final = (("digits", 5), ("tones", 3), ("tones", 20), ("shapes", 5), ("shapes", 20))
"""Data set, and how many percent of its labels are known."""
EXAMPLES: Final = {"digits": 1347, "tones": 1200, "shapes": 2000}


def case(data: str, percent: int) -> Case:
    """Return a data set in five shares, of which few labels are known."""

    def tasks(seed: int, validation: float) -> list[Task]:
        own: dict[str, dict[str, Any]] = {
            "digits": {"validation": validation},
            "shapes": {"alpha": 100.0, "optimizer": "adam"},
        }
        options = {"labelled": percent / 100, "seed": seed, **own.get(data, {})}
        return [load_task(TASKS[data], {"share": f"{i + 1}/{PEERS}", **options}) for i in range(PEERS)]

    return Case(f"{data} {percent} %", tasks, ROUNDS)


def fedstar(**options: Any) -> System:
    """Return FedSTAR with these options."""
    return System(tuple(FedSTAR(FedSTARConfig(rounds=ROUNDS, lr=lr, **options)) for lr in RATES))


def systems(case: Case) -> dict[str, System]:
    """Return the systems; an epoch of the labels a peer has is one batch or a few."""
    data, percent, _ = case.name.split()
    epoch = max(1, round(int(percent) / 100 * EXAMPLES[data] / PEERS / BATCH))
    unlabelled = (1 - int(percent) / 100) * EXAMPLES[data] / PEERS
    steps = max(1, round(unlabelled / (BATCH // 2)))
    one_epoch = tuple(FedAvg(FedAvgConfig(steps=epoch, lr=lr, batch_size=BATCH)) for lr in RATES)
    alone = tuple(LocalSGD(LocalSGDConfig(steps=steps, lr=lr, batch_size=BATCH // 2)) for lr in RATES)
    return {
        "supervised, one epoch": System(one_epoch),
        "supervised, equal steps": fedstar(beta=0, gate=False),
        "FedSTAR, no gate (paper)": fedstar(gate=False),
        "FedSTAR": fedstar(),
        "each alone, equal steps": System(alone, "each"),
    }


STUDIES: Final = {
    "fedstar": Study(
        [case(*each) for each in LABELLED],
        systems,
        [
            ("FedSTAR", "supervised, equal steps"),
            ("FedSTAR, no gate (paper)", "supervised, equal steps"),
            ("FedSTAR", "supervised, one epoch"),
        ],
    )
}
