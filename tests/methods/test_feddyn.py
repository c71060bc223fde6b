"""FedDyn: by hand, as FedAvg, and as FedSpeed without the ascent."""

import numpy as np
import pytest
from lockstep import names, run_round, train
from toy_learner import ToyLearner

from shoal.methods.base import State
from shoal.methods.errors import BadOption
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.feddyn import DRIFT, DUAL, FedDyn, FedDynConfig
from shoal.methods.fedspeed import FedSpeed, FedSpeedConfig
from shoal.methods.registry import load_method

START = np.array([0.0], np.float32)


def learners() -> list[ToyLearner]:
    return [ToyLearner([0.3], 2), ToyLearner([-0.7], 5), ToyLearner([2.1], 3)]


def test_two_rounds_by_hand() -> None:
    # Peer 0, target 4, lr 0.5, alpha 1: 0 -> 2 -> 2. Peer 1 stays at 0. Mean 1, D = 1: params 2.
    method = FedDyn(FedDynConfig(steps=2, lr=0.5, alpha=1.0))
    states, _ = train(method, [ToyLearner([4]), ToyLearner([0])], START, rounds=1)
    assert states[0].params.tolist() == [2.0]
    assert states[0].shared[DRIFT].tolist() == [1.0]
    assert [state.private[DUAL].tolist() for state in states] == [[2.0], [0.0]]
    # Peer 0 at 2: -2 + 2 = 0, stays. Peer 1: 2 -> 1 -> 1, dual -1. Mean 1.5, D = 1 - 0.5: params 2.
    states, _ = train(method, [ToyLearner([4]), ToyLearner([0])], START, rounds=2)
    assert states[0].params.tolist() == [2.0]
    assert states[0].shared[DRIFT].tolist() == [0.5]
    assert [state.private[DUAL].tolist() for state in states] == [[2.0], [-1.0]]


def test_without_alpha_it_is_fedavg_bit_for_bit() -> None:
    ours, _ = train(FedDyn(FedDynConfig(steps=3, lr=0.2, alpha=0)), learners(), START, rounds=5)
    plain, _ = train(FedAvg(FedAvgConfig(steps=3, lr=0.2)), learners(), START, rounds=5)
    assert ours[0].params.tobytes() == plain[0].params.tobytes()
    assert not ours[0].private


def test_with_everyone_there_it_is_fedspeed_without_the_ascent() -> None:
    dyn, _ = train(FedDyn(FedDynConfig(steps=3, lr=0.2, alpha=0.3)), learners(), START, rounds=6)
    speed = FedSpeed(FedSpeedConfig(steps=3, lr=0.2, lam=0.3, rho=0))
    same, _ = train(speed, learners(), START, rounds=6)
    np.testing.assert_allclose(dyn[0].params, same[0].params, rtol=1e-5)
    np.testing.assert_allclose(dyn[2].private[DUAL], same[2].private["dual"], rtol=1e-5)


def test_the_common_state_follows_from_the_mean_by_single_float32_operations() -> None:
    dice = np.random.default_rng(0)
    start, drift, target = dice.normal(size=(3, 1000)).astype(np.float32)
    method = FedDyn(FedDynConfig(steps=1))
    (peer,) = names(1)
    learner = ToyLearner(target.tolist())
    ended = run_round({peer: method.round(State(start, {DRIFT: drift}), learner, 0)})
    state = ended.results[peer][0]
    mean = learner.train(start, steps=1, lr=0.1, batch_size=32, proximal=0.1).params
    for i in range(1000):
        assert state.shared[DRIFT][i] == drift[i] + (mean[i] - start[i])
        assert state.params[i] == mean[i] + state.shared[DRIFT][i]


def test_buffers_are_averaged_alone() -> None:
    method = FedDyn(FedDynConfig(steps=2, lr=0.5, alpha=1.0))
    peers = names(2)
    start = State(np.zeros(2, np.float32), {DRIFT: np.zeros(2, np.float32)}, buffers=1)
    both = {peers[0]: ToyLearner([4, 4]), peers[1]: ToyLearner([0, 0])}
    ended = run_round({p: method.round(start, learner, 0) for p, learner in both.items()})
    state = ended.results[peers[0]][0]
    assert state.params.tolist() == [2.0, 1.0]
    assert state.private[DUAL].tolist() == [2.0, 0.0]
    assert state.shared[DRIFT].tolist() == [1.0, 0.0]


def test_unlike_peers_meet_in_the_optimum_of_their_mean_loss() -> None:
    states, _ = train(FedDyn(FedDynConfig(steps=20, lr=0.2, alpha=0.5)), learners(), START, rounds=200)
    assert float(states[0].params[0]) == pytest.approx((2 * 0.3 - 5 * 0.7 + 3 * 2.1) / 10, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": -0.1}, "feddyn: alpha = -0.1: expected `float` >= 0"),
        ({"alpha": 30}, r"lr \* alpha = 3, .* choose alpha below 20, or lr below 0.0666"),
    ],
)
def test_bad_hyperparameters_are_refused_with_what_to_choose(options: dict[str, float], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        load_method("feddyn", options)
