"""Instructions: a toy grammar of four kinds of questions on words, for a small GPT over bytes. No downloads.

    first: horse\n=h\n        last: horse\n=e\n        length: horse\n=5\n        repeat: horse\n=hh\n

Each node has questions of one kind. Bytes are the tokens, so there is no tokenizer to agree on. Only the
answer counts in the loss: what stands before it is masked. No word of a test stands in training. The model is
random and the same on all nodes, bit for bit on any machine, since nothing is computed to make it. It stands
for a base that was trained elsewhere.
"""

from collections.abc import Iterator
from hashlib import blake2b
from random import Random
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from shoal.methods.errors import BadOption
from shoal.methods.learning.task import Examples, Task, to_device
from shoal.methods.tasks.partition import parse_share

KINDS: Final = ("first", "last", "length", "repeat")
TOKENS: Final = 256
LENGTH: Final = 20
"""Bytes of an example; the rest is filled with zeros."""
IGNORED: Final = -100
"""The target of what does not count."""
TRAIN: Final = 256
TEST: Final = 64
"""Questions of each kind."""
ALPHABETS: Final = {"words": "abcdefghijklmnopqrstuvwxyz", "numbers": "0123456789"}


class Instructions(Task):
    """Answer a question on a word, one kind of question per node."""

    def __init__(
        self,
        share: str = "1/1",
        data: str = "words",
        seed: int = 0,
        width: int = 64,
        layers: int = 2,
    ) -> None:
        """`share`: which kind of question is this node's: 2/4 has the second. `data`: words or numbers.

        `seed`: of the questions. `width`, `layers`: of the model.

        Raises:
            BadOption: an option makes no sense.
        """
        mine, shares = parse_share(share)
        if data not in ALPHABETS:
            raise BadOption(f"data = {data}: choose one of: {', '.join(ALPHABETS)}")
        if width % 4 or not 8 <= width <= 4096 or not 1 <= layers <= 64:
            raise BadOption(f"width = {width}, layers = {layers}: a multiple of 4 from 8 on, and 1 to 64")
        self._width, self._layers = width, layers
        self.kinds = KINDS if shares == 1 else (KINDS[mine % len(KINDS)],)
        """Of this node's questions."""
        self._train = examples(self.kinds, data, TRAIN, f"train {seed} {mine}")
        self._tests = {kind: examples((kind,), data, TEST, "test") for kind in KINDS}
        self._validation = examples(KINDS, data, TEST, "validation")

    def model(self) -> nn.Module:
        """See `Task`."""
        return GPT(self._width, self._layers)

    def train_data(self) -> Examples:
        """See `Task`."""
        return self._train

    def validation_data(self) -> Examples:
        """See `Task`."""
        return self._validation

    def test_data(self) -> Examples:
        """See `Task`."""
        return tuple(torch.cat(each) for each in zip(*self._tests.values(), strict=True))

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Task`: cross entropy of the bytes of the answers."""
        tokens, targets = batch
        scores = model(tokens)[:, :-1]
        return functional.cross_entropy(scores.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED)

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """Measure the share of answers' bytes that are right, and the loss on each kind of question."""
        device = next(model.parameters()).device
        losses = {f"loss_{kind}": to_device(each, device) for kind, each in self._tests.items()}
        found = {name: float(self.loss(model, batch)) for name, batch in losses.items()}
        return {"accuracy": self.accuracy(model, self.test_data()), **found}

    def accuracy(self, model: nn.Module, data: Examples) -> float:
        """See `Task`: of the bytes of the answers."""
        tokens, targets = to_device(data, next(model.parameters()).device)
        wanted = targets[:, 1:]
        right = model(tokens)[:, :-1].argmax(-1) == wanted
        return float(right[wanted != IGNORED].float().mean())


class GPT(nn.Module):  # type: ignore[misc]  # torch has no types here
    """A decoder over bytes: [batch, tokens] -> scores of the next byte, [batch, tokens, 256]."""

    def __init__(self, width: int, layers: int) -> None:
        """`width`: of a representation."""
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, width), nn.Embedding(LENGTH, width)
        self.layers = nn.ModuleList([Layer(width) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, TOKENS, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        scores: torch.Tensor = self.lm_head(self.norm(x))
        return scores


class Layer(nn.Module):  # type: ignore[misc]
    """Attention to what came before, and a perceptron."""

    def __init__(self, width: int) -> None:
        """`width`: of a representation."""
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, nn.Linear(width, width))
        self.up_proj, self.down_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [batch, tokens, width]."""
        y = self.norm_1(x)
        q, k, v = (each(y).unflatten(-1, (4, -1)).transpose(1, 2) for each in self._projections())
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(attended.transpose(1, 2).flatten(2))
        changed: torch.Tensor = x + self.down_proj(functional.gelu(self.up_proj(self.norm_2(x))))
        return changed

    def _projections(self) -> tuple[nn.Module, ...]:
        return self.q_proj, self.k_proj, self.v_proj


def examples(kinds: tuple[str, ...], data: str, count: int, seed: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and targets, int64 [n, LENGTH] each: so many questions of each kind."""
    words = words_of(data, seed)
    rows = [encode(*question(kind, next(words))) for kind in kinds for _ in range(count)]
    tokens, targets = zip(*rows, strict=True)
    return torch.tensor(tokens), torch.tensor(targets)


def words_of(data: str, seed: str) -> Iterator[str]:
    """Yield random words; `seed`: for "test" and "validation" an eighth of all each, else of the others."""
    dice = Random(f"{data} {seed}")
    while True:
        word = "".join(dice.choices(ALPHABETS[data], k=dice.randint(2, 5)))
        place = blake2b(word.encode(), digest_size=1).digest()[0] % 8
        if (place == 0, place == 1) == (seed == "test", seed == "validation"):
            yield word


def question(kind: str, word: str) -> tuple[str, str]:
    """Return a prompt and its answer."""
    answers = {"first": word[0], "last": word[-1], "length": str(len(word)), "repeat": 2 * word[0]}
    return f"{kind}: {word}\n=", f"{answers[kind]}\n"


def encode(prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Return the tokens of an example, and its targets: those of the answer, the rest masked."""
    before, after = list(prompt.encode()), list(answer.encode())
    rest = LENGTH - len(before) - len(after)
    return before + after + [0] * rest, [IGNORED] * len(before) + after + [IGNORED] * rest
