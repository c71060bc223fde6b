"""Noise inputs: the same for everyone, of the right form, and coloured."""

import pytest
import torch

from shoal.methods.learning.noise_inputs import coloured_noise


@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 8, 8)])
def test_inputs_have_the_shape_and_range_of_pictures(shape: tuple[int, ...]) -> None:
    inputs = coloured_noise(shape, 20, 3)
    assert inputs.shape == (20, *shape)
    assert inputs.dtype == torch.float32
    assert inputs.flatten(1).min(1).values == pytest.approx(0)
    assert inputs.flatten(1).max(1).values == pytest.approx(1)


def test_the_seed_decides() -> None:
    assert torch.equal(coloured_noise((64,), 4, 1), coloured_noise((64,), 4, 1))
    assert not torch.equal(coloured_noise((64,), 4, 1), coloured_noise((64,), 4, 2))


def test_neighbours_are_alike() -> None:
    inputs = coloured_noise((32, 32), 50, 0)
    centred = inputs - inputs.mean()
    assert (centred[..., 1:] * centred[..., :-1]).mean() / centred.square().mean() > 0.5
