"""Models of Hugging Face and Lightning by hand, of a few thousand parameters, and data by arithmetic."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

VOCABULARY = 32


def gpt2(seed: int = 0) -> Any:
    """Return a GPT-2 of two layers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config)


def lora(seed: int = 0) -> Any:
    """Return it with adapters of PEFT, which alone are trained."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(gpt2(seed), LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))


class Sentences(Dataset):  # type: ignore[misc]  # torch's classes are unknown to mypy
    """Rows that count upwards, from a start and by a step that follow from their number."""

    def __init__(self, length: int = 64, share: int = 0) -> None:
        """`share`: which of the shares of different rows."""
        self._length, self._share = length, share

    def __len__(self) -> int:
        """Return how many there are."""
        return self._length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return one row."""
        step = 1 + (index + self._share) % 5
        row = (torch.arange(8) * step + index * 7 + self._share) % VOCABULARY
        return {"input_ids": row, "labels": row}


def mlp(seed: int = 0) -> nn.Module:
    """Return a small classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def points(share: int, length: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Return [length, 8] and labels that a linear rule gives them."""
    dice = torch.Generator().manual_seed(share)
    x = torch.randn(length, 8, generator=dice)
    return x, x[:, :4].argmax(1)


def tokenizer() -> Any:
    """Return a tokenizer of single letters, by hand."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", *"abcdefghijklmnopqrstuvwxyz"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")
