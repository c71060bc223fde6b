"""Optimizer memory: what an optimizer carries from round to round, kept whole or not at all.

What an optimizer remembers is its own business: moments, counters, a learning rate that it found itself. So
all of a parameter's state is kept, in whatever types, through the optimizer's own `state_dict`; and of the
parameter groups what the optimizer has changed there itself. A parameter without state, such as one that
never had a gradient, has none afterwards either.

The memory is one array of bytes in torch's format, read back without executing anything. It is made where
somebody reads it: between rounds the optimizer itself goes on (`LiveMemory`), so that moments stay where they
are. After a round that failed it goes on from where it stands.
"""

import copy
import io
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from shoal.methods.base import Deferred

Memory: TypeAlias = Mapping[str, npt.NDArray[Any]]
Groups: TypeAlias = Sequence[Mapping[str, Any]]

MadeOf: TypeAlias = tuple[str, float, Sequence[torch.Tensor]]
"""Name, learning rate and weights of an optimizer."""

KEY: Final = "optimizer"
"""The only name in a memory."""


class BadMemory(Exception):
    """This memory is none of this optimizer's; the text says why."""


def groups_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return copies of the settings of an optimizer's parameter groups, without the parameters."""
    return [
        copy.deepcopy({k: value for k, value in group.items() if k != "params" and is_plain(value)})
        for group in optimizer.param_groups
    ]


def save_memory(
    optimizer: torch.optim.Optimizer, fresh: Groups = ()
) -> tuple[dict[str, npt.NDArray[Any]], str]:
    """Return what an optimizer remembers, and why something is left out (empty: nothing is).

    `fresh`: `groups_of` the optimizer when it was new.
    """
    said, left_out = _said(optimizer, fresh)
    if not said:
        return {}, left_out
    file = io.BytesIO()
    torch.save(said, file)
    return {KEY: np.frombuffer(file.getbuffer(), np.uint8)}, left_out


def _said(optimizer: torch.optim.Optimizer, fresh: Groups) -> tuple[dict[str, Any], str]:
    """Return what an optimizer remembers, as references, and why something is left out."""
    try:
        found = optimizer.state_dict()["state"].items()
    except Exception as error:  # noqa: BLE001  # the user's optimizer may raise anything, and costs no round
        return {}, f"{_name(optimizer)} does not tell its state ({type(error).__name__}: {error})"
    state, left_out = {}, ""
    for place, held in found:
        if is_plain(held):
            state[place] = held
        else:
            left_out = f"{_name(optimizer)} keeps more than numbers for its parameters"
    changed = _changed(groups_of(optimizer), fresh)
    if not state and not any(changed):
        return {}, left_out
    said = {"of": _name(optimizer), "shapes": _shapes(optimizer), "state": state, "groups": changed}
    return said, left_out


class LiveMemory(Deferred):
    """What an optimizer remembers, as long as it lives: see the module's docstring."""

    def __init__(self, optimizer: torch.optim.Optimizer, fresh: Groups, made_of: MadeOf) -> None:
        """`fresh`: `groups_of` the optimizer when it was new."""
        self.optimizer, self.fresh, self._made_of = optimizer, fresh, made_of

    def fits(self, made_of: MadeOf) -> bool:
        """Tell whether an optimizer made of this would be the same one."""
        (*ours, weights), (*theirs, others) = self._made_of, made_of
        return (
            ours == theirs
            and len(weights) == len(others)
            and all(one is other for one, other in zip(weights, others, strict=True))
        )

    @property
    def nbytes(self) -> int:
        """See `Deferred`."""
        return sum(_bytes_of(held) for held in self.optimizer.state.values())

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """Return how it is now, as bytes."""
        return save_memory(self.optimizer, self.fresh)[0][name]

    def __iter__(self) -> Iterator[str]:
        """Return the only name."""
        return iter((KEY,))

    def __len__(self) -> int:
        """Return 1."""
        return 1


