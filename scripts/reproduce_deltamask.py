"""DeltaMask beside a linear probe, full fine-tuning, FedPM, and masks that each peer trains alone.

Five peers, Dirichlet 1.0, 40 rounds; a body of 49,152 weights, pre-trained on transposed digits. Bits are
those of a peer's update per masked weight and round, in the rounds of masks.
"""

from collections.abc import Iterator
from statistics import fmean
from typing import Final

from scripts.reproduction import Run, run
from shoal.methods.base import Method
from shoal.methods.deltamask.method import DeltaMask, DeltaMaskConfig
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.tasks.digits_pretrained import DigitsBody

PEERS: Final = 5
ROUNDS: Final = 40
HEAD_ROUNDS: Final = DeltaMaskConfig().head_rounds
LAST: Final = 3
SYSTEMS: Final[dict[str, Method]] = {
    "linear probe": DeltaMask(DeltaMaskConfig(head_rounds=ROUNDS)),
    "linear probe, lr and steps tuned": DeltaMask(
        DeltaMaskConfig(head_rounds=ROUNDS, head_lr=0.5, head_steps=50)
    ),
    "full fine-tuning (FedAvg)": FedAvg(FedAvgConfig(steps=30, lr=0.1)),
    "FedPM: all mask bits": DeltaMask(DeltaMaskConfig(coding="bits", kappa=1.0, density_cap=1.0)),
    "DeltaMask, filter (paper)": DeltaMask(DeltaMaskConfig(coding="bfuse8")),
    "DeltaMask": DeltaMask(),
}


def systems(seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield accuracy and bits per weight of every system."""
    tasks = [DigitsBody(f"{i + 1}/{PEERS}", seed=seed) for i in range(PEERS)]
    for name, method in SYSTEMS.items():
        done = run(method, tasks, ROUNDS, seed)
        yield name, {"accuracy": done.accuracy, **bits(method, done)}
    alone = [run(DeltaMask(), [task], ROUNDS, seed).accuracy for task in tasks]
    yield "DeltaMask, each alone", {"accuracy": fmean(alone)}


def bits(method: Method, done: Run) -> dict[str, float]:
    """Return bits per weight and round, on average and in the last rounds."""
    if isinstance(method, FedAvg):
        return {"bits per weight": 32.0, "in the last rounds": 32.0}
    rounds = [
        [report.metrics["bits_per_weight"] for report in each]
        for each in done.reports[HEAD_ROUNDS:]
        if "bits_per_weight" in each[0].metrics
    ]
    if not rounds:
        return {}
    return {
        "bits per weight": fmean(value for each in rounds for value in each),
        "in the last rounds": fmean(value for each in rounds[-LAST:] for value in each),
    }
