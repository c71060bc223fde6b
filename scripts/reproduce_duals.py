"""The studies of reproduce.py for the methods with private duals and with outer steps. See reproduction.py.

Eight peers whose shares differ much (Dirichlet 0.1), ten steps of SGD in batches of 32 between exchanges,
20 rounds, on digits, a table of tumours and generated tones. In the case ``recipe`` nothing is chosen: the
rate is 0.1 and the rest as each method has it. In the others each system has as many candidates, from one
grid.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import nn

from scripts.reproduction import Case, Study, System
from shoal.methods.learning.task import Task, load_task
from shoal.methods.registry import load_method
from shoal.methods.tasks import tones
from shoal.methods.tasks.partition import dirichlet, parse_share
from shoal.methods.tasks.shares import Sets, SharedData, all_of

PEERS: Final = 8
ALPHA: Final = 0.1
ROUNDS: Final = 20
WORK: Final[Mapping[str, Any]] = {"steps": 10, "batch_size": 32}
RECIPE: Final = "digits, recipe"
RATES: Final = (0.1, 0.2, 0.4)
WIDE: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""For methods that have but a rate."""
FURTHER: Final[Mapping[str, tuple[str, tuple[float, float]]]] = {
    "fedspeed": ("lam", (0.03, 0.1)),
    "feddyn": ("alpha", (0.03, 0.1)),
    "fedavgm": ("outer_momentum", (0.8, 0.9)),
    "fedadam": ("outer_lr", (0.03, 0.1)),
    "fedyogi": ("outer_lr", (0.03, 0.1)),
}
"""Method -> what is chosen beside the rate."""
NAMES: Final[Mapping[str, str]] = {
    "fedavg": "FedAvg",
    "fedspeed": "FedSpeed",
    "scaffold": "SCAFFOLD",
    "feddyn": "FedDyn",
    "fedavgm": "FedAvgM",
    "fedadam": "FedAdam",
    "fedyogi": "FedYogi",
}


class UnevenTones(SharedData):
    """The clips of the task tones, all labelled, in shares that differ as those of digits do."""

    def __init__(self, share: str, alpha: float, seed: int) -> None:
        """See the task digits."""
        mine, shares = parse_share(share)
        sets = Sets(
            train=tones.generate(tones.TRAIN, 0),
            validation=tones.generate(tones.VALIDATION, 2),
            test=tones.generate(tones.TEST, 1),
        )
        labels = sets.train[1]
        super().__init__(sets, all_of(labels, dirichlet(labels, shares, alpha=alpha, seed=seed)[mine]))

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Sequential(
            nn.Linear(tones.BANDS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, tones.CLASSES)
        )


def _tasks(data: str) -> Callable[[int, float], list[Task]]:
    def tasks(seed: int, validation: float) -> list[Task]:
        shares = [f"{i + 1}/{PEERS}" for i in range(PEERS)]
        if data == "tones":
            return [UnevenTones(share, ALPHA, seed) for share in shares]
        held: dict[str, Any] = {"validation": validation} if data == "digits" else {}
        return [load_task(data, {"share": share, "alpha": ALPHA, "seed": seed, **held}) for share in shares]

    return tasks


CASES: Final = [
    Case(RECIPE, _tasks("digits"), ROUNDS),
    Case("digits, tuned", _tasks("digits"), ROUNDS),
    Case("tables, tuned", _tasks("tables"), ROUNDS),
    Case("tones, tuned", _tasks("tones"), ROUNDS),
]


def system(method: str, case: Case) -> System:
    """Return a method with its candidates."""
    if case.name == RECIPE:
        return System((load_method(method, {**WORK, "lr": 0.1}),))
    if method not in FURTHER:
        return System(tuple(load_method(method, {**WORK, "lr": lr}) for lr in WIDE))
    name, values = FURTHER[method]
    return System(
        tuple(load_method(method, {**WORK, "lr": lr, name: value}) for lr in RATES for value in values)
    )


def _study(*methods: str) -> Study:
    def systems(case: Case) -> dict[str, System]:
        return {NAMES[method]: system(method, case) for method in ("fedavg", *methods)}

    return Study(CASES, systems, [(NAMES[method], "FedAvg") for method in methods])


STUDIES: Final = {
    # All of them stand on the page of the first; the others have theirs beside FedAvg.
    "fedspeed": _study("fedspeed", "scaffold", "feddyn", "fedavgm", "fedadam", "fedyogi"),
    **{name: _study(name) for name in ("scaffold", "feddyn", "fedavgm", "fedadam", "fedyogi")},
}