def keep_memory(optimizer: torch.optim.Optimizer, fresh: Groups, made_of: MadeOf) -> tuple[Memory, str]:
    """Return what an optimizer remembers as long as it lives, and why something is left out; see above.

    Where something is left out, it is read at once: what starts anew in every round does not live on.
    """
    said, left_out = _said(optimizer, fresh)
    if left_out:
        return save_memory(optimizer, fresh)
    return (LiveMemory(optimizer, fresh, made_of) if said else {}), ""


def _bytes_of(held: Any) -> int:
    if isinstance(held, torch.Tensor):
        return int(held.numel() * held.element_size())
    return sum(map(_bytes_of, held.values())) if isinstance(held, dict) else 0


def load_memory(optimizer: torch.optim.Optimizer, memory: Memory) -> None:
    """Let a new optimizer go on from what `save_memory` returned.

    Raises:
        BadMemory: it is damaged, or of another optimizer or model; the optimizer may be half changed.
    """
    if not memory:
        return
    said = _read(memory)
    if said["of"] != _name(optimizer):
        raise BadMemory(f"it is of {said['of']}, and the optimizer is {_name(optimizer)}")
    if said["shapes"] != _shapes(optimizer):
        raise BadMemory("it is of parameters of other shapes")
    try:
        now = optimizer.state_dict()
        groups = zip(now["param_groups"], said["groups"], strict=True)
        now["param_groups"] = [{**group, **changed} for group, changed in groups]
        now["state"] = said["state"]
        optimizer.load_state_dict(now)
        _keep_types(optimizer, said["state"])
    except Exception as error:  # the user's optimizer may raise anything
        raise BadMemory(f"{type(error).__name__}: {error}") from error


def _read(memory: Memory) -> dict[str, Any]:
    if KEY not in memory:
        raise BadMemory("it was written by an older version")
    try:
        said: dict[str, Any] = torch.load(
            io.BytesIO(memory[KEY].tobytes()), map_location="cpu", weights_only=True
        )
    except Exception as error:  # torch raises what it meets in damaged bytes
        raise BadMemory("it is damaged") from error
    if not isinstance(said, dict) or set(said) != {"of", "shapes", "state", "groups"}:
        raise BadMemory("it was written by another version")
    return said


def _keep_types(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    """Put back types that torch changed to those of the parameters: of masks, counters, float32 moments."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for place, kept in state.items():
        held = optimizer.state.get(parameters[place], {}) if isinstance(place, int) else {}
        for name, value in kept.items():
            found = held.get(name)
            if (
                isinstance(found, torch.Tensor)
                and isinstance(value, torch.Tensor)
                and found.shape == value.shape
                and found.dtype != value.dtype
            ):
                held[name] = value.to(found.device)


def _changed(groups: Groups, fresh: Groups) -> list[dict[str, Any]]:
    """Return what is other than it was when the optimizer was new."""
    if len(groups) != len(fresh):
        return [{} for _ in groups]
    return [
        {
            name: value
            for name, value in group.items()
            if is_plain(value) and (name not in was or not _are_same(value, was[name]))
        }
        for group, was in zip(groups, fresh, strict=True)
    ]


def _are_same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return (
            isinstance(one, torch.Tensor)
            and isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and torch.equal(one.cpu(), other.cpu())
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_are_same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_are_same, one, other))
    return bool(one == other)


def is_plain(value: Any) -> bool:
    """Tell whether a value is numbers, words, and lists and maps of them: what can be read back safely."""
    if isinstance(value, dict):
        names = all(type(key) in (str, int) for key in value)
        return type(value) in (dict, OrderedDict) and names and all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple, torch.Size) and all(map(is_plain, value))
    return type(value) in (torch.Tensor, torch.nn.Parameter, bool, int, float, str, type(None))


def _name(optimizer: torch.optim.Optimizer) -> str:
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[int]]:
    return [list(p.shape) for group in optimizer.param_groups for p in group["params"]]
