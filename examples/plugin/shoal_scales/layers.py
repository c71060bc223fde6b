"""The part that the method adds to a model; it is read where torch is."""

import torch
from torch import nn


class Scaled(nn.Module):
    """A layer, each of whose outputs is multiplied by a number that is trained."""

    def __init__(self, layer: nn.Linear) -> None:
        """With scales of one the model is what it was."""
        super().__init__()
        self.layer = layer
        self.scale = nn.Parameter(torch.ones(layer.out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., outputs]."""
        scaled: torch.Tensor = self.layer(x) * self.scale
        return scaled


def add_scales(model: nn.Module) -> frozenset[str]:
    """Scale every linear layer but the last, in place; return the names of the scales."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][:-1]
    for name in layers:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, Scaled(model.get_submodule(name)))
    return frozenset(f"{name}.scale" for name in layers)
