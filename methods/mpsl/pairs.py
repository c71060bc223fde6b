"""Pairs: generated examples of two modalities each, of which neither tells enough; nothing is downloaded.

    digits_captions    a noisy digit, and six words of a vocabulary of 40; three captions in five tell it
    digits_tones       a noisy digit, and the log spectrum of a tone whose pitch and timbre tell it

The model is the smallest that split learning of transformers makes sense for: a tokenizer per modality at the
front (2 k parameters), two transformer blocks as the body (17 k), a linear head. An example is one row of
float32, the modalities side by side: 64 pixels first.

    Fudala, Tsouvalas, Meratnia, "Fine-tuning Multimodal Transformers on Edge: A Parallel Split Learning
    Approach", https://arxiv.org/abs/2502.06355, whose data sets (COCO-QA, MELD, ...) need a network
"""

import copy
from functools import cache
from typing import Final, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from shoal.methods.errors import BadOption
from shoal.methods.tasks.digits import Labels, load_sets
from shoal.methods.tasks.partition import dirichlet, parse_share
from shoal.methods.tasks.shares import Examples, Sets, SharedData, all_of
from shoal.methods.tasks.tones import BANDS, record

Rows: TypeAlias = npt.NDArray[np.float32]
Use: TypeAlias = Literal["both", "image", "other"]

PIXELS: Final = 64
PATCH: Final = 4
"""Pixels on a side of a patch: four patches per digit."""
NOISE: Final = 0.55
"""Standard deviation that is added to pixels from 0 to 1."""
VIEWS: Final = 2
"""How often a training digit is seen, each time with noise and another modality of its own."""
VOCABULARY: Final = 40
WORDS: Final = 6
OWN_WORDS: Final = 4
"""Words that belong to a digit."""
INFORMATIVE: Final = 0.6
"""Share of the captions that tell the digit; in the others the words are drawn from all."""
PITCHES: Final = (220.0, 247.0, 277.0, 311.0, 349.0)
"""Hertz, in two timbres each."""
TONE_NOISE: Final = 1.5
BAND_TOKENS: Final = 4
CLASSES: Final = 10


class Pairs(SharedData):
    """Which digit is it, from two modalities? The base of the two tasks."""

    def __init__(
        self,
        sets: Sets,
        share: str,
        alpha: float,
        seed: int,
        minimum: int,
        use: Use,
        size: tuple[int, int],
    ) -> None:
        """`sets`: of all nodes. The rest: see the tasks. `size`: width and blocks of the body.

        Raises:
            BadOption: an option makes no sense.
        """
        if use not in ("both", "image", "other"):
            raise BadOption(f"use = {use}: choose both, image or other")
        width, layers = size
        if width % 4 or not 8 <= width <= 4096 or not 1 <= layers <= 64:
            raise BadOption(f"width = {width}, layers = {layers}: choose a multiple of 4 from 8, and 1 to 64")
        mine, peers = parse_share(share)
        labels = sets.train[1]
        parts = dirichlet(labels, peers, alpha=alpha, seed=seed, minimum=minimum)
        super().__init__(sets, all_of(labels, parts[mine]), optimizer="adam")
        self._use: Use = use
        self._size = width, layers

    def tokenizers(self) -> "list[Tokenizer]":
        """Return what makes tokens of each modality, the digit's first."""
        raise NotImplementedError

    def model(self) -> nn.Module:
        """See `Task`."""
        return PairModel(self.tokenizers(), *self._size, use=self._use)

    def seen_by(self, use: Use) -> Self:
        """Return the same examples, of which a model sees one modality or both."""
        seen = copy.copy(self)
        seen._use = use
        return seen


class DigitsCaptions(Pairs):
    """Which digit is it, from a noisy picture and six words?"""

    def __init__(
        self,
        share: str = "1/1",
        alpha: float = 0.5,
        seed: int = 0,
        minimum: int = 16,
        validation: float = 0.0,
        use: Use = "both",
        width: int = 32,
        layers: int = 2,
    ) -> None:
        """`share`, `alpha`, `seed`, `minimum`, `validation`: as for the task digits.

        `use`: both modalities, the image alone, or the other alone. `width`, `layers`: of the body.

        Raises:
            BadOption: an option makes no sense.
        """
        super().__init__(captioned(validation), share, alpha, seed, minimum, use, (width, layers))

    def tokenizers(self) -> "list[Tokenizer]":
        """See `Pairs`."""
        width = self._size[0]
        return [ImageTokens(width), WordTokens(width)]


class DigitsTones(Pairs):
    """Which digit is it, from a noisy picture and a tone?"""

    def __init__(
        self,
        share: str = "1/1",
        alpha: float = 0.5,
        seed: int = 0,
        minimum: int = 16,
        validation: float = 0.0,
        use: Use = "both",
        width: int = 32,
        layers: int = 2,
    ) -> None:
        """See `DigitsCaptions`.

        Raises:
            BadOption: an option makes no sense.
        """
        super().__init__(sounded(validation), share, alpha, seed, minimum, use, (width, layers))

    def tokenizers(self) -> "list[Tokenizer]":
        """See `Pairs`."""
        width = self._size[0]
        return [ImageTokens(width), ToneTokens(width)]


class Tokenizer(nn.Module):  # type: ignore[misc]
    """Makes tokens, float32 [b, t, width], of one modality's columns, float32 [b, columns]."""

    columns: int
    tokens: int


