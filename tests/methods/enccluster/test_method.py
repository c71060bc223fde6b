"""EncCluster: everyone holds the same, near what FedAvg reaches, at fewer bytes."""

from typing import Any

import numpy as np
import pytest
import torch
from lockstep import train
from torch import nn
from toy_learner import ToyLearner

from shoal.gossip.errors import TooFew
from shoal.gossip.run_spec import Scalar
from shoal.methods.base import ModelSize, Traffic
from shoal.methods.enccluster.method import EncCluster, EncClusterConfig
from shoal.methods.enccluster.sums import Mode
from shoal.methods.errors import BadOption, BadTask
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.learning.in_lockstep import lockstep
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Task, load_task
from shoal.methods.registry import load_method

WORK: dict[str, Any] = {"steps": 27, "lr": 3e-3}
MODES: tuple[Mode, ...] = ("masked-grid", "fe-dense", "fe-paper")


def method(**options: Any) -> EncCluster:
    return EncCluster(EncClusterConfig(**options))


def toys() -> list[ToyLearner]:
    return [ToyLearner([1, -2, 0.5, 0], 10), ToyLearner([0, 1, 1, 0], 20), ToyLearner([3, 0, 0, 2], 30)]


@pytest.mark.parametrize("mode", MODES)
def test_one_round_by_hand(mode: Mode) -> None:
    start = np.array([0.5, 0.5, 0.5, 0.5], np.float32)
    states, reports = train(method(mode=mode, steps=1, lr=1, clip=8, bits=16, levels=6), toys(), start, 1)
    # One step of rate 1 goes all the way; weights are 2, 4 and 6 of 6, and nothing is clipped.
    wanted = (np.array([2, 4, 6]) @ np.array([toy.target for toy in toys()])) / 12
    for state in states:
        assert state.params == pytest.approx(wanted, abs=2 * 8 / 32767)
        assert np.array_equal(state.params, states[0].params)
    assert reports[0][0].metrics.get("attempts", 1) == 1


def test_no_number_moves_by_more_than_the_clip() -> None:
    start = np.zeros(4, np.float32)
    toys_ = [ToyLearner([100, -100, 0.1, 0]) for _ in range(3)]
    states, reports = train(method(steps=1, lr=1, clip=0.5, bits=16), toys_, start, 1)
    assert states[0].params == pytest.approx([0.5, -0.5, 0.1, 0], abs=1e-4)
    assert reports[0][0].metrics["clipped"] == 0.5


@pytest.mark.parametrize("mapping", ["packed", "bfuse8", "bfuse16"])
def test_the_papers_weights_in_place_of_their_changes(mapping: str) -> None:
    start = np.zeros(4, np.float32)
    options = {"mode": "fe-paper", "target": "weights", "clip": 8, "kappa": 4, "bits": 12}
    states, _ = train(method(**options, mapping=mapping, steps=1, lr=1, levels=6), toys(), start, 1)
    wanted = (np.array([2, 4, 6]) @ np.array([toy.target for toy in toys()])) / 12
    assert states[0].params == pytest.approx(wanted, abs=8 / 2047)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "weights"}, "choose mode = fe-paper"),
        ({"bits": 1}, "choose bits = 2 or more"),
        ({"mode": "plain"}, "choose one of masked-grid | fe-dense | fe-paper"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadOption, match=words.replace("|", r"\|")):
        load_method("enccluster", options)


class Normed(Task):
    """A model with running statistics, or with too many numbers."""

    def __init__(self, *, wide: bool) -> None:
        self.wide = wide

    def model(self) -> nn.Module:
        return nn.Linear(4, 10_000) if self.wide else nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)


def test_models_that_it_does_not_carry_are_refused_with_what_to_do() -> None:
    with pytest.raises(BadTask, match="use GroupNorm or LayerNorm"):
        method().check(TorchLearner(Normed(wide=False)))
    with pytest.raises(BadTask, match="choose mode = masked-grid"):
        method(mode="fe-dense").check(TorchLearner(Normed(wide=True)))
    method().check(TorchLearner(Normed(wide=True)))


def digits() -> list[Task]:
    options: dict[str, Scalar] = {"alpha": 0.5, "seed": 0, "network": "small"}
    return [load_task("digits_compressible", {"share": f"{i + 1}/5", **options}) for i in range(5)]


@pytest.mark.slow
def test_on_digits_it_stays_near_fedavg_at_fewer_bytes() -> None:
    averaged = lockstep(FedAvg(FedAvgConfig(**WORK)), digits(), 20)
    masked = lockstep(method(**WORK, clip=0.1, levels=1), digits(), 20)
    paper = lockstep(method(**WORK, clip=0.1, mode="fe-paper"), digits(), 20)
    assert masked.accuracy >= averaged.accuracy - 0.015
    assert masked.body_bytes == 0
    assert masked.vector_bytes <= 0.30 * averaged.vector_bytes
    assert paper.accuracy >= averaged.accuracy - 0.04
    assert len({state.params.tobytes() for state in masked.states}) == 1


def test_what_is_told_of_its_bytes_is_what_it_sends() -> None:
    tasks = [load_task("digits_compressible", {"share": f"{i + 1}/5", "alpha": 100.0}) for i in range(5)]
    paper = method(mode="fe-paper", steps=1, levels=1)
    told = paper.traffic(ModelSize.of_one_body(4810)).gathered
    assert lockstep(paper, tasks, 1).body_bytes == pytest.approx(told, rel=0.05)
    masked = method(steps=1, levels=1)
    assert masked.traffic(ModelSize.of_one_body(4810)) == Traffic.one_mean(4810)
    # Seven numbers of 9 bits in a word of 64.
    assert lockstep(masked, tasks, 1).vector_bytes == 8 * -(-4810 // 7)


def test_functional_encryption_of_every_number_opens_what_masks_open_to_a_step() -> None:
    start = np.zeros(4, np.float32)
    found = [
        train(method(mode=mode, bits=12, clip=4, steps=3, lr=0.3), toys(), start, 1)[0][0].params
        for mode in ("masked-grid", "fe-dense")
    ]
    assert np.abs(found[0] - found[1]).max() <= 2 * 4 / 2047


def test_two_peers_open_nothing_under_masks() -> None:
    with pytest.raises(TooFew, match="2 of at least 3"):
        train(method(steps=1, lr=1), toys()[:2], np.zeros(4, np.float32), 1)
