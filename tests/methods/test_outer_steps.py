"""FedAvgM, FedAdam, FedYogi: by hand, as FedAvg, and what all outer steps have in common."""

import tracemalloc

import numpy as np
import pytest
from lockstep import names, run_round, train
from toy_learner import ToyLearner

from shoal.methods.base import AllReduce, Averaged, State, averages_changes
from shoal.methods.diloco import DiLoCo, DiLoCoConfig
from shoal.methods.errors import BadOption
from shoal.methods.fedadam import MEAN, SQUARE, FedAdam, FedAdamConfig
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedavgm import MOMENTUM, FedAvgM, FedAvgMConfig
from shoal.methods.fedyogi import FedYogi, FedYogiConfig
from shoal.methods.outer_step import PIECE, OuterStep
from shoal.methods.registry import load_method

START = np.array([0.0], np.float32)
OUTER: list[OuterStep] = [
    DiLoCo(DiLoCoConfig(steps=3, lr=0.2)),
    FedAvgM(FedAvgMConfig(steps=3, lr=0.2)),
    FedAdam(FedAdamConfig(steps=3, lr=0.2)),
    FedYogi(FedYogiConfig(steps=3, lr=0.2)),
]
PLAIN: list[OuterStep] = [
    FedAvgM(FedAvgMConfig(steps=3, lr=0.2, outer_lr=1, outer_momentum=0)),
    FedAdam(FedAdamConfig(steps=3, lr=0.2, beta1=0, beta2=1, tau=0.05, outer_lr=0.1)),
    FedYogi(FedYogiConfig(steps=3, lr=0.2, beta1=0, beta2=1, tau=0.05, outer_lr=0.1)),
]


def learners() -> list[ToyLearner]:
    return [ToyLearner([0.3], 2), ToyLearner([-0.7], 5), ToyLearner([2.1], 3)]


def kind(method: object) -> str:
    return type(method).__name__


def test_two_rounds_of_fedavgm_by_hand() -> None:
    # Gradient -4, v = -4, step 0.5 · -4: w = 2. Gradient -(4 - 2) = -2, v = 0.5 · -4 - 2 = -4: w = 4.
    method = FedAvgM(FedAvgMConfig(steps=1, lr=1.0, outer_lr=0.5, outer_momentum=0.5))
    states, _ = train(method, [ToyLearner([4]), ToyLearner([4])], START, rounds=1)
    assert states[0].params.tolist() == [2.0]
    assert states[0].shared[MOMENTUM].tolist() == [-4.0]
    states, _ = train(method, [ToyLearner([4]), ToyLearner([4])], START, rounds=2)
    assert states[1].params.tolist() == [4.0]
    assert states[1].shared[MOMENTUM].tolist() == [-4.0]


def test_a_round_of_fedadam_by_hand() -> None:
    # τ 1, so v = 1 at first. Gradient -4: m = 0.5 · 0 - 0.5 · 4 = -2; v = 0.75 · 1 + 0.25 · 16 = 4.75.
    config = FedAdamConfig(steps=1, lr=1.0, outer_lr=0.5, beta1=0.5, beta2=0.75, tau=1.0)
    states, _ = train(FedAdam(config), [ToyLearner([4]), ToyLearner([4])], START, rounds=1)
    assert states[0].shared[MEAN].tolist() == [-2.0]
    assert states[0].shared[SQUARE].tolist() == [4.75]
    assert states[0].params[0] == pytest.approx(0.5 * 2 / (4.75**0.5 + 1), rel=1e-6)


def test_two_rounds_of_fedyogi_by_hand() -> None:
    # v = 1 - 0.25 · 16 · sign(1 - 16) = 5. Then the peers are where they want to be: g = 0, v stays.
    config = FedYogiConfig(steps=1, lr=1.0, outer_lr=0.5, beta1=0.5, beta2=0.75, tau=1.0)
    states, _ = train(FedYogi(config), [ToyLearner([4]), ToyLearner([4])], START, rounds=1)
    assert states[0].shared[SQUARE].tolist() == [5.0]
    assert states[0].params[0] == pytest.approx(0.5 * 2 / (5**0.5 + 1), rel=1e-6)
    # Where g² is below v, v shrinks by as much: 16 - 0.25 · 4 = 15.
    _, memory = FedYogi(config).step(
        np.array([2], np.float32), {MEAN: np.zeros(1, np.float32), SQUARE: np.array([16], np.float32)}
    )
    assert memory[SQUARE].tolist() == [15.0]


@pytest.mark.parametrize("method", PLAIN, ids=kind)
def test_a_step_to_the_mean_itself_is_fedavg_bit_for_bit(method: OuterStep) -> None:
    ours, _ = train(method, learners(), START, rounds=5)
    plain, _ = train(FedAvg(FedAvgConfig(steps=3, lr=0.2)), learners(), START, rounds=5)
    assert ours[0].params.tobytes() == plain[0].params.tobytes()


@pytest.mark.parametrize("method", PLAIN, ids=kind)
def test_a_plain_step_is_the_gradient_whatever_the_memory(method: OuterStep) -> None:
    """So that what is sent may be the params: the step by its formula leads to the same, but for rounding."""
    dice = np.random.default_rng(0)
    memory = dict(method.memory(np.zeros(50, np.float32)))
    for _ in range(3):
        gradient = dice.normal(size=50).astype(np.float32)
        step, after = method.step(gradient.copy(), memory)
        np.testing.assert_allclose(step, gradient, rtol=1e-5)
        memory = dict(after)


