"""DiLoCo: by hand, as FedAvg, and what it keeps to itself."""

import numpy as np
import pytest
from lockstep import train
from toy_learner import ToyLearner

from shoal.methods.base import State
from shoal.methods.diloco import MOMENTUM, DiLoCo, DiLoCoConfig
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig

START = np.array([0.0], np.float32)


def test_two_rounds_by_hand() -> None:
    # Inner steps reach 4, the target. Round 1: gradient -4, v = -4, step 0.5 · (-4 - 0.5 · 4) = -3: w = 3.
    # Round 2: gradient -(4 - 3) = -1, v = 0.5 · -4 - 1 = -3, step 0.5 · (-1 - 1.5) = -1.25: w = 4.25.
    method = DiLoCo(DiLoCoConfig(steps=1, lr=1.0, outer_lr=0.5, outer_momentum=0.5))
    states, _ = train(method, [ToyLearner([4]), ToyLearner([4])], START, rounds=1)
    assert states[0].params.tolist() == [3.0]
    assert states[0].shared[MOMENTUM].tolist() == [-4.0]
    states, _ = train(method, [ToyLearner([4]), ToyLearner([4])], START, rounds=2)
    assert states[1].params.tolist() == [4.25]
    assert states[1].shared[MOMENTUM].tolist() == [-3.0]


def test_outer_steps_of_one_without_momentum_are_fedavg() -> None:
    def learners() -> list[ToyLearner]:
        return [ToyLearner([0.3], 2), ToyLearner([-0.7], 5), ToyLearner([2.1], 3)]

    outer = DiLoCoConfig(steps=3, lr=0.2, outer_lr=1.0, outer_momentum=0.0)
    ours, _ = train(DiLoCo(outer), learners(), START, rounds=5)
    plain, _ = train(FedAvg(FedAvgConfig(steps=3, lr=0.2)), learners(), START, rounds=5)
    np.testing.assert_allclose(ours[0].params, plain[0].params, rtol=1e-5)


def test_one_peer_without_an_outer_optimizer_is_plain_training() -> None:
    config = DiLoCoConfig(steps=3, lr=0.2, outer_lr=1.0, outer_momentum=0.0)
    ours, _ = train(DiLoCo(config), [ToyLearner([5])], START, rounds=4)
    alone, _ = train(LocalSGD(LocalSGDConfig(steps=3, lr=0.2)), [ToyLearner([5])], START, rounds=4)
    np.testing.assert_allclose(ours[0].params, alone[0].params, rtol=1e-6)


@pytest.mark.parametrize(("weighted", "expected"), [(True, 1.0), (False, 2.0)])
def test_peers_count_by_their_examples_or_all_alike(weighted: bool, expected: float) -> None:
    config = DiLoCoConfig(steps=1, lr=1.0, outer_lr=1.0, outer_momentum=0.0, weighted=weighted)
    states, _ = train(DiLoCo(config), [ToyLearner([4], 1), ToyLearner([0], 3)], START, rounds=1)
    assert states[0].params.tolist() == [expected]


def test_the_outer_step_rounds_as_single_float32_operations() -> None:
    dice = np.random.default_rng(0)
    params, trained, velocity = dice.normal(size=(3, 1000)).astype(np.float32)
    steps = DiLoCo().outer(State(params, {MOMENTUM: velocity}), trained.copy(), 1.0)
    ask = next(steps)
    from shoal.methods.base import Averaged

    with pytest.raises(StopIteration) as stop:
        steps.send(Averaged(ask.vector, ()))  # type: ignore[union-attr]
    state, _ = stop.value.value
    m, lr = np.float32(0.9), np.float32(0.7)
    for i in range(1000):
        gradient = -(trained[i] - params[i])
        v = m * velocity[i] + gradient
        assert state.shared[MOMENTUM][i] == v
        assert state.params[i] == params[i] - lr * (gradient + m * v)
    assert state.params.dtype == np.float32


def test_inner_moments_stay_private_and_go_on() -> None:
    states, _ = train(DiLoCo(), [ToyLearner([1]), ToyLearner([2])], START, rounds=3)
    assert states[0].private["count"].tolist() == [3.0]
    assert set(states[0].shared) == {MOMENTUM}


def test_the_loss_falls() -> None:
    config = DiLoCoConfig(steps=5, lr=0.1)
    _, reports = train(DiLoCo(config), [ToyLearner([1]), ToyLearner([1.2])], START, rounds=10)
    losses = [sum(report.loss for report in round_) for round_ in reports]
    assert min(losses) < 0.2 * losses[0]
