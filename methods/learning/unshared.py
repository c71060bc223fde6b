"""Unshared entries: what belongs to a saved model but does not travel, and under which names tensors stand.

Integer buffers, such as batch norm's counters, differ from node to node and stay there; a saved model needs
them all the same, and a node that starts again goes on from them. The same holds for a node's own parts, for
extra state that modules save, and for the second names of tied tensors. They are arrays by name, and one
entry of JSON:

    num_batches_tracked  int64 []        ABOUT  {"aliases": {"head.weight": "embed.weight"}, ...}
"""

import io
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import nn

from shoal.methods.base import Array
from shoal.methods.learning.model_tensors import NOTHING, Staying, naming, pinned_ids, travelling
from shoal.methods.learning.optimizer_memory import is_plain

ABOUT: Final = "shoal"


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What the arrays alone do not tell."""

    aliases: dict[str, str] = {}
    """Second name -> the name under which the tensor travels."""
    packed: tuple[str, ...] = ()
    """Entries that are bytes in torch's format, since no array can hold them."""
    left_out: tuple[str, ...] = ()
    """Tensors that travel, but that the model does not save."""


def read_unshared(model: nn.Module, stays: Staying = NOTHING) -> dict[str, Array]:
    """Return all entries of a model's state that do not travel, but pinned ones: the base has those."""
    bare = naming(model)
    pinned = pinned_ids(model, stays)
    travels = {id(tensor): name for name, tensor in travelling(model, stays).items()}
    arrays: dict[str, Array] = {}
    aliases, packed, seen = {}, [], set()
    for name, value in ((bare(name), v) for name, v in model.state_dict(keep_vars=True).items()):
        if id(value) in travels:
            seen.add(travels[id(value)])
            if name != travels[id(value)]:
                aliases[name] = travels[id(value)]
        elif id(value) in pinned:
            continue
        elif isinstance(value, torch.Tensor) and _has_array(value):
            arrays[name] = value.detach().cpu().numpy().copy()
        elif is_plain(value):
            arrays[name] = _pack(value)
            packed.append(name)
    left_out = tuple(name for name in travels.values() if name not in seen)
    if aliases or packed or left_out:
        about = About(aliases=aliases, packed=tuple(packed), left_out=left_out)
        arrays[ABOUT] = np.frombuffer(msgspec.json.encode(about), np.uint8)
    return arrays


def write_unshared(model: nn.Module, arrays: Mapping[str, Array]) -> None:
    """Put back what `read_unshared` returned, where the model still has a place for it.

    Raises:
        ValueError: it is none of this model's.
    """
    bare = naming(model)
    held = model.state_dict(keep_vars=True)
    found = unpack(arrays)
    wanted = {}
    for name, now in held.items():
        value = found.get(bare(name))
        fits = not isinstance(now, torch.Tensor) or (
            isinstance(value, torch.Tensor) and value.shape == now.shape and value.dtype == now.dtype
        )
        if bare(name) in found and fits:
            wanted[name] = value
    try:
        model.load_state_dict(wanted, strict=False)
    except Exception as error:  # a module of the user's may raise anything
        raise ValueError(f"{type(error).__name__}: {error}") from error


def about(arrays: Mapping[str, Array]) -> About:
    """Return what stands beside the arrays.

    Raises:
        ValueError: it is damaged.
    """
    if ABOUT not in arrays:
        return About()
    try:
        return msgspec.json.decode(arrays[ABOUT].tobytes(), type=About)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{ABOUT} is damaged: {error}") from error


def unpack(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return the entries as a model's state has them.

    Raises:
        ValueError: one is damaged.
    """
    packed = about(arrays).packed
    return {
        name: _unpack(array) if name in packed else torch.from_numpy(array.copy())
        for name, array in arrays.items()
        if name != ABOUT
    }


def _has_array(tensor: torch.Tensor) -> bool:
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    try:
        torch.empty(0, dtype=tensor.dtype).numpy()
    except (TypeError, RuntimeError):  # bfloat16, float8 and the like
        return False
    return True


def _pack(value: Any) -> Array:
    file = io.BytesIO()
    torch.save(value, file)
    return np.frombuffer(file.getvalue(), np.uint8)


def _unpack(array: Array) -> Any:
    try:
        return torch.load(io.BytesIO(array.tobytes()), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it meets in damaged bytes
        raise ValueError("an entry is damaged") from error
