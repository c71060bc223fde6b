"""Speech Commands v2: which of ten words is said, from a local copy of the data set.

Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition", 2018,
https://arxiv.org/abs/1804.03209. Unpack speech_commands_v0.02.tar.gz (2.4 GB) and name the folder:

    shoal start --method fedstar --task speech_commands --task-option folder=speech_commands
        --task-option share=1/5 --task-option labelled=0.05

    FOLDER/yes/0a7c2a8d_nohash_0.wav ...    16 kHz, mono, 16 bit, one second
    FOLDER/testing_list.txt                 which clips are the test set
    FOLDER/validation_list.txt              which clips no node trains on, to choose values on
    FOLDER/_background_noise_/*.wav         silence is cut from these

Twelve classes: ten words, every other word as "unknown", and silence. Features and network are those of
FedSTAR (methods/fedstar): a log-mel spectrogram of the waveform scaled to length 1, and four blocks of
convolutions along frequency and along time, 136,196 parameters.
"""

import wave
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from shoal.methods.errors import BadOption
from shoal.methods.learning.task import Task
from shoal.methods.tasks.label_noise import add_noise, known_subset, noisy_peers
from shoal.methods.tasks.partition import parse_share, uniform

WORDS: Final = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN: Final = len(WORDS)
SILENCE: Final = UNKNOWN + 1
CLASSES: Final = SILENCE + 1
RATE: Final = 16_000
FRAME, HOP, FFT = 400, 160, 1024
MELS: Final = 64
LOW_HZ, HIGH_HZ = 60.0, 7800.0
NOISE_FOLDER: Final = "_background_noise_"
TEST_LIST: Final = "testing_list.txt"
VALIDATION_LIST: Final = "validation_list.txt"
SILENT_SHARE: Final = 0.1
"""Silent clips, as a share of the others that are of one of the ten words, on average."""

Wave = npt.NDArray[np.float64]
Clip = tuple[Path, int, int]
"""A file, where the second in it begins, and its label."""


