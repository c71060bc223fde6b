"""LoRA: low-rank changes of frozen linear layers, under the names that Hugging Face PEFT gives them.

    y = W · x + (alpha / r) · B · A · x          A [r, in] drawn, B [out, r] 0 at first

Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen, "LoRA: Low-Rank Adaptation of Large Language Models",
ICLR 2022, https://arxiv.org/abs/2106.09685. A model that PEFT has adapted is used as it is.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

import torch
from torch import nn

from shoal.methods.errors import BadTask

_A: Final = ".lora_A."
_B: Final = ".lora_B."


class Pair(NamedTuple):
    """The names of the two factors of one change."""

    a: str
    b: str


class LoRALinear(nn.Module):  # type: ignore[misc]  # torch has no types here
    """A frozen linear layer with a low-rank change."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        """`alpha`: the change is scaled by alpha / rank. `dropout`: of what goes into the change."""
        super().__init__()
        place = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.base_layer = base
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False, **place)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False, **place)})
        self.scaling = alpha / rank
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output with the change."""
        change = self.lora_B["default"](self.lora_A["default"](self.dropout(x)))
        y: torch.Tensor = self.base_layer(x) + self.scaling * change
        return y

    @property
    def change(self) -> torch.Tensor:
        """The change of the weights, [out, in]."""
        product: torch.Tensor = self.lora_B["default"].weight @ self.lora_A["default"].weight
        return self.scaling * product


def add_lora(model: nn.Module, rank: int, alpha: float, dropout: float, targets: Collection[str]) -> None:
    """Put low-rank changes around linear layers; `targets`: the ends of their names, empty: all but the last.

    Raises:
        BadTask: the model has no such layer.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = [name for name in linear if name.rpartition(".")[2] in targets] if targets else [*linear][:-1]
    if not chosen:
        named = ", ".join(sorted({name.rpartition(".")[2] for name in linear})) or "none at all"
        raise BadTask(f"no linear layer to adapt: targets may name some of {named}")
    for name in chosen:
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, LoRALinear(linear[name], rank, alpha, dropout))


def merge(model: nn.Module) -> None:
    """Add all changes to the weights that they are changes of, and take the changes away."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear)]
    for name, module in found:
        path, _, last = name.rpartition(".")
        with torch.no_grad():
            module.base_layer.weight += module.change
        setattr(model.get_submodule(path), last, module.base_layer)


def pairs_of(names: Iterable[str]) -> Sequence[Pair]:
    """Return the pairs of factors among tensors, by their names, in order."""
    known = list(names)
    held = set(known)
    pairs = (Pair(name, name.replace(_A, _B)) for name in known if _A in name)
    return [pair for pair in pairs if pair.b in held]


def draw_factors(model: nn.Module, pairs: Iterable[Pair]) -> None:
    """Draw A anew where nothing was learned yet, so that it follows from torch's seed alone."""
    tensors = dict(model.named_parameters())
    for pair in pairs:
        if not tensors[pair.b].any():
            nn.init.kaiming_uniform_(tensors[pair.a], a=math.sqrt(5))
