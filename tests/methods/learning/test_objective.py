"""Objectives: a loss and batches of one's own, inside the learner's loop."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shoal.methods.errors import BadTask
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.objective import Objective, Penultimate, head_of, shuffled
from shoal.methods.tasks.digits_variants import PartlyLabelledDigits


def learner(labelled: float = 0.3) -> TorchLearner:
    return TorchLearner(PartlyLabelledDigits(share="1/5", labelled=labelled), seed=0)


class Pull(Objective):
    """Pulls the last bias to a scale that is trained along, and notes the order of the calls."""

    def __init__(self, task: Any, data: Any) -> None:
        super().__init__(task, data)
        self.scale = nn.Parameter(torch.ones(()))
        self.calls: list[str] = []

    def local_parameters(self) -> Sequence[nn.Parameter]:
        return [self.scale]

    def batches(self, batch_size: int) -> Iterator[Any]:
        while True:
            yield torch.full((batch_size,), 4.0)

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        self.calls.append("loss")
        distance: torch.Tensor = (model[4].bias - self.scale).square().mean() + (
            self.scale - batch.mean()
        ) ** 2
        return distance

    def before_step(self, model: Any) -> None:
        assert model[4].bias.grad is not None
        self.calls.append("before step")


def test_without_an_objective_it_is_the_task_that_is_trained() -> None:
    one = learner()
    plain = one.train(one.initial, steps=5, lr=0.01, batch_size=16)
    given = one.train(one.initial, steps=5, lr=0.01, batch_size=16, objective=Objective(one.task, one.data))
    assert plain.params.tobytes() == given.params.tobytes()


def test_an_objective_brings_batches_a_loss_and_parameters_that_stay() -> None:
    one = learner()
    pull = Pull(one.task, one.data)
    trained = one.train(one.initial, steps=300, lr=0.3, batch_size=2, optimizer="sgd", objective=pull)
    assert trained.params.shape == one.initial.shape
    assert np.array_equal(trained.params[:-10], one.initial[:-10])
    assert trained.params[-10:] == pytest.approx(4, abs=0.01)
    assert float(pull.scale.detach()) == pytest.approx(4, abs=0.01)
    assert pull.calls == ["loss", "before step"] * 300


def test_a_peer_without_labels_needs_an_objective() -> None:
    one = learner(labelled=0.0)
    assert one.examples == 0
    with pytest.raises(BadTask, match="no labelled examples"):
        one.train(one.initial, steps=1, lr=0.1, batch_size=4)
    pull = Pull(one.task, one.data)
    assert one.train(one.initial, steps=2, lr=0.1, batch_size=4, objective=pull).steps == 2


def test_batches_are_shuffled_over_and_over_and_never_too_large() -> None:
    stream = shuffled(5, 2, torch.Generator().manual_seed(0))
    drawn = [next(stream).tolist() for _ in range(4)]
    assert [len(batch) for batch in drawn] == [2] * 4
    assert len({*drawn[0], *drawn[1]}) == len({*drawn[2], *drawn[3]}) == 4
    assert sorted(next(shuffled(3, 64)).tolist()) == [0, 1, 2]
    assert list(shuffled(0, 4)) == []


def test_the_penultimate_representation_is_what_enters_the_head() -> None:
    one = learner()
    x = one.data[0][:7]
    outputs, hidden = one.predict(one.initial, x)
    assert hidden.shape == (7, 64)
    head = head_of(one.model)
    assert torch.allclose(head(hidden).detach(), outputs)
    with Penultimate(one.model) as seen:
        one.model(x)
    assert torch.equal(seen.z.detach(), hidden)
    with pytest.raises(BadTask, match="no linear layer.*end it in"):
        head_of(nn.ReLU())


def test_a_score_counts_right_answers() -> None:
    one = learner()
    outputs, _ = one.predict(one.initial, one.data[0])
    right = int((outputs.argmax(-1) == one.data[1]).sum())
    assert one.score(one.initial, one.data) == (right, one.examples)
    assert one.score(one.initial, (one.data[0][:0], one.data[1][:0])) == (0, 0)
