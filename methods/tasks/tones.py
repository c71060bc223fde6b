"""Tones: generated sounds of eight classes, four fundamentals in two timbres; needs no download.

A clip is a tone of 64 ms at 8 kHz with random phase, level and detuning, and noise. What the model sees is
a log spectrum of 64 bands. Fundamentals lie so near that a detuned tone can be taken for its neighbour, so
that a model with few labels errs confidently: the case in which pseudo-labels do harm.

    timbre 0   harmonics 1, 2, 3, ... fall off as 1/n        (a bowed string)
    timbre 1   harmonics 1, 3, 5, ... fall off as 1/n        (a clarinet)
"""

from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from torch import nn

from shoal.methods.tasks.label_noise import Labels, known_subset
from shoal.methods.tasks.partition import parse_share, uniform
from shoal.methods.tasks.shares import Seen, Sets, SharedData

RATE: Final = 8000
SAMPLES: Final = 512
FUNDAMENTALS: Final = (220.0, 247.0, 277.0, 311.0)
"""Hertz; about a whole tone apart."""
HARMONICS: Final = 8
DETUNING: Final = 0.02
"""Standard deviation; a third of a semitone."""
NOISE: Final = 0.7
"""Standard deviation of white noise; a tone at full level has an amplitude of 1."""
BANDS: Final = 64
CLASSES: Final = 8
TRAIN: Final = 1200
VALIDATION: Final = 600
TEST: Final = 600

Spectra = npt.NDArray[np.float32]


class Tones(SharedData):
    """Which tone is it, when only some clips have a label? For FedSTAR."""

    def __init__(
        self, share: str = "1/1", labelled: float = 0.05, seed: int = 0, spread: float = 0.25
    ) -> None:
        """`share`: ours, such as 2/5. `labelled`: how many labels are known. `spread`: of the shares' sizes.

        Raises:
            BadOption: an option makes no sense.
        """
        mine, peers = parse_share(share)
        sets = Sets(train=generate(TRAIN, 0), validation=generate(VALIDATION, 2), test=generate(TEST, 1))
        labels = sets.train[1]
        part = uniform(TRAIN, peers, seed=seed, spread=spread)[mine]
        known = known_subset(labels, labelled, seed=seed)[part]
        super().__init__(sets, Seen(part, labels[part], known), optimizer="adam")

    def model(self) -> nn.Module:
        """See `Task`."""
        return nn.Sequential(
            nn.Linear(BANDS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES)
        )


@cache
def generate(clips: int, seed: int) -> tuple[Spectra, Labels]:
    """Return log spectra, float32 [clips, 64], and labels 0 to 7; the same on every node."""
    dice = np.random.default_rng([seed, 5])
    labels = dice.permutation(np.arange(clips) % CLASSES)
    return record(labels, dice), labels.astype(np.int64)


def record(
    labels: Labels,
    dice: np.random.Generator,
    *,
    pitches: Sequence[float] = FUNDAMENTALS,
    noise: float = NOISE,
) -> Spectra:
    """Return the log spectra of tones, float32 [clips, 64]; labels count pitches, in two timbres each."""
    clips = len(labels)
    pitch = np.array(pitches)[labels // 2] * np.exp(DETUNING * dice.standard_normal(clips))
    time = np.arange(SAMPLES) / RATE
    waves = noise * dice.standard_normal((clips, SAMPLES))
    levels = dice.uniform(0.3, 1.0, clips)
    for n in range(1, HARMONICS + 1):
        sounds = (labels % 2 == 0) | (n % 2 == 1)
        phases = dice.uniform(0, 2 * np.pi, clips)
        waves += (sounds * levels / n)[:, None] * np.sin(
            2 * np.pi * n * pitch[:, None] * time + phases[:, None]
        )
    return log_spectrum(waves)


def log_spectrum(waves: npt.NDArray[np.float64]) -> Spectra:
    """Return the logarithms of the power in 64 bands of equal width, of mean 0 and deviation 1 per clip."""
    power = np.abs(np.fft.rfft(waves * np.hanning(SAMPLES))) ** 2
    bands = np.log(power[:, 1:].reshape(len(waves), BANDS, -1).sum(axis=2) + 1e-6)
    centred = bands - bands.mean(axis=1, keepdims=True)
    spectra: Spectra = (centred / centred.std(axis=1, keepdims=True)).astype(np.float32)
    return spectra
