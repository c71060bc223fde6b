"""Adapters and prompts: small modules that are added to a model, around blocks that stay as they are.

    adapter   after each block   x + U · relu(D · x)        U is 0 at first, so nothing changes
    prompt    before the first   P learned tokens; what the last block makes of them is cut off again

Blocks are what a model repeats: the children of an `nn.ModuleList` of equal modules, such as the layers of a
transformer. A model without any has its linear layers, but the last, for blocks; these take no prompt. Hooks
do it: the modules of the model keep their names and their places.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from shoal.methods.errors import BadTask


class Adapter(nn.Module):  # type: ignore[misc]  # torch has no types here
    """A bottleneck beside the identity (Houlsby et al. 2019)."""

    def __init__(self, size: int, width: int) -> None:
        """`size`: numbers of a representation. `width`: of the bottleneck."""
        super().__init__()
        self.down = nn.Linear(size, width)
        self.up = nn.Linear(width, size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x with the change."""
        changed: torch.Tensor = x + self.up(functional.relu(self.down(x)))
        return changed


def add_adapters(model: nn.Module, width: int) -> None:
    """Add an adapter after each block.

    Raises:
        BadTask: the model has no blocks.
    """
    for block in blocks_of(model):
        reference = next(block.parameters())
        block.add_module("adapter", Adapter(_size(block), width).to(reference.device, reference.dtype))
        block.register_forward_hook(_adapt)


def add_prompt(model: nn.Module, length: int) -> None:
    """Let so many learned tokens stand before what goes into the first block, [batch, tokens, size].

    Raises:
        BadTask: the model has no blocks that take a sequence.
    """
    blocks = blocks_of(model)
    if isinstance(blocks[0], nn.Linear):
        raise BadTask("a prompt stands before a sequence, and the model has no blocks: choose another family")
    reference = next(blocks[0].parameters())
    prompt = 0.02 * torch.randn(length, _size(blocks[0]), device=reference.device, dtype=reference.dtype)
    blocks[0].register_parameter("prompt", nn.Parameter(prompt))
    blocks[0].register_forward_pre_hook(_put_before)
    blocks[-1].register_forward_hook(_CutOff(length))


def blocks_of(model: nn.Module) -> Sequence[nn.Module]:
    """Return what a model repeats, in order.

    Raises:
        BadTask: it repeats nothing, and has fewer than two linear layers.
    """
    for module in model.modules():
        repeats = isinstance(module, nn.ModuleList) and len({type(each) for each in module}) == 1
        if repeats and any(True for _ in module[0].parameters()):
            return list(module)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)][:-1]
    if not linear:
        raise BadTask("the model has no blocks and no hidden linear layer: choose the family head or bias")
    return linear


def _size(block: nn.Module) -> int:
    """Return how many numbers a representation has that leaves a block."""
    for module in block.modules():
        if "norm" in type(module).__name__.lower():
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.ndim == 1:
                return int(weight.numel())
    linear = [module for module in block.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise BadTask("a block of the model has neither a norm nor a linear layer, so its width is not known")
    return int(linear[-1].out_features)


def _first(outputs: Any) -> torch.Tensor:
    found: torch.Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return found


def _with_first(outputs: Any, first: torch.Tensor) -> Any:
    return (first, *outputs[1:]) if isinstance(outputs, tuple) else first


def _adapt(block: nn.Module, inputs: Any, outputs: Any) -> Any:
    return _with_first(outputs, block.adapter(_first(outputs)))


def _put_before(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x = inputs[0]
    prompt = block.prompt.expand(x.shape[0], -1, -1)
    return (torch.cat((prompt, x), 1), *inputs[1:])


class _CutOff:
    """Cuts the prompt off again. A class, so that a model can be copied with it."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __call__(self, block: nn.Module, inputs: Any, outputs: Any) -> Any:
        return _with_first(outputs, _first(outputs)[:, self._length :])
