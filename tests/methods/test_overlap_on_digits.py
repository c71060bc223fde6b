"""What DiLoCo on digits loses when its means come a round late: the table of docs/overlap.md, in short."""

import numpy as np
import pytest
from lockstep import train, train_overlapped

from scripts.reproduce_overlap import learners
from shoal.methods.diloco import DiLoCo

SEEDS = range(3)
ROUNDS = 20


def accuracy(seed: int, after: int | None) -> float:
    """Return what the common model reaches; `after`: the step at which means come, with a delay."""
    peers, method = learners(seed), DiLoCo()
    if after is None:
        states, _ = train(method, peers, peers[0].initial, ROUNDS)
    else:
        states = train_overlapped(method, peers, peers[0].initial, ROUNDS, after=after)[-1]
    assert len({state.params.tobytes() for state in states}) == 1
    return peers[0].evaluate(states[0].params)["accuracy"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_delay_costs_less_than_two_points() -> None:
    waits = np.array([accuracy(seed, None) for seed in SEEDS])
    for after in (10, 50):
        overlaps = np.array([accuracy(seed, after) for seed in SEEDS])
        print(f"delay 0 {waits.round(3)}, delay 1, means after {after} of 50 steps {overlaps.round(3)}")
        assert overlaps.mean() >= waits.mean() - 0.02
