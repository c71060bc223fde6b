"""The loss of unlearning: bounded, near the old model, and on inputs within a ball."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shoal.methods.efu.unlearning import Unlearning, attacked, forget_loss, unimportance
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Task


class Blobs(Task):
    """Three classes of points, far from each other."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        dice = torch.Generator().manual_seed(0)
        y = torch.arange(60) % 3
        return torch.eye(4)[y] * 2 + 0.2 * torch.randn(60, 4, generator=dice), y


def learned() -> tuple[TorchLearner, np.ndarray[Any, np.dtype[np.float32]]]:
    learner = TorchLearner(Blobs(), seed=0)
    trained = learner.train(learner.initial, steps=60, lr=0.3, batch_size=30)
    return learner, trained.params.copy()


def unlearn(
    strength: float = 1.0, steps: int = 20, lr: float = 1e-2
) -> tuple[TorchLearner, Any, Any, Unlearning]:
    learner, before = learned()
    x, y = learner.data
    objective = Unlearning(
        learner.task, (x[y == 2], y[y == 2]), strength=strength, radius=0.4, attack_steps=5, ascent=False
    )
    after = learner.train(
        before, steps=steps, lr=lr, batch_size=10, optimizer="adamw", objective=objective
    ).params.copy()
    return learner, before, after, objective


def test_it_forgets_what_it_is_given_and_keeps_the_rest() -> None:
    learner, before, after, _ = unlearn(0.1, steps=40, lr=3e-2)
    x, y = learner.data
    forgotten, kept = (x[y == 2], y[y == 2]), (x[y != 2], y[y != 2])
    assert learner.score(before, forgotten)[0] == 20
    assert learner.score(after, forgotten)[0] <= 2
    assert learner.score(after, kept)[0] >= 38


def test_the_change_falls_with_lambda() -> None:
    moved = []
    for strength in (0.0, 1.0, 10.0):
        _, before, after, _ = unlearn(strength)
        moved.append(float(np.linalg.norm(after - before)))
    assert moved[0] > moved[1] > moved[2]


def test_importance_lies_from_0_to_1_within_each_tensor_element_by_element() -> None:
    learner, _, _, objective = unlearn(steps=1)
    assert set(objective.importance) == {name for name, _ in learner.model.named_parameters()}
    for values in objective.importance.values():
        assert float(values.min()) == 0.0
        assert float(values.max()) == 1.0
    assert len(objective.importance["0.weight"].unique()) > 2


def test_importance_by_hand() -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1.0]]))
    # d (w·x)² / dw = 2 (w·x) x: for (1, 0) it is (2, 0), for (1, 2) it is (6, 12).
    found = unimportance(Blobs(), model, torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
    assert found["weight"].tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("radius", [0.1, 0.4])
def test_adversarial_inputs_lie_within_their_ball_and_are_taken_for_the_other_class(radius: float) -> None:
    learner, before = learned()
    learner.predict(before, learner.data[0])
    x, y = learner.data
    other = (y + 1) % 3
    moved = attacked(learner.task, learner.model, x, other, radius, 10)
    assert float((moved - x).flatten(1).norm(dim=1).max()) <= radius * 1.0001
    was, now = (torch.softmax(learner.model(each), -1).gather(1, other[:, None]) for each in (x, moved))
    assert bool((now > was).all())


def test_the_bounded_loss_has_a_floor_and_ascent_has_none() -> None:
    scores = torch.tensor([[50.0, -50.0]])
    assert float(forget_loss(scores, torch.tensor([1]), ascent=False)) == 0.0
    assert float(forget_loss(scores, torch.tensor([1]), ascent=True)) == -100.0
    # And where the model is sure of what it should not know, it is finite.
    assert float(forget_loss(scores, torch.tensor([0]), ascent=False)) < 14
