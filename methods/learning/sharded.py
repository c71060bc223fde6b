"""Sharded tensors: parameters of which each rank of a torchrun holds a piece, as FSDP2 makes them.

A `DTensor` is read and written whole, one at a time, by all ranks of its mesh together. So the rank that
speaks for the others holds the whole vector, and the rest never more than one whole tensor.
"""

from typing import Any

import torch

NAMES = frozenset({"DTensor"})


def is_sharded(tensor: torch.Tensor) -> bool:
    """Tell whether ranks hold pieces of a tensor."""
    return type(tensor).__name__ in NAMES


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor. If it is sharded, all ranks of its mesh must call this."""
    if not is_sharded(tensor):
        return tensor
    sharded: Any = tensor.detach()
    kind = sharded.device_mesh.device_type
    if sharded.device.type != kind:  # offloaded to the CPU, where the mesh cannot gather
        sharded = sharded.to(kind)
    found: torch.Tensor = sharded.full_tensor()
    return found


def put(tensor: torch.Tensor, values: torch.Tensor | None) -> None:
    """Set a sharded tensor to the values that the first rank gives; all ranks of its mesh must call this."""
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = tensor.detach()
    kind = sharded.device_mesh.device_type
    if values is None:
        values = torch.empty(tensor.shape, dtype=tensor.dtype, device=kind)
    pieces = distribute_tensor(values.to(kind, tensor.dtype), sharded.device_mesh, sharded.placements)
    sharded.copy_(pieces.to(sharded.device))


def mesh_size(tensor: torch.Tensor) -> int:
    """Return over how many ranks a sharded tensor is spread."""
    sharded: Any = tensor
    return int(sharded.device_mesh.size())
