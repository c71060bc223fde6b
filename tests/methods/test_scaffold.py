"""SCAFFOLD: by hand, as FedAvg, and what the controls add up to."""

import numpy as np
import pytest
from lockstep import names, run_round, train
from toy_learner import ToyLearner

from shoal.methods.base import AllReduce, ModelSize, State
from shoal.methods.errors import BadOption
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.registry import describe, load_method
from shoal.methods.scaffold import CONTROL, Scaffold, ScaffoldConfig

START = np.array([0.0], np.float32)


def learners() -> list[ToyLearner]:
    return [ToyLearner([0.3], 2), ToyLearner([-0.7], 5), ToyLearner([2.1], 3)]


def test_two_rounds_by_hand() -> None:
    # lr 0.5, two steps. Peer 0, target 4: 0 -> 2 -> 3; control (0 - 3) / (2 · 0.5) = -3. Peer 1, target 0:
    # 0, 0.
    method = Scaffold(ScaffoldConfig(steps=2, lr=0.5))
    states, _ = train(method, [ToyLearner([4]), ToyLearner([0])], START, rounds=1)
    assert states[0].params.tolist() == [1.5]
    assert [state.private[CONTROL].tolist() for state in states] == [[-3.0], [0.0]]
    assert states[0].shared[CONTROL].tolist() == [-1.5]
    # From 1.5 with correction -1.5 + 3 = 1.5: gradients -2.5 + 1.5 = -1, then -2 + 1.5 = -0.5: to 2, to 2.25;
    # control -3 + 1.5 + (1.5 - 2.25) = -2.25. Peer 1, correction -1.5: 0, then 0: stays at 1.5; 0 + 1.5 + 0.
    states, _ = train(method, [ToyLearner([4]), ToyLearner([0])], START, rounds=2)
    assert [state.private[CONTROL].tolist() for state in states] == [[-2.25], [1.5]]
    assert states[0].params.tolist() == [(2.25 + 1.5) / 2]
    assert states[0].shared[CONTROL].tolist() == [-0.375]


def test_the_first_round_is_fedavg_bit_for_bit() -> None:
    ours, _ = train(Scaffold(ScaffoldConfig(steps=3, lr=0.2)), learners(), START, rounds=1)
    plain, _ = train(FedAvg(FedAvgConfig(steps=3, lr=0.2)), learners(), START, rounds=1)
    assert ours[0].params.tobytes() == plain[0].params.tobytes()


def test_one_peer_is_fedavg_bit_for_bit() -> None:
    ours, _ = train(Scaffold(ScaffoldConfig(steps=3, lr=0.2)), learners()[:1], START, rounds=5)
    plain, _ = train(FedAvg(FedAvgConfig(steps=3, lr=0.2)), learners()[:1], START, rounds=5)
    assert ours[0].params.tobytes() == plain[0].params.tobytes()


def test_a_global_rate_scales_the_mean_change() -> None:
    method = Scaffold(ScaffoldConfig(steps=2, lr=0.5, global_lr=2.0))
    states, _ = train(method, [ToyLearner([4]), ToyLearner([0])], START, rounds=1)
    assert states[0].params.tolist() == [3.0]


def test_the_common_control_is_the_mean_of_those_present() -> None:
    method = Scaffold(ScaffoldConfig(steps=3, lr=0.2))
    states, _ = train(method, learners(), START, rounds=4)
    weights = np.array([2, 5, 3]) / 10
    mean = sum(weight * state.private[CONTROL] for weight, state in zip(weights, states, strict=True))
    np.testing.assert_allclose(states[0].shared[CONTROL], mean, rtol=1e-6)
    # A peer that leaves leaves nothing behind.
    peers = names(2)
    left = dict(zip(peers, states[:2], strict=True))
    ended = run_round({p: method.round(left[p], learners()[i], 4) for i, p in enumerate(peers)})
    after = [ended.results[peer][0] for peer in peers]
    mean = (2 * after[0].private[CONTROL] + 5 * after[1].private[CONTROL]) / 7
    np.testing.assert_allclose(after[0].shared[CONTROL], mean, rtol=1e-6)


def test_local_work_is_sgd_and_both_vectors_travel() -> None:
    method = Scaffold(ScaffoldConfig(steps=1))
    (peer,) = names(1)
    learner = ToyLearner([1, 2])
    ended = run_round({peer: method.round(method.init(np.zeros(2, np.float32)), learner, 0)})
    assert learner.calls[0]["optimizer"] == "sgd"
    assert [(type(ask), ask.tag) for turn in ended.asked for ask in turn] == [
        (AllReduce, "params"),
        (AllReduce, "control"),
    ]
    assert describe("scaffold", ModelSize.of_one_body(100)).traffic.reduced == 200
    assert describe("fedavg", ModelSize.of_one_body(100)).traffic.reduced == 100


def test_buffers_have_no_control() -> None:
    method = Scaffold(ScaffoldConfig(steps=1, lr=0.5, global_lr=2.0))
    peers = names(2)
    start = State(np.zeros(2, np.float32), {CONTROL: np.zeros(2, np.float32)}, buffers=1)
    both = {peers[0]: ToyLearner([4, 4]), peers[1]: ToyLearner([0, 0])}
    ended = run_round({p: method.round(start, learner, 0) for p, learner in both.items()})
    state = ended.results[peers[0]][0]
    assert state.private[CONTROL].tolist() == [-4.0, 0.0]
    assert state.params.tolist() == [2.0, 1.0]


def test_unlike_peers_meet_in_the_optimum_of_their_mean_loss() -> None:
    states, _ = train(Scaffold(ScaffoldConfig(steps=5, lr=0.1)), learners(), START, rounds=80)
    assert float(states[0].params[0]) == pytest.approx((2 * 0.3 - 5 * 0.7 + 3 * 2.1) / 10, abs=1e-3)


def test_bad_hyperparameters_are_refused_with_what_to_choose() -> None:
    with pytest.raises(BadOption, match="scaffold: global_lr = 0: expected `float` > 0"):
        load_method("scaffold", {"global_lr": 0})
