"""FedLN's remedies beside federated averaging that knows of no noise.

Ten peers, eight of them noisy, 30 rounds of five steps, Adam 3e-3; digits, raw pixels as the embedding.
"""

from typing import Final

from scripts.reproduction import run
from shoal.methods.base import Method
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedln.method import FedLN, FedLNConfig
from shoal.methods.tasks.digits_variants import NoisyDigits

PEERS: Final = 10
ROUNDS: Final = 30
LR: Final = 3e-3
BATCH: Final = 32
CASES: Final = ((0.0, 0.0), (0.4, 0.0), (0.7, 0.0), (0.7, 0.7), (0.7, 1.0))
SYSTEMS: Final[dict[str, Method]] = {
    "FedAvg": FedAvg(FedAvgConfig(steps=5, lr=LR, batch_size=BATCH)),
    "NA-FedAvg, neighbours": FedLN(FedLNConfig(lr=LR, batch_size=BATCH)),
    "NA-FedAvg, energy": FedLN(FedLNConfig(lr=LR, batch_size=BATCH, estimator="energy")),
    "NNC": FedLN(FedLNConfig(lr=LR, batch_size=BATCH, remedy="correct")),
    "AKD": FedLN(FedLNConfig(lr=LR, batch_size=BATCH, remedy="distil")),
}


def systems(seed: int) -> dict[str, dict[str, float]]:
    """Return the accuracy of every system in every case."""
    found: dict[str, dict[str, float]] = {system: {} for system in SYSTEMS}
    for noise, sparsity in CASES:
        for system, method in SYSTEMS.items():
            tasks = [
                NoisyDigits(f"{i + 1}/{PEERS}", noise=noise, sparsity=sparsity, seed=seed)
                for i in range(PEERS)
            ]
            found[system][f"noise {noise}, sparsity {sparsity}"] = run(method, tasks, ROUNDS, seed).accuracy
    return found
