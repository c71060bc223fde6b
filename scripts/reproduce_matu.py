"""MaTU beside one model for all tasks, a run for each task, and each peer alone.

Six peers in a ring with six digit tasks, two tasks each, 15 rounds of 20 steps per task, d = 16,576. Bytes
are those of a peer's message, against separate float32 vectors for its tasks.
"""

from statistics import fmean
from typing import Final

from scripts.reproduction import run
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig
from shoal.methods.matu.method import MaTU, MaTUConfig
from shoal.methods.tasks.digits_multitask import DigitTasks
from shoal.methods.tasks.regrouped import OnePart

PEERS: Final = 6
ROUNDS: Final = 15
STEPS: Final = 20
LR: Final = 0.1
VARIANTS: Final[dict[str, MaTUConfig]] = {
    "MaTU": MaTUConfig(),
    "MaTU, float32 (paper)": MaTUConfig(coding="float32"),
    "MaTU, int8": MaTUConfig(coding="int8"),
    "MaTU, unified start (paper)": MaTUConfig(start="unified"),
    "MaTU, mixing two neighbours (paper)": MaTUConfig(neighbours=2, least_similarity=0.5, try_mixing=False),
    "MaTU, mixing where it does no harm": MaTUConfig(neighbours=2, least_similarity=0.5),
}


def systems(seed: int) -> dict[str, dict[str, float]]:
    """Return accuracy under either kind of conflict, and bytes, of every system."""
    found: dict[str, dict[str, float]] = {}
    for conflict in ("strong", "mild"):
        nodes = [DigitTasks(f"{i + 1}/{PEERS}", conflict=conflict, seed=seed) for i in range(PEERS)]
        reached = {
            "one model for all (FedAvg)": together(nodes, seed),
            "FedAvg for each task": for_each_task(nodes, seed),
            "each alone": alone(nodes, seed),
        }
        for name, config in VARIANTS.items():
            done = run(MaTU(config), nodes, ROUNDS, seed)
            reached[name] = fmean(report.metrics["accuracy"] for report in done.reports[-1])
            numel = done.states[0].params.size
            share = done.reports[-1][0].metrics["bytes_per_number"] / 4
            found.setdefault(name, {})["bytes, two tasks"] = share
            found[name]["bytes, four tasks"] = four_tasks(config, numel, seed)
        for name, value in reached.items():
            found.setdefault(name, {})[f"accuracy, {conflict} conflict"] = value
    order = ["accuracy, strong conflict", "accuracy, mild conflict", "bytes, two tasks", "bytes, four tasks"]
    return {name: {key: each[key] for key in order if key in each} for name, each in found.items()}


def together(nodes: list[DigitTasks], seed: int) -> float:
    """Return what one body for all tasks reaches, trained in as many steps."""
    return run(FedAvg(FedAvgConfig(steps=2 * STEPS, lr=LR)), nodes, ROUNDS, seed).accuracy


def for_each_task(nodes: list[DigitTasks], seed: int) -> float:
    """Return the mean of runs of FedAvg, one for each task among its holders."""
    names = {name for node in nodes for name in node.parts()}
    method = FedAvg(FedAvgConfig(steps=STEPS, lr=LR))
    return fmean(
        run(
            method,
            [OnePart(node, node.parts()[name]) for node in nodes if name in node.parts()],
            ROUNDS,
            seed,
        ).accuracy
        for name in sorted(names)
    )


def alone(nodes: list[DigitTasks], seed: int) -> float:
    """Return the mean of what each peer reaches on each of its tasks without the others."""
    method = LocalSGD(LocalSGDConfig(steps=STEPS, lr=LR))
    tasks = [OnePart(node, part) for node in nodes for part in node.parts().values()]
    return fmean(run(method, [task], ROUNDS, seed).accuracy for task in tasks)


def four_tasks(config: MaTUConfig, numel: int, seed: int) -> float:
    """Return a message of four tasks as a share of four float32 vectors."""
    nodes = [DigitTasks(f"{i + 1}/{PEERS}", per_node=4, seed=seed) for i in range(PEERS)]
    return run(MaTU(config), nodes, 1, seed).body_bytes / (4 * 4 * numel)
