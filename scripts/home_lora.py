"""A language model as large as GPT-2 small, with random weights and low-rank changes, for scripts.

What it costs to tune such a model over home lines follows from its sizes, not from what its weights know. So
nothing is downloaded: layers, names and sizes are those of GPT-2 small, and the text is Python of this
repository, a byte a token.
"""

from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from shoal.methods.learning.task import Task

TOKENS: Final = 50257
PLACES: Final = 1024
WIDTH: Final = 768
LAYERS: Final = 12
HEADS: Final = 12
FOLDERS: Final = ("gossip", "node")
"""Of this repository: each friend has the texts of one."""


class Block(nn.Module):  # type: ignore[misc]  # torch has no types here
    """Attention and a small network, as in GPT-2."""

    def __init__(self) -> None:
        """Sizes are those of GPT-2 small."""
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return numbers of the same shape, [batch, tokens, width]."""
        heads = (*x.shape[:2], HEADS, -1)
        q, k, v = (part.view(heads).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).chunk(3, dim=-1))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(mixed.transpose(1, 2).flatten(2))
        y: torch.Tensor = x + self.mlp(self.ln_2(x))
        return y


class Gpt2(nn.Module):  # type: ignore[misc]
    """124,439,808 numbers; the head shares its weights with the embedding."""

    def __init__(self) -> None:
        """Weights are random."""
        super().__init__()
        self.wte, self.wpe = nn.Embedding(TOKENS, WIDTH), nn.Embedding(PLACES, WIDTH)
        for embedding in (self.wte, self.wpe):
            nn.init.normal_(embedding.weight, std=0.02)
        self.h = nn.Sequential(*(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH))
        self.lm_head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return scores of the next token, [batch, tokens, 50257]."""
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        scores: torch.Tensor = self.lm_head(self.h(x))
        return scores


class HomeLora(Task):
    """Say which byte comes next in Python of one folder."""

    def __init__(self, share: str = "1/2", length: int = 32) -> None:
        """`share`: whose texts, of two friends; `length`: tokens of an example."""
        folder = FOLDERS[(int(share.partition("/")[0]) - 1) % len(FOLDERS)]
        paths = sorted((Path(__file__).resolve().parent.parent / folder).rglob("*.py"))
        text = b"".join(path.read_bytes() for path in paths)
        count = (len(text) - 1) // length
        numbers = torch.frombuffer(bytearray(text[: count * length + 1]), dtype=torch.uint8).long()
        self._data = numbers[:-1].view(count, length), numbers[1:].view(count, length)

    def model(self) -> nn.Module:
        """See `Task`."""
        return Gpt2()

    def train_data(self) -> Any:
        """See `Task`."""
        return self._data

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """See `Task`: in nats a byte."""
        tokens, targets = batch
        return functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