@pytest.mark.parametrize("method", OUTER, ids=kind)
def test_what_travels_is_the_change_and_all_agree_on_params_and_memory(method: OuterStep) -> None:
    peers = names(3)
    states = {peer: method.init(np.array([3.0], np.float32)) for peer in peers}
    ended = run_round(
        {p: method.round(states[p], learner, 0) for p, learner in zip(peers, learners(), strict=True)}
    )
    sent = [ask for ask in ended.asked[0] if isinstance(ask, AllReduce)]
    assert [ask.tag for ask in sent] == ["delta"] * 3
    assert float(sent[0].vector[0]) == pytest.approx((0.3 - 3) * (1 - 0.8**3), rel=1e-5)
    after = [ended.results[peer][0] for peer in peers]
    assert len({state.params.tobytes() for state in after}) == 1
    for name in after[0].shared:
        assert len({state.shared[name].tobytes() for state in after}) == 1
    assert after[0].shared.keys() == method.init(START).shared.keys()
    assert averages_changes(method)


def test_diloco_sends_changes_whatever_its_step_is() -> None:
    """Codecs that leave most numbers out carry nothing else."""
    assert averages_changes(DiLoCo(DiLoCoConfig(outer_lr=1, outer_momentum=0)))
    assert not any(averages_changes(method) for method in PLAIN)


@pytest.mark.parametrize("method", [*OUTER, *PLAIN], ids=kind)
def test_buffers_are_averaged_without_a_step(method: OuterStep) -> None:
    peers = names(2)
    start = State(np.zeros(2, np.float32), method.memory(np.zeros(2, np.float32)), buffers=1)
    both = {peers[0]: ToyLearner([4, 4]), peers[1]: ToyLearner([0, 0])}
    ended = run_round({p: method.round(start, learner, 0) for p, learner in both.items()})
    params = ended.results[peers[0]][0].params
    assert float(params[1]) == pytest.approx(2 * (1 - 0.8**3), rel=1e-6)


@pytest.mark.parametrize("method", OUTER, ids=kind)
def test_the_loss_falls(method: OuterStep) -> None:
    _, reports = train(method, [ToyLearner([1]), ToyLearner([1.2])], START, rounds=10)
    losses = [sum(report.loss for report in round_) for round_ in reports]
    assert min(losses) < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fedavgm", {"outer_momentum": 1}, "fedavgm: outer_momentum = 1: expected `float` < 1"),
        ("fedadam", {"tau": 0}, "fedadam: tau = 0: expected `float` > 0"),
        ("fedyogi", {"beta1": 1.5}, "fedyogi: beta1 = 1.5: expected `float` < 1"),
        ("fedadam", {"outer_lr": "fast"}, "fedadam: outer_lr = 'fast': expected `float`"),
    ],
)
def test_bad_hyperparameters_are_refused_with_what_to_choose(
    name: str, options: dict[str, float], words: str
) -> None:
    with pytest.raises(BadOption, match=words):
        load_method(name, options)


@pytest.mark.parametrize("method", OUTER, ids=kind)
def test_a_step_by_pieces_has_the_bytes_of_one_of_the_whole(method: OuterStep) -> None:
    dice, numel, buffers = np.random.default_rng(0), 2 * PIECE + 77, PIECE + 5
    params, trained, change = (dice.normal(size=numel).astype(np.float32) for _ in range(3))
    shared = {name: np.abs(vector + change) for name, vector in method.memory(params).items()}
    stepped = numel - buffers
    state = State(params, shared, buffers=buffers)
    delta = np.subtract(trained, params)
    delta[stepped:] = trained[stepped:]
    gradient = np.negative(delta)
    gradient[stepped:] = 0
    step, memory = method.step(gradient, shared)
    expected = np.subtract(params, step)
    expected[stepped:] = trained[stepped:]
    (name,) = names(1)
    after, _ = run_round({name: method.outer(state, trained.copy(), 1.0)}).results[name]
    assert after.params.tobytes() == expected.tobytes()
    assert {n: v.tobytes() for n, v in after.shared.items()} == {n: v.tobytes() for n, v in memory.items()}


@pytest.mark.parametrize("method", OUTER, ids=kind)
def test_a_step_takes_no_memory_where_the_next_state_has_room(method: OuterStep) -> None:
    numel = 20 * PIECE
    params = np.ones(numel, np.float32)
    shared, room = method.memory(params), State(np.empty_like(params), method.memory(params))
    for vector in (params, *shared.values()):
        vector.flags.writeable = False
    trained = np.full(numel, 2, np.float32)
    steps = method.outer(State(params, shared, room=room), trained, 1.0)
    tracemalloc.start()
    try:
        ask = steps.send(None)
        assert isinstance(ask, AllReduce)
        assert ask.vector is trained
        with pytest.raises(StopIteration) as end:
            steps.send(Averaged(ask.vector, ()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    state, _ = end.value.value
    assert state.params is room.params
    assert peak < params.nbytes
