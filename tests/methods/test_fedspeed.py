"""FedSpeed: by hand, as FedAvg, what a dual is, and when it is forgotten."""

import numpy as np
import pytest
from lockstep import names, run_round, train
from toy_learner import ToyLearner

from shoal.methods.base import AllReduce, Me, State
from shoal.methods.errors import BadOption
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedspeed import DUAL, PEERS, FedSpeed, FedSpeedConfig
from shoal.methods.registry import load_method

START = np.array([0.0], np.float32)


def learners() -> list[ToyLearner]:
    return [ToyLearner([0.3], 2), ToyLearner([-0.7], 5), ToyLearner([2.1], 3)]


def test_two_rounds_by_hand() -> None:
    # Peer 0, target 4, lr 0.5, lam 1: 0 -> 2 (gradient -4); then -2 + 1 · (2 - 0) = 0: it stays. Move 2,
    # dual 2. Peer 1, target 0: stays at 0, dual 0. Mean of 2 + 2 and 0 + 0: 2.
    method = FedSpeed(FedSpeedConfig(steps=2, lr=0.5, lam=1.0, rho=0.0))
    states, _ = train(method, [ToyLearner([4]), ToyLearner([0])], START, rounds=1)
    assert [state.params.tolist() for state in states] == [[2.0], [2.0]]
    assert [state.private[DUAL].tolist() for state in states] == [[2.0], [0.0]]
    # From 2: peer 0's gradient is -2 + 2 = 0, so it stays: dual 2, sends 4. Peer 1: 2 -> 1, where the
    # gradient is 1 + (1 - 2) = 0: move -1, dual -1, sends 0. Mean 2: the optimum of both, where duals
    # cancel no pull yet.
    states, _ = train(method, [ToyLearner([4]), ToyLearner([0])], START, rounds=2)
    assert states[0].params.tolist() == [2.0]
    assert [state.private[DUAL].tolist() for state in states] == [[2.0], [-1.0]]


def test_the_gradient_is_taken_uphill() -> None:
    # Gradient -4, uphill at -1: gradient -5. One step of 0.5: 2.5.
    method = FedSpeed(FedSpeedConfig(steps=1, lr=0.5, lam=0.0, rho=1.0))
    states, _ = train(method, [ToyLearner([4])], START, rounds=1)
    assert states[0].params.tolist() == [2.5]


def test_without_pull_and_ascent_it_is_fedavg_bit_for_bit() -> None:
    ours, _ = train(FedSpeed(FedSpeedConfig(steps=3, lr=0.2, lam=0, rho=0)), learners(), START, rounds=5)
    plain, _ = train(FedAvg(FedAvgConfig(steps=3, lr=0.2)), learners(), START, rounds=5)
    assert ours[0].params.tobytes() == plain[0].params.tobytes()
    assert not ours[0].private


def test_a_dual_is_the_sum_of_the_peers_own_moves_and_the_mean_of_what_is_sent() -> None:
    method = FedSpeed(FedSpeedConfig(steps=3, lr=0.2, lam=0.3, rho=0.0, weighted=False))
    peers = learners()
    states = {peer: method.init(START.copy()) for peer in names(3)}
    sums = dict.fromkeys(states, 0.0)
    for round_ in range(4):
        before = float(states["peer000"].params[0])  # type: ignore[index]
        ended = run_round(
            {p: method.round(states[p], learner, round_) for p, learner in zip(states, peers, strict=True)}
        )
        sent = [ask.vector for ask in ended.asked[0] if isinstance(ask, AllReduce)]
        states = {peer: ended.results[peer][0] for peer in states}
        for peer, vector in zip(states, sent, strict=True):
            dual = float(states[peer].private[DUAL][0])
            sums[peer] += float(vector[0]) - dual - before
            assert dual == pytest.approx(sums[peer], abs=1e-6)
        assert float(states[peer].params[0]) == pytest.approx(np.mean(sent), abs=1e-6)


def test_unlike_peers_meet_in_the_optimum_of_their_mean_loss() -> None:
    """FedAvg of unlike many steps does not: each curvature pulls as often as it is worked on."""
    method = FedSpeed(FedSpeedConfig(steps=20, lr=0.2, lam=0.5, rho=0.0, weighted=False))
    states, _ = train(method, learners(), START, rounds=200)
    assert float(states[0].params[0]) == pytest.approx((0.3 - 0.7 + 2.1) / 3, abs=1e-3)
    assert sum(float(state.private[DUAL][0]) for state in states) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("away", "is_kept"), [(0, True), (10, True), (11, False)])
def test_a_dual_is_forgotten_after_too_many_missed_rounds(away: int, is_kept: bool) -> None:
    method = FedSpeed(FedSpeedConfig(steps=1, lr=0.5, lam=1.0, rho=0.0))
    (peer,) = names(1)
    kept = State(START.copy(), private={DUAL: np.array([8], np.float32), PEERS: np.array([1])})
    ended = run_round({peer: method.round(kept, ToyLearner([4]), 20)}, here={peer: Me(peer, 20, away)})
    # The first step without a dual: to 2. With it: 0 - 0.5 · (-4 + 8) = -2.
    assert ended.results[peer][0].private[DUAL].tolist() == ([6.0] if is_kept else [2.0])


def test_how_many_duals_are_in_the_mean_is_told() -> None:
    method = FedSpeed(FedSpeedConfig(steps=1))
    peers = names(3)
    start = {peer: method.init(START.copy()) for peer in peers}
    first = run_round({p: method.round(start[p], ToyLearner([1]), 0) for p in peers})
    assert {result[1].metrics["dual_coverage"] for result in first.results.values()} == {1.0}
    left = run_round({p: method.round(first.results[p][0], ToyLearner([1]), 1) for p in peers[:2]})
    assert left.results[peers[0]][1].metrics["dual_coverage"] == pytest.approx(2 / 3)


def test_buffers_have_no_dual_and_are_averaged() -> None:
    method = FedSpeed(FedSpeedConfig(steps=2, lr=0.5, lam=1.0, rho=0.0))
    peers = names(2)
    start = State(np.array([0, 0], np.float32), buffers=1)
    both = {peers[0]: ToyLearner([4, 4]), peers[1]: ToyLearner([0, 0])}
    ended = run_round({p: method.round(start, learner, 0) for p, learner in both.items()})
    state = ended.results[peers[0]][0]
    assert state.private[DUAL].tolist() == [2.0, 0.0]
    assert state.params.tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lam": -1}, "fedspeed: lam = -1: expected `float` >= 0"),
        ({"rho": 11}, "fedspeed: rho = 11: expected `float` <= 10"),
        ({"lr": 0.5, "lam": 4}, r"lr \* lam = 2, .* choose lam below 4, or lr below 0.5"),
        (
            {"mu": 1},
            "fedspeed has no option mu; it has: steps, lr, batch_size, lam, rho, weighted, forget_after",
        ),
    ],
)
def test_bad_hyperparameters_are_refused_with_what_to_choose(options: dict[str, float], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        load_method("fedspeed", options)
