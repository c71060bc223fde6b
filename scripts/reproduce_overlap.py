"""FedAvg and DiLoCo on digits, with and without a delay: what is reached when means come a round late.

Five peers with very unlike shares (Dirichlet 0.1), 30 rounds of 50 steps, the methods' defaults. Without a
network there is nothing to wait for, so what a delay gains is not measured here: only what it costs.
"""

from typing import Final

from shoal.methods.base import OuterMethod
from shoal.methods.diloco import DiLoCo
from shoal.methods.fedavg import FedAvg
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.lockstep import train, train_overlapped
from shoal.methods.tasks.digits import Digits

PEERS: Final = 5
ROUNDS: Final = 30
STEPS: Final = 50
ARRIVALS: Final = {"soon": 5, "at the end": STEPS}
"""After how many of the next steps a mean is there."""


def systems(seed: int) -> dict[str, dict[str, float]]:
    """Return the accuracy of the common model on the test set."""
    methods: dict[str, OuterMethod] = {"fedavg": FedAvg(), "diloco": DiLoCo()}
    found: dict[str, dict[str, float]] = {}
    for name, method in methods.items():
        peers = learners(seed)
        states, _ = train(method, peers, peers[0].initial, ROUNDS)
        found[f"{name}, delay 0"] = peers[0].evaluate(states[0].params)
        for when, after in ARRIVALS.items():
            peers = learners(seed)
            held = train_overlapped(method, peers, peers[0].initial, ROUNDS, after=after)
            found[f"{name}, delay 1, means come {when}"] = peers[0].evaluate(held[-1][0].params)
    return found


def learners(seed: int) -> list[TorchLearner]:
    """Return the peers before their first step."""
    return [TorchLearner(Digits(f"{i + 1}/{PEERS}", seed=seed), seed=seed) for i in range(PEERS)]
