"""What methods add to the gradient of every step: a constant, and the ascent before it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shoal.methods.learning.gradients import uphill
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Task
from shoal.methods.tasks.digits import Digits


class Line(Task):
    """y = w · x with x = 1, whose loss is ½ (w − 4)²; a frozen number and a buffer stand around w."""

    travels = "all"

    def model(self) -> nn.Module:
        class Model(nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.frozen = nn.Parameter(torch.tensor([7.0]), requires_grad=False)
                self.w = nn.Parameter(torch.tensor([0.0]))
                self.unused = nn.Parameter(torch.tensor([5.0]))
                self.register_buffer("mean", torch.tensor([2.0]))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.w * x

        return Model()

    def train_data(self) -> Any:
        return torch.ones(4, 1), torch.full((4, 1), 4.0)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return 0.5 * (model(x) - y).square().mean()


def test_a_correction_is_added_to_the_gradient_of_what_is_trained() -> None:
    learner = TorchLearner(Line())
    assert learner.initial.tolist() == [7.0, 0.0, 5.0, 2.0]
    correction = np.array([100, 2, 100, 100], np.float32)
    # Gradient -4 + 2, then (1 - 4) + 2: 0 -> 1 -> 1.5. What has no gradient is left as it is.
    trained = learner.train(learner.initial, steps=2, lr=0.5, batch_size=4, correction=correction)
    assert trained.params.tolist() == [7.0, 1.5, 5.0, 2.0]
    assert correction.tolist() == [100, 2, 100, 100]


def test_the_ascent_goes_up_along_the_gradient_and_comes_back() -> None:
    learner = TorchLearner(Line())
    # The gradient at 0 is -4: uphill is -1, where it is -5.
    trained = learner.train(learner.initial, steps=1, lr=0.5, batch_size=4, ascent=1.0)
    assert trained.params.tolist() == pytest.approx([7.0, 2.5, 5.0, 2.0])


def test_the_loss_that_is_told_is_that_at_the_params() -> None:
    learner = TorchLearner(Line())
    assert learner.train(learner.initial, steps=1, lr=0.5, batch_size=4, ascent=1.0).loss == 8.0


def test_weights_come_back_from_uphill_to_the_last_bit() -> None:
    weights = [nn.Parameter(torch.rand(50)), nn.Parameter(torch.rand(3, 3)), nn.Parameter(torch.rand(2))]
    before = [weight.detach().clone() for weight in weights]
    for weight in weights[:2]:
        weight.grad = torch.rand_like(weight)
    gradient = torch.cat([weight.grad.flatten() for weight in weights[:2]])
    with uphill(weights, 0.3):
        moved = [weight.detach() - old for weight, old in zip(weights, before, strict=True)]
        together = torch.cat([part.flatten() for part in moved[:2]])
        assert float(together.norm()) == pytest.approx(0.3, rel=1e-4)
        assert torch.allclose(together / together.norm(), gradient / gradient.norm(), atol=1e-5)
        assert not moved[2].any()
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_without_them_training_is_what_it_was_bit_for_bit() -> None:
    learner = TorchLearner(Digits("1/5"))
    plain = learner.train(learner.initial, steps=3, lr=0.1, batch_size=16)
    nothing = np.zeros_like(learner.initial)
    same = learner.train(learner.initial, steps=3, lr=0.1, batch_size=16, correction=nothing, ascent=0.0)
    assert plain.params.tobytes() == same.params.tobytes()


class Sparse(Line):
    """An embedding with sparse gradients."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Embedding(3, 1, sparse=True))

    def train_data(self) -> Any:
        return torch.zeros(4, dtype=torch.int64), torch.full((4, 1), 4.0)


def test_sparse_gradients_take_a_correction_and_an_ascent() -> None:
    learner = TorchLearner(Sparse())
    start = np.zeros(3, np.float32)
    correction = np.array([0, 1, 0], np.float32)
    trained = learner.train(start, steps=1, lr=0.5, batch_size=4, correction=correction, ascent=1.0)
    assert trained.params.tolist() == pytest.approx([2.5, -0.5, 0.0])
