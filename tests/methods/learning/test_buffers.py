"""A model's buffers, such as the variances of batch norm: averaged by everybody, and stepped by nobody."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from exchange import CodedRun, Exchange
from lockstep import run_round, train
from torch import nn

from shoal.crypto.keys import PeerId
from shoal.gossip import sequence as numbers
from shoal.gossip.averaging.push_sum import PushSum, PushSumConfig
from shoal.gossip.averaging.tensor_codecs import CODECS, Feedback
from shoal.methods.base import State
from shoal.methods.diloco import MOMENTUM, DiLoCo, DiLoCoConfig
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedcompress.method import FedCompress, FedCompressConfig
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.model_tensors import count_buffers
from shoal.methods.learning.task import Task
from shoal.methods.params import views


class Scaled(Task):
    """Batch norm on inputs whose variance is near nothing, as it is after a few rounds of training."""

    def __init__(self, scale: float = 1e-3, seed: int = 0) -> None:
        self.x = scale * torch.randn(64, 6, generator=torch.Generator().manual_seed(seed))

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 300), nn.BatchNorm1d(300), nn.ReLU(), nn.Linear(300, 2))

    def train_data(self) -> Any:
        return self.x, (self.x.sum(1) > 0).long()

    def test_data(self) -> Any:
        return self.train_data()


def variances(learner: TorchLearner, state: State) -> Any:
    return views(state.params, learner.manifest)["1.running_var"]


def test_diloco_steps_params_and_takes_the_mean_of_buffers_by_hand() -> None:
    config = DiLoCoConfig(outer_lr=0.5, outer_momentum=0.5)
    before = State(np.array([1, 1], np.float32), {MOMENTUM: np.zeros(2, np.float32)}, buffers=1)
    steps = {
        peer: DiLoCo(config).outer(before, np.array([trained, trained], np.float32), 1.0)
        for peer, trained in ((PeerId("a"), 0.0), (PeerId("b"), 0.5))
    }
    after, _ = run_round(steps).results[PeerId("a")]
    # The gradient is 0.75: v = 0.75, and the step 0.5 · (0.75 + 0.5 · 0.75).
    assert after.params.tolist() == [1 - 0.5625, 0.25]
    assert after.shared[MOMENTUM].tolist() == [0.75, 0]
    assert after.buffers == 1


def test_no_variance_becomes_negative_under_diloco() -> None:
    learners = [TorchLearner(Scaled(seed=seed)) for seed in range(2)]
    states, reports = train(DiLoCo(DiLoCoConfig(steps=10, lr=0.01)), learners, learners[0].initial, rounds=8)
    assert variances(learners[0], states[0]).min() >= 0
    assert np.isfinite(learners[0].evaluate(states[0].params)["accuracy"])
    assert np.isfinite([report.loss for round_ in reports for report in round_]).all()


@pytest.mark.parametrize("codec", CODECS)
def test_buffers_are_the_exact_mean_in_every_codec_and_with_feedback(codec: str) -> None:
    methods: Sequence[Any] = [DiLoCo(DiLoCoConfig(steps=5, lr=0.01))]
    if not CODECS[codec].deltas_only:
        methods = [*methods, FedAvg(FedAvgConfig(steps=5, lr=0.01))]
    for method in methods:
        learners = [TorchLearner(Scaled(seed=seed)) for seed in range(2)]
        done = CodedRun(method, learners, codec)
        done.run(6)
        held = list(done.states.values())
        assert held[0].params.tobytes() == held[1].params.tobytes()
        own = [variances(each, State(each._vector.read())) for each in learners]
        np.testing.assert_allclose(variances(learners[0], held[0]), np.mean(own, axis=0), rtol=1e-5)
        assert variances(learners[0], held[0]).min() >= 0


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("exact", [0, 1, 700, 5000, 10_000])
def test_the_end_of_a_vector_travels_as_it_is_wherever_chunks_begin(codec: str, exact: int) -> None:
    dice = np.random.default_rng(exact)
    # Of the same lengths everywhere, so that nothing is capped.
    size = dice.normal(size=10_000).astype(np.float32)
    vectors = [size * dice.choice(np.array([-1, 1], np.float32), 10_000) for _ in range(3)]
    mean = np.mean(np.stack(vectors).astype(np.float64), axis=0)
    feedback = [Feedback(10_000) for _ in vectors]
    exchange = Exchange(vectors, [1.0, 1.0, 1.0], codec, feedback, chunk_numel=512, exact=exact)
    exchange.run()
    assert all(member.result is not None for member in exchange.members.values())
    assert len({vector.tobytes() for vector in vectors}) == 1
    np.testing.assert_allclose(vectors[0][10_000 - exact :], mean[10_000 - exact :], atol=1e-6)
    assert not feedback[0].sent[10_000 - exact :].any()


def test_pairwise_buffers_become_what_the_work_led_to_however_little_a_peer_holds() -> None:
    core = PushSum(2, PushSumConfig(exact=1, chunk_numel=2), numbers.Sequence(0), b"run")
    core.mint(np.array([1, 1], np.float32), 4.0)
    # A neighbour was given most of it, so a step of the whole weight would be four times as long.
    core.sums *= np.float32(0.25)
    core.weights *= 0.25
    held = np.empty(2, np.float32)
    core.read(held)
    core.move(np.array([-0.9, -0.9], np.float32), 4.0)
    # Meanwhile nothing came: the variance is 1 - 0.9, and not 1 - 4 · 0.9.
    core.read(held)
    np.testing.assert_allclose(held, [1 - 4 * 0.9, 0.1], atol=1e-6)


def test_pairwise_buffers_are_a_mean_with_what_came_during_the_work() -> None:
    core = PushSum(1, PushSumConfig(exact=1, chunk_numel=1), numbers.Sequence(0), b"run")
    core.mint(np.array([1], np.float32), 1.0)
    core.read(np.empty(1, np.float32))
    core.sums += np.float32(0.1 * 3)
    core.weights += 3
    core.move(np.array([-1], np.float32), 1.0)
    out = np.empty(1, np.float32)
    core.read(out)
    assert out[0] == pytest.approx((0 + 3 * 0.1) / 4)


def test_buffers_stand_at_the_end_and_are_counted() -> None:
    learner = TorchLearner(Scaled())
    assert [spec.name for spec in learner.manifest][-2:] == ["1.running_mean", "1.running_var"]
    assert learner.buffers == count_buffers(learner.model) == 600


@pytest.mark.parametrize("target", ["delta", "weights"])
def test_fedcompress_averages_buffers_as_they_are(target: Any) -> None:
    config = FedCompressConfig(epochs=1, cluster_epochs=1, lr=0.001, kappa_min=8, kappa_max=8, target=target)
    learners = [TorchLearner(Scaled(seed=seed)) for seed in range(2)]
    states, _ = train(FedCompress(config), learners, learners[0].initial, rounds=2)
    own = [variances(each, State(each._vector.read())) for each in learners]
    assert variances(learners[0], states[0]).min() >= 0
    np.testing.assert_allclose(variances(learners[0], states[0]), np.mean(own, axis=0), rtol=1e-2, atol=1e-7)