class SpeechCommands(Task):
    """Which word is it, when few labels are known, or many are wrong?"""

    def __init__(
        self,
        folder: str,
        share: str = "1/1",
        labelled: float = 1.0,
        noise: float = 0.0,
        sparsity: float = 0.7,
        noisy: float = 0.8,
        seed: int = 0,
        limit: int = 0,
    ) -> None:
        """`folder`: of the data set. `share`: ours, such as 2/5. `labelled`: how many labels are known.

        `noise`, `sparsity`, `noisy`: as for the task digits_noisy. `limit`: clips per set at most; 0: all.

        Raises:
            BadOption: an option makes no sense, or the folder holds no such data set.
        """
        mine, peers = parse_share(share)
        train, validation, test = find_clips(Path(folder), seed)
        labels = np.array([label for _, _, label in train])
        part = uniform(len(train), peers, seed=seed, spread=0.25)[mine][: limit or None]
        known = known_subset(labels, labelled, seed=seed)[part]
        level = noise if noisy_peers(peers, noisy, seed=seed)[mine] else 0.0
        given = add_noise(labels[part], CLASSES, level=level, sparsity=sparsity, seed=seed * 10_000 + mine)
        spectra = load([train[place] for place in part])
        self._train = spectra[known], torch.from_numpy(given[known])
        self._unlabelled = spectra[~known]
        self._test = _some(test, limit, seed)
        self._held_out = validation, limit, seed

    def model(self) -> nn.Module:
        """See `Task`."""
        blocks = [_block(before, after) for before, after in ((1, 24), (24, 32), (32, 64), (64, 128))]
        return nn.Sequential(*blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(128, CLASSES))

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return self._train

    def unlabelled_data(self) -> torch.Tensor | None:
        """See `Task`."""
        return self._unlabelled if len(self._unlabelled) else None

    def validation_data(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """See `Task`: read from the folder at each call, since nodes at work have no use for it."""
        return _some(*self._held_out) if self._held_out[0] else None

    def test_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return self._test

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """See `Task`: mean and deviation of every band over time. A pre-trained encoder does better."""
        return torch.cat([x.mean(dim=-1), x.std(dim=-1)], dim=-1).flatten(1)

    def optimizer(self, params: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """See `Task`."""
        return torch.optim.Adam(params, lr=lr)


def find_clips(folder: Path, seed: int) -> tuple[list[Clip], list[Clip], list[Clip]]:
    """Return the clips of training, validation and test, equal on every node that has the same data.

    Without a list of validation clips there are none.

    Raises:
        BadOption: the folder holds no such data set.
    """
    try:
        tests = set((folder / TEST_LIST).read_text("utf-8").split())
    except OSError as error:
        raise BadOption(
            f"folder = {folder}: {TEST_LIST} cannot be read ({error.strerror}); unpack"
            " speech_commands_v0.02.tar.gz there"
        ) from None
    held_out = folder / VALIDATION_LIST
    validations = set(held_out.read_text("utf-8").split()) if held_out.is_file() else set()
    train: list[Clip] = []
    validation: list[Clip] = []
    test: list[Clip] = []
    for path in sorted(folder.glob("*/*.wav")):
        word = path.parent.name
        if word == NOISE_FOLDER:
            continue
        label = WORDS.index(word) if word in WORDS else UNKNOWN
        name = f"{word}/{path.name}"
        chosen = test if name in tests else validation if name in validations else train
        chosen.append((path, 0, label))
    if not (train and test):
        raise BadOption(f"folder = {folder}: no clips for training or none of {TEST_LIST}; unpack it again")
    dice = np.random.default_rng([seed, 7])
    noises = sorted((folder / NOISE_FOLDER).glob("*.wav"))
    for clips in (train, test, validation):
        spoken = sum(label < UNKNOWN for _, _, label in clips)
        clips += _silence(noises, round(SILENT_SHARE * spoken), dice)
    return train, validation, test


def _some(clips: Sequence[Clip], limit: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the spectrograms and labels of so many clips, or of all."""
    chosen = [clips[place] for place in np.random.default_rng(seed).permutation(len(clips))[: limit or None]]
    return load(chosen), torch.tensor([label for _, _, label in chosen], dtype=torch.int64)


def _silence(noises: Sequence[Path], count: int, dice: np.random.Generator) -> list[Clip]:
    if not noises:
        return []
    starts = dice.random(count)
    chosen = [noises[place] for place in dice.integers(len(noises), size=count)]
    return [
        (path, int(start * max(0, _seconds(path) - 1) * RATE), SILENCE)
        for path, start in zip(chosen, starts, strict=True)
    ]


def _seconds(path: Path) -> float:
    with wave.open(str(path)) as file:
        return float(file.getnframes() / RATE)


def read_clip(path: Path, start: int) -> Wave:
    """Return one second of a file, scaled to length 1; what is missing is silent.

    Raises:
        BadOption: it is no wave file of 16 kHz, mono, 16 bit.
    """
    try:
        with wave.open(str(path)) as file:
            if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
                raise BadOption(f"{path} is not of 16 kHz, mono, 16 bit; unpack the data set again")
            file.setpos(min(start, file.getnframes()))
            samples = np.frombuffer(file.readframes(RATE), "<i2").astype(np.float64)
    except (OSError, EOFError, wave.Error) as error:
        raise BadOption(f"{path} is no wave file ({error}); unpack the data set again") from None
    padded = np.pad(samples, (0, RATE - len(samples)))
    return padded / max(float(np.linalg.norm(padded)), 1e-9)


def load(clips: Sequence[Clip]) -> torch.Tensor:
    """Return the spectrograms of clips, float32 [n, 1, 64, 98]."""
    frames = 1 + (RATE - FRAME) // HOP
    out = np.zeros((len(clips), 1, MELS, frames), np.float32)
    for place, (path, start, _) in enumerate(clips):
        out[place, 0] = log_mel(read_clip(path, start))
    return torch.from_numpy(out)


def log_mel(samples: Wave) -> npt.NDArray[np.float64]:
    """Return the logarithms of the mel bands' magnitudes, [64, frames]."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP] * np.hanning(FRAME)
    bands: npt.NDArray[np.float64] = np.log(mel_bands() @ np.abs(np.fft.rfft(frames, FFT)).T + 1e-6)
    return bands


def mel_bands() -> npt.NDArray[np.float64]:
    """Return triangular filters, equally wide in mel, [64, FFT / 2 + 1]."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (LOW_HZ, HIGH_HZ))
    edges = 700 * (10 ** (np.linspace(low, high, MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(FFT, 1 / RATE)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rising, falling), 0, None)


class _SideBySide(nn.Module):  # type: ignore[misc]  # torch's classes are unknown to mypy, see pyproject.toml
    """Two convolutions of one input, channels stacked: along time, and along frequency."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        # Padded by hand: torch warns of "same" for even kernels.
        self.time = nn.Sequential(nn.ZeroPad2d((1, 2, 0, 0)), nn.Conv2d(before, after, (1, 4)), *_rest(after))
        self.frequency = nn.Sequential(
            nn.ZeroPad2d((0, 0, 1, 2)), nn.Conv2d(before, after, (4, 1)), *_rest(after)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.time(x), self.frequency(x)], dim=1)


def _rest(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(4, channels), nn.ReLU()


def _block(before: int, after: int) -> nn.Sequential:
    fuse = nn.Conv2d(2 * after, after, 1)
    return nn.Sequential(_SideBySide(before, after), fuse, *_rest(after), nn.MaxPool2d(2), nn.Dropout(0.1))
