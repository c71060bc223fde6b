"""What the methods reach on the digits, with their defaults: the bars of the project's main job.

Five peers, Dirichlet 0.1, means and worst cases over five seeds; prints the table. Slow: a minute.
"""

import numpy as np
import pytest
from lockstep import names, run_round

from shoal.methods.learning.learner import TorchLearner
from shoal.methods.registry import load_method
from shoal.methods.tasks.digits import Digits

PEERS = 5
SEEDS = range(5)


def accuracies(method_name: str, seed: int, rounds: int) -> list[float]:
    """Return every peer's accuracy on the common test set after the last round."""
    learners = [
        TorchLearner(Digits(share=f"{i + 1}/{PEERS}", alpha=0.1, seed=seed), seed=seed) for i in range(PEERS)
    ]
    method, peers = load_method(method_name, {}), names(PEERS)
    states = {peer: method.init(learners[0].initial.copy()) for peer in peers}
    for round_ in range(rounds):
        ended = run_round(
            {
                peer: method.round(states[peer], learner, round_)
                for peer, learner in zip(peers, learners, strict=True)
            }
        )
        states = {peer: ended.results[peer][0] for peer in peers}
    return [
        learner.evaluate(states[peer].params)["accuracy"]
        for peer, learner in zip(peers, learners, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", ["fedavg", "fedprox", "diloco"])
def test_together_the_digits_are_learned(method: str) -> None:
    reached = np.array([accuracies(method, seed, rounds=30) for seed in SEEDS])
    print(f"{method:8} mean {reached.mean():.3f} min {reached.min():.3f} by seed {reached.min(1).round(3)}")
    assert reached.mean() >= 0.93
    assert reached.min() >= 0.90


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_alone_they_are_not() -> None:
    reached = np.array([accuracies("local", seed, rounds=30) for seed in SEEDS])
    print(f"local    mean {reached.mean():.3f} by seed {reached.mean(1).round(3)}")
    assert reached.mean() < 0.60
