"""Overlap: by hand, as training without a delay where that is the same, and without losing a step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockstep import train, train_overlapped
from toy_learner import ToyLearner

from shoal.methods.base import OuterMethod
from shoal.methods.diloco import DiLoCo, DiLoCoConfig
from shoal.methods.errors import BadOption
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig
from shoal.methods.overlap import Moved, Overlaps, check_delay
from shoal.methods.registry import METHODS, load_method

START = np.array([0.0], np.float32)


def test_two_rounds_by_hand() -> None:
    # Steps go half of the way to the target. Work 0 from 0: 4, 6 and 0, 0. Their mean is 3, on its way.
    # Work 1, one step from 6 and 0: 7 and 0. The mean arrives: 3 + 1 = 4 and 3 + 0 = 3.
    # The second step: 6 and 1.5. Their mean is 3.75.
    method = FedAvg(FedAvgConfig(steps=2, lr=0.5))
    held = train_overlapped(method, [ToyLearner([8]), ToyLearner([0])], START, 2, after=1)
    assert [[state.params.tolist() for state in states] for states in held] == [[[3.0]] * 2, [[3.75]] * 2]


def test_a_mean_that_comes_after_the_local_work_moves_what_it_led_to() -> None:
    # As above, but work 1 ends at 7.5 and 0: 3 + 1.5 and 3 + 0, of which the mean is 3.75 too, by chance
    # of the linear loss; the third round tells them apart. Work 2 from 4.5 and 3: 7.125 and 0.75.
    method = FedAvg(FedAvgConfig(steps=2, lr=0.5))
    held = train_overlapped(method, [ToyLearner([8]), ToyLearner([0])], START, 3, after=3)
    first, second, third = (states[0].params.tolist() for states in held)
    assert (first, second) == ([3.0], [3.75])
    # 3.75 + (7.125 - 4.5) = 6.375 and 3.75 + (0.75 - 3) = 1.5: in the mean 3.9375.
    assert third == [3.9375]


@pytest.mark.parametrize("after", [1, 2, 5])
@pytest.mark.parametrize(
    "method",
    [
        FedAvg(FedAvgConfig(steps=3, lr=0.2)),
        DiLoCo(DiLoCoConfig(steps=3, lr=0.2, outer_lr=1.0, outer_momentum=0.0)),
    ],
)
def test_one_peer_is_plain_training_whenever_its_mean_comes(method: OuterMethod, after: int) -> None:
    held = train_overlapped(method, [ToyLearner([5])], START, 4, after=after)
    alone, _ = train(LocalSGD(LocalSGDConfig(steps=3, lr=0.2)), [ToyLearner([5])], START, rounds=4)
    np.testing.assert_allclose(held[-1][0].params, alone[0].params, rtol=1e-5)


@given(failing=st.sets(st.integers(0, 6)), after=st.integers(1, 4))
def test_rounds_that_fail_lose_no_step(failing: set[int], after: int) -> None:
    method = DiLoCo(DiLoCoConfig(steps=3, lr=0.2, outer_lr=1.0, outer_momentum=0.0))
    held = train_overlapped(method, [ToyLearner([5])], START, 2, after=after, failing=failing)
    attempts = next(n for n in range(2, 20) if n - len([i for i in failing if i < n]) == 2)
    steps = LocalSGDConfig(steps=3 * attempts, lr=0.2)
    alone, _ = train(LocalSGD(steps), [ToyLearner([5])], START, rounds=1)
    np.testing.assert_allclose(held[-1][0].params, alone[0].params, rtol=1e-5)


@given(after=st.integers(1, 4), targets=st.lists(st.floats(-10, 10), min_size=2, max_size=5))
def test_all_peers_hold_the_same_bytes_after_every_round(after: int, targets: list[float]) -> None:
    learners = [ToyLearner([target, 1.0], 1 + i) for i, target in enumerate(targets)]
    method = DiLoCo(DiLoCoConfig(steps=3, lr=0.3))
    held = train_overlapped(method, learners, np.zeros(2, np.float32), 5, after=after, failing={2})
    for states in held:
        assert len({state.params.tobytes() for state in states}) == 1
        assert len({state.shared["outer_momentum"].tobytes() for state in states}) == 1


def test_a_mean_of_equal_params_moves_nobody() -> None:
    params = np.array([1.5, -2.0], np.float32)
    here = np.array([7.0, 8.0], np.float32)
    assert np.array_equal(Moved(params, params).apply(here), here)


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_cannot_are_refused_and_those_that_can_are_named(name: str) -> None:
    method = load_method(name, {})
    check_delay(0, method, name)
    if isinstance(method, Overlaps):
        check_delay(1, method, name)
        assert name in ("diloco", "fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedpeft")
    else:
        with pytest.raises(
            BadOption, match=f"{name} cannot train .* take --method diloco, fedavg or fedprox"
        ):
            check_delay(1, method, name)


def test_a_longer_delay_is_refused() -> None:
    with pytest.raises(BadOption, match="delay = 2: choose 0"):
        check_delay(2, FedAvg(), "fedavg")
