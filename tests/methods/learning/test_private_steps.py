"""Private steps: every example's gradient is clipped and covered by noise, and every step is counted."""

from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shoal.crypto.accounting import Release
from shoal.gossip.policies.privacy import Privacy
from shoal.methods.errors import BadOption, BadTask
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.objective import Objective
from shoal.methods.learning.private_steps import PrivateSteps
from shoal.methods.learning.task import Task

CPU = torch.device("cpu")


class Little(Task):
    """A hundred examples of four numbers in two classes."""

    def __init__(self, norm: bool = False) -> None:
        self._norm = norm
        torch_ = torch.Generator().manual_seed(0)
        self._x = torch.randn(100, 4, generator=torch_)

    def model(self) -> nn.Module:
        middle: nn.Module = nn.BatchNorm1d(8, track_running_stats=False) if self._norm else nn.Tanh()
        return nn.Sequential(nn.Linear(4, 8), middle, nn.Dropout(0.0), nn.Linear(8, 2))

    def train_data(self) -> Any:
        return self._x, (self._x[:, 0] > 0).long()


def steps(noise: float = 1e-5, clip_norm: float = 1.0, seed: int = 1) -> PrivateSteps:
    privacy = Privacy(kind="examples", clip_norm=clip_norm, noise_multiplier=noise)
    return PrivateSteps(privacy, Random(seed).randbytes)


def learner(private: PrivateSteps | None, **options: Any) -> TorchLearner:
    made = TorchLearner(Little(**options))
    made.private = private
    return made


def gradient_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("clip_norm", [1e-3, 0.3, 1e3])
def test_the_gradient_is_the_sum_of_clipped_ones_found_one_by_one(clip_norm: float) -> None:
    made, private = learner(None), steps(clip_norm=clip_norm)
    objective = Objective(made.task, made.data)
    batch = next(private.batches(objective, 80))
    total = torch.zeros(58)
    for row in range(len(batch[0])):
        made.model.zero_grad()
        objective.loss(made.model, tuple(each[row : row + 1] for each in batch)).backward()
        one = gradient_of(made.model)
        total += one * min(1.0, clip_norm / float(one.norm()))
    private.gradient(made.model, objective, batch, CPU)
    assert len(batch[0]) > 64, "more than are in memory at once"
    assert torch.allclose(gradient_of(made.model), total / 80, atol=1e-5 * clip_norm)


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_the_noise_has_the_deviation_that_the_run_says(noise: float) -> None:
    made, private = learner(None), steps(noise, clip_norm=0.2)
    objective = Objective(made.task, made.data)
    empty = tuple(each[:0] for each in made.data)
    next(private.batches(objective, 10))
    found = []
    for _ in range(200):
        private.gradient(made.model, objective, empty, CPU)
        found.append(gradient_of(made.model).numpy())
    assert abs(np.std(found) * 10 / (noise * 0.2) - 1) < 0.03


def test_an_example_is_in_a_step_by_itself_with_the_same_chance() -> None:
    private, made = steps(), learner(None)
    made.data = (torch.arange(100), torch.zeros(100))
    batches = private.batches(Objective(made.task, made.data), 10)
    sizes, counts = [], np.zeros(100)
    for _ in range(2_000):
        places = next(batches)[0].numpy()
        sizes.append(places.size)
        counts[places] += 1
    # Binomial: 100 examples, each with a chance of a tenth.
    assert abs(np.mean(sizes) - 10) < 0.3
    assert abs(np.var(sizes) - 9) < 1.2
    assert abs(counts.mean() - 200) < 5
    assert counts.std() < 20


def test_every_step_is_counted_until_it_is_taken() -> None:
    private = steps(noise=1.5)
    made = learner(private)
    for _ in range(2):
        made.train(made.initial, steps=7, lr=0.1, batch_size=25)
    assert private.take() == (Release(noise_multiplier=1.5, sampling=0.25, count=14),)
    assert private.take() == ()


def test_without_noise_to_speak_of_it_learns_as_plain_training_does() -> None:
    losses = []
    for private in (None, steps(clip_norm=10.0)):
        made = learner(private)
        trained = made.train(made.initial, steps=150, lr=1.0, batch_size=32)
        losses.append(float(made.task.loss(_at(made, trained.params), made.data).detach()))
    assert losses[0] < 0.1
    assert losses[1] < losses[0] + 0.05


def _at(made: TorchLearner, params: Any) -> nn.Module:
    made.evaluate(params)
    made._vector.write(params)
    return made.model


def test_the_noise_is_that_of_the_operating_system_whatever_the_seed() -> None:
    private = PrivateSteps(Privacy(kind="examples"))
    one, two = (
        learner(private).train(learner(None).initial, steps=2, lr=0.1, batch_size=9) for _ in range(2)
    )
    assert not np.array_equal(one.params, two.params)


def test_a_gradient_that_is_not_finite_gives_nothing() -> None:
    made, private = learner(None), steps()
    x, y = made.data
    x[3] = float("inf")
    objective = Objective(made.task, (x, y))
    next(private.batches(objective, 100))
    private.gradient(made.model, objective, (x[3:4], y[3:4]), CPU)
    assert gradient_of(made.model).isfinite().all()
    assert gradient_of(made.model).abs().max() < 1e-5


class Other(Objective):
    """A loss of a method's own."""


class Listed(Objective):
    """Batches that are no tensors."""

    def batches(self, batch_size: int) -> Iterator[Any]:
        yield {"x": torch.zeros(3)}


def test_what_has_no_gradient_of_a_single_example_is_refused() -> None:
    private = steps()
    made = learner(private, norm=True)
    with pytest.raises(BadTask, match="GroupNorm"):
        made.train(made.initial, steps=1, lr=0.1, batch_size=4)
    made = learner(private)
    with pytest.raises(BadTask, match="--method fedavg"):
        made.train(made.initial, steps=1, lr=0.1, batch_size=4, objective=Other(made.task, made.data))
    with pytest.raises(BadOption, match="--method fedavg"):
        made.train(made.initial, steps=1, lr=0.1, batch_size=4, ascent=0.1)
    with pytest.raises(BadTask, match="tuple of tensors"):
        private.gradient(made.model, Objective(made.task, made.data), {"x": torch.zeros(3)}, CPU)
    assert private.take() == ()
