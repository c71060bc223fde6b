"""FedProx: by hand, at μ = 0, and how near it keeps its peers."""

import numpy as np
from lockstep import train
from toy_learner import ToyLearner

from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedprox import FedProx, FedProxConfig

START = np.array([0.0], np.float32)


def test_one_round_by_hand() -> None:
    # From 0 to target 4 with lr 0.5: 2. There the loss pulls by 2 - 4 = -2 and the term back by 1 · 2:
    # the second step stays at 2. Without the term it would reach 3.
    method = FedProx(FedProxConfig(steps=2, lr=0.5, mu=1.0))
    states, _ = train(method, [ToyLearner([4])], START, rounds=1)
    assert states[0].params.tolist() == [2.0]


def test_without_mu_it_is_fedavg_bit_for_bit() -> None:
    def learners() -> list[ToyLearner]:
        return [ToyLearner([0.3], 2), ToyLearner([-0.7], 5)]

    prox, _ = train(FedProx(FedProxConfig(steps=3, mu=0.0)), learners(), START, rounds=5)
    plain, _ = train(FedAvg(FedAvgConfig(steps=3)), learners(), START, rounds=5)
    assert prox[0].params.tobytes() == plain[0].params.tobytes()


def test_a_stronger_pull_keeps_peers_nearer_together() -> None:
    ends = []
    for mu in (0.0, 0.5, 2.0):
        learner = ToyLearner([10])
        trained = FedProx(FedProxConfig(steps=20, lr=0.1, mu=mu)).local(
            FedProx().init(START.copy()), learner, 0
        )
        ends.append(float(trained.params[0]))
    assert ends == sorted(ends, reverse=True)
    # The minimum of ½(w − 10)² + w² is 10/3.
    assert abs(ends[2] - 10 / 3) < 0.01


def test_the_loss_falls() -> None:
    _, reports = train(FedProx(), [ToyLearner([1]), ToyLearner([1.5])], START, rounds=4)
    losses = [sum(report.loss for report in round_) for round_ in reports]
    assert losses[-1] < losses[0]
