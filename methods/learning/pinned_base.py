"""The frozen base of a model, put into it from a file: for a node whose task cannot load it itself.

Such a task makes the frozen tensors on torch's meta device, with their shapes and dtypes and without numbers.
They become views of the mapped file (gossip/state/base_blocks.py), so that the base costs its file and no
memory besides; tensors that have a place already are written over.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from shoal.gossip.run_spec import TensorSpec
from shoal.gossip.state.base_blocks import BaseTree
from shoal.methods.base import Array
from shoal.methods.errors import BadTask
from shoal.methods.learning.model_tensors import Staying
from shoal.methods.learning.parts import candidates, tensor_bytes


def lacks_base(model: nn.Module, stays: Staying) -> bool:
    """Tell whether a frozen tensor of a model has no numbers."""
    found = candidates(model)
    return any(found[name].is_meta for name in stays.pinned)


def base_bytes(model: nn.Module, specs: tuple[TensorSpec, ...]) -> Iterator[Array]:
    """Yield the bytes of the frozen tensors, in the order of their names."""
    found = candidates(model)
    for spec in specs:
        yield tensor_bytes(found[spec.name])


def put_base(model: nn.Module, tree: BaseTree, path: Path) -> None:
    """Put the numbers of a file of blocks into the frozen tensors of a model."""
    flat = torch.from_file(str(path), shared=False, size=tree.n_bytes, dtype=torch.uint8)
    found = candidates(model)
    placed: dict[int, torch.Tensor] = {}
    for spec, where in tree.tensors():
        numbers = flat[where].view(getattr(torch, spec.dtype)).reshape(spec.shape)
        tensor = found[spec.name]
        if tensor.is_meta:
            placed[id(tensor)] = numbers
        else:
            with torch.no_grad():
                tensor.copy_(numbers)
    if placed:
        _replace(model, placed)


def _replace(model: nn.Module, placed: dict[int, torch.Tensor]) -> None:
    """Put other tensors in the places of these, under all their names."""
    parameters = {key: nn.Parameter(each, requires_grad=False) for key, each in placed.items()}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) in placed:
                setattr(module, name, parameters[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            if id(buffer) in placed:
                setattr(module, name, placed[id(buffer)])


def need_base(model: nn.Module, stays: Staying) -> None:
    """Refuse a model whose frozen tensors have no numbers.

    Raises:
        BadTask: says what to do.
    """
    if lacks_base(model, stays):
        raise BadTask(
            "the frozen tensors have no numbers (device meta): load them in model(), or fetch them from peers"
            " with --base NAME, which shoal status of a node that has them shows"
        )


def put_zeros(model: nn.Module, stays: Staying) -> None:
    """Give frozen tensors without numbers zeros, for a look at all the rest of a task."""
    found = candidates(model)
    lacking = [found[name] for name in stays.pinned if found[name].is_meta]
    _replace(model, {id(each): torch.zeros(each.shape, dtype=each.dtype) for each in lacking})
