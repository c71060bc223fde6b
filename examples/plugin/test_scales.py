"""How a method is tried without a network: python -m pytest examples/plugin."""

import numpy as np
import pytest
import torch
from shoal_scales.method import Scales, ScalesConfig
from torch import nn

import shoal


def tasks(count: int) -> list[shoal.Task]:
    return [shoal.load_task("shifted", {"share": f"{i + 1}/{count}"}) for i in range(count)]


def test_what_was_pre_trained_stays_and_the_pictures_are_learned() -> None:
    before, after = (shoal.lockstep(Scales(), tasks(3), rounds) for rounds in (1, 10))
    assert after.accuracy > before.accuracy + 0.1
    assert after.learners[0].manifest == before.learners[0].manifest
    # Two layers of 64 scales, and a head of 64 by 10 with its biases.
    assert after.states[0].params.size == 2 * 64 + 64 * 10 + 10
    assert np.array_equal(after.states[0].params, after.states[2].params)


def test_with_scales_of_one_the_model_is_what_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(5, 4)
    plain = model(x)
    assert Scales().prepare(model) == {"0.scale", "2.weight", "2.bias"}
    assert torch.equal(model(x), plain)


def test_a_model_that_has_nothing_to_scale_is_refused() -> None:
    with pytest.raises(shoal.BadTask, match="nothing to scale"):
        Scales(ScalesConfig(steps=1)).prepare(nn.Linear(4, 2))
