"""FedAvg: by hand, alone, and as it learns."""

import numpy as np
import pytest
from lockstep import names, run_round, train
from toy_learner import ToyLearner

from shoal.gossip.errors import TooFew
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig

START = np.array([0.0, 0.0], np.float32)


def test_one_round_by_hand() -> None:
    # One step of 0.5 goes half the way: to (2, 0) and (0, 4). 1 : 3 examples weigh them to (0.5, 3).
    learners = [ToyLearner([4, 0], examples=1), ToyLearner([0, 8], examples=3)]
    states, reports = train(FedAvg(FedAvgConfig(steps=1, lr=0.5, batch_size=2)), learners, START, rounds=1)
    assert [state.params.tolist() for state in states] == [[0.5, 3.0], [0.5, 3.0]]
    assert reports[0][0].loss == 2.0
    assert reports[0][0].examples == 2
    assert reports[0][0].contributors == tuple(names(2))


def test_one_peer_is_plain_training() -> None:
    config = {"steps": 3, "lr": 0.1, "batch_size": 4}
    alone, _ = train(LocalSGD(LocalSGDConfig(**config)), [ToyLearner([1, 2])], START, rounds=4)  # type: ignore[arg-type]
    swarm, _ = train(FedAvg(FedAvgConfig(**config)), [ToyLearner([1, 2])], START, rounds=4)  # type: ignore[arg-type]
    assert np.array_equal(alone[0].params, swarm[0].params)


def test_the_distance_to_the_common_optimum_falls() -> None:
    learners = [ToyLearner([x, 1]) for x in (-3, 0, 3)]
    method = FedAvg(FedAvgConfig(steps=2, lr=0.2))
    distances = [
        float(np.linalg.norm(train(method, learners, START, rounds)[0][0].params - [0, 1]))
        for rounds in range(6)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[5] < 0.2 * distances[0]


def test_a_failed_round_lets_the_error_out_and_leaves_the_state() -> None:
    method, (peer,) = FedAvg(), names(1)
    state = method.init(START.copy())
    ended = run_round(
        {peer: method.round(state, ToyLearner([1, 1]), 0)}, failures={(peer, 0): TooFew("alone")}
    )
    assert peer in ended.failed
    assert state.params.tolist() == [0, 0]


def test_the_round_chooses_the_batches() -> None:
    learner = ToyLearner([1, 1])
    train(FedAvg(), [learner], START, rounds=3)
    assert [call["round_"] for call in learner.calls] == [0, 1, 2]


@pytest.mark.parametrize("dead", names(3))
def test_any_peer_may_die_at_its_ask(dead: str) -> None:
    method = FedAvg(FedAvgConfig(steps=1, lr=1.0))
    learners = dict(zip(names(3), [ToyLearner([x, 0]) for x in (1, 2, 4)], strict=True))
    ended = run_round(
        {p: method.round(method.init(START.copy()), learners[p], 0) for p in learners},
        drops={p: 0 for p in learners if p == dead},
    )
    expected = np.mean([learner.target[0] for p, learner in learners.items() if p != dead])
    assert {float(state.params[0]) for state, _ in ended.results.values()} == {expected}
