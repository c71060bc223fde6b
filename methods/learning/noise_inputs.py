"""Noise inputs: generated examples of no class at all, the same for everyone who knows the seed.

For comparing two models without anyone's data (FedCompress distils on such). Coloured noise: sums of cosine
waves whose amplitude falls with their frequency, along every dimension of an input, scaled to 0..1.
"""

from typing import Final

import numpy as np
import torch

WAVES: Final = 6


def coloured_noise(shape: tuple[int, ...], count: int, seed: int) -> torch.Tensor:
    """Return inputs of this shape, float32 [count, *shape] from 0 to 1."""
    dice = np.random.default_rng([seed, 6])
    total = np.zeros((count, *shape))
    for _ in range(WAVES):
        phase = dice.uniform(0, 2 * np.pi, (count, *(1 for _ in shape)))
        frequency = np.zeros((count, *(1 for _ in shape)))
        for axis, size in enumerate(shape):
            wave = dice.exponential(max(1.0, size / 16), count).reshape(-1, *(1 for _ in shape))
            places = np.arange(size).reshape([-1 if i == axis else 1 for i in range(len(shape))])
            phase = phase + 2 * np.pi * wave * places / size
            frequency = frequency + wave
        total += np.cos(phase) / (1 + frequency)
    flat = total.reshape(count, -1)
    low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
    scaled = (flat - low) / np.maximum(high - low, 1e-9)
    return torch.tensor(scaled.reshape(count, *shape), dtype=torch.float32)