class ImageTokens(Tokenizer):
    """A digit's four patches, and a class token before them."""

    columns = PIXELS
    tokens = 1 + (8 // PATCH) ** 2

    def __init__(self, width: int) -> None:
        """`width`: of a token."""
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, width)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `Tokenizer`."""
        squares = x.reshape(len(x), 8 // PATCH, PATCH, 8 // PATCH, PATCH)
        patches = self.embed(squares.transpose(2, 3).flatten(3).flatten(1, 2))
        return torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)


class WordTokens(Tokenizer):
    """A caption's words; their numbers are told as floats."""

    columns = WORDS
    tokens = WORDS

    def __init__(self, width: int) -> None:
        """`width`: of a token."""
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `Tokenizer`."""
        found: torch.Tensor = self.embed(x.long().clamp(0, VOCABULARY - 1))
        return found


class ToneTokens(Tokenizer):
    """A spectrum's bands, in runs."""

    columns = BANDS
    tokens = BAND_TOKENS

    def __init__(self, width: int) -> None:
        """`width`: of a token."""
        super().__init__()
        self.embed = nn.Linear(BANDS // BAND_TOKENS, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See `Tokenizer`."""
        found: torch.Tensor = self.embed(x.reshape(len(x), BAND_TOKENS, -1))
        return found


class Front(nn.Module):  # type: ignore[misc]
    """The clients' part: tokens of all modalities one after another (early fusion), and their positions."""

    def __init__(self, tokenizers: list[Tokenizer], width: int, use: Use) -> None:
        """`use`: see `DigitsCaptions`."""
        super().__init__()
        self._places: list[slice] = []
        start = 0
        for each in tokenizers:
            self._places.append(slice(start, start + each.columns))
            start += each.columns
        kept = {"both": slice(0, 2), "image": slice(0, 1), "other": slice(1, 2)}[use]
        self._places = self._places[kept]
        self.tokenizers = nn.ModuleList(tokenizers[kept])
        count = sum(each.tokens for each in tokenizers[kept])
        self.positions = nn.Parameter(torch.randn(1, count, width) * 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return tokens, float32 [b, t, width], of rows [b, columns]."""
        tokens = [
            tokenizer(x[:, place]) for tokenizer, place in zip(self.tokenizers, self._places, strict=True)
        ]
        return torch.cat(tokens, dim=1) + self.positions


class Block(nn.Module):  # type: ignore[misc]
    """A transformer block whose norms stand before attention and before the perceptron."""

    def __init__(self, width: int, heads: int = 4) -> None:
        """`width`: of a token; the hidden layer is twice as wide."""
        super().__init__()
        self._heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return tokens [b, t, width] of tokens [b, t, width]."""
        b, t, width = z.shape
        q, k, v = self.attend(self.norm1(z)).view(b, t, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, width)
        z = z + self.join(mixed)
        out: torch.Tensor = z + self.narrow(functional.gelu(self.widen(self.norm2(z))))
        return out


class Pool(nn.Module):  # type: ignore[misc]
    """The mean over the tokens."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return features [b, width] of tokens [b, t, width]."""
        return z.mean(dim=1)


class PairModel(nn.Module):  # type: ignore[misc]
    """Front, body and head, as methods/mpsl cuts them."""

    def __init__(self, tokenizers: list[Tokenizer], width: int, layers: int, use: Use = "both") -> None:
        """`use`: see `DigitsCaptions`."""
        super().__init__()
        self.front = Front(tokenizers, width, use)
        self.body = nn.Sequential(*(Block(width) for _ in range(layers)), Pool())
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a score per class, float32 [b, 10], of rows [b, columns]."""
        scores: torch.Tensor = self.head(self.body(self.front(x)))
        return scores


def captioned(validation: float = 0.0) -> Sets:
    """Return digits with captions, float32 [n, 70]; `validation`: as for the task digits.

    Raises:
        BadOption: the share is not from 0 to 0.5.
    """
    return _paired("captions", validation)


def sounded(validation: float = 0.0) -> Sets:
    """Return digits with spectra, float32 [n, 128]; `validation`: as for the task digits.

    Raises:
        BadOption: the share is not from 0 to 0.5.
    """
    return _paired("tones", validation)


@cache
def _paired(other: str, validation: float) -> Sets:
    digits = load_sets(validation)
    train, test = _observed(other, digits.train, VIEWS, 7), _observed(other, digits.test, 1, 8)
    held = None if digits.validation is None else _observed(other, digits.validation, 1, 9)
    return Sets(train=train, validation=held, test=test)


def _observed(other: str, digits: Examples, views: int, seed: int) -> tuple[Rows, Labels]:
    """Return pairs of modalities, each digit seen so many times with noise of its own."""
    dice = np.random.default_rng(seed)
    x, y = np.tile(digits[0], (views, 1)), np.tile(digits[1], views)
    pictures = x + NOISE * dice.standard_normal(x.shape)
    others = _captions(y, dice) if other == "captions" else _spectra(y, dice)
    return np.concatenate([pictures, others], axis=1).astype(np.float32), y


def _captions(labels: Labels, dice: np.random.Generator) -> Rows:
    own = labels[:, None] * OWN_WORDS + dice.integers(OWN_WORDS, size=(len(labels), WORDS))
    drawn = dice.integers(VOCABULARY, size=(len(labels), WORDS))
    tells = dice.random(len(labels)) < INFORMATIVE
    return np.where(tells[:, None], own, drawn).astype(np.float32)


def _spectra(labels: Labels, dice: np.random.Generator) -> Rows:
    return record(labels, dice, pitches=PITCHES, noise=TONE_NOISE)
