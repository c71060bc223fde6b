"""Parts: which tensors of a model travel, which never change, and which stay on their node.

    params      travels: averaged, hashed, kept and fetched
    base        pinned: never changes. Equal on all peers, since its hash is in the run's name
    own:NAME    stays on its node: trained there, measured, and saved with the node's model

Unless a task says otherwise, what is trained travels and what is frozen is pinned. A floating buffer goes
with the module around it: where all parameters of that are frozen, it is pinned.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Final, Literal, Protocol, TypeAlias

import torch
from torch import nn

from shoal.gossip.run_spec import TensorSpec
from shoal.gossip.state.pinned_hash import pinned_hash
from shoal.methods.base import Array, Prepares
from shoal.methods.errors import BadTask
from shoal.methods.learning.model_tensors import Staying, check_bounds, float_tensors, naming
from shoal.methods.learning.sharded import whole

Travels: TypeAlias = Literal["trained", "all"] | Collection[str] | Callable[[str, torch.Tensor], bool]
"""What travels: what is trained, all, tensors by name, or those of which a function says so."""
Family: TypeAlias = Literal["lora", "bias", "head", "prompt", "adapter"]

PARAMS: Final = "params"
BASE: Final = "base"
OWN: Final = "own:"


def staying(
    model: nn.Module, travels: Travels = "trained", part: Callable[[str], str] = lambda name: ""
) -> Staying:
    """Return which tensors of a model do not travel.

    `part`: says of a tensor's name ``params``, ``base`` or ``own:NAME``, or nothing: then `travels` counts.

    Raises:
        BadTask: `travels` names a tensor that is none, or `part` says something else.
    """
    tensors = candidates(model)
    _check_names(travels, tensors)
    goes = _rule(model, travels)
    pinned, own = set(), {}
    for name, tensor in tensors.items():
        said = part(name) or (PARAMS if goes(name, tensor) else BASE)
        if said == BASE:
            pinned.add(name)
        elif said.startswith(OWN) and len(said) > len(OWN):
            own[name] = said.removeprefix(OWN)
        elif said != PARAMS:
            raise BadTask(f"part({name!r}) is {said!r}: return {PARAMS!r}, {BASE!r}, or {OWN + 'NAME'!r}")
    return Staying(frozenset(pinned), own)


def part_of_own(model: nn.Module, own: Collection[str]) -> Callable[[str], str]:
    """Return what `staying` asks, where tensors of these names are the node's own.

    Raises:
        BadTask: one is no tensor of the model.
    """
    unknown = sorted(set(own) - set(candidates(model)))
    if unknown:
        raise BadTask(f"own names {unknown[0]}, which is no tensor of the model")
    return lambda name: f"{OWN}own" if name in own else ""


class Divides(Protocol):
    """The side of a task that says where tensors belong."""

    travels: Travels

    def model(self) -> nn.Module:
        """See `Task`."""
        ...

    def part(self, name: str) -> str:
        """See `Task`."""
        ...


def stays_of(task: Divides, model: nn.Module) -> Staying:
    """Return which tensors of a task's model do not travel.

    Raises:
        BadTask: see `staying`.
    """
    return staying(model, task.travels, task.part)


def prepared(task: Divides, method: object = None) -> tuple[nn.Module, Staying]:
    """Return a new model of a task as a method wants it, with what does not travel frozen or the node's own.

    Raises:
        BadTask: see `staying`; or the method has no place in the model.
    """
    model = task.model()
    names = method.prepare(model) if isinstance(method, Prepares) else None
    stays = staying(model, task.travels if names is None else names, task.part)
    freeze(model, stays)
    return model, stays


def freeze(model: nn.Module, stays: Staying) -> None:
    """Train nothing that is pinned."""
    for name, tensor in candidates(model).items():
        if name in stays.pinned and tensor.requires_grad:
            tensor.requires_grad_(False)


def check_frozen(model: nn.Module, stays: Staying) -> None:
    """Refuse to pin what is trained.

    Raises:
        BadTask: names the tensor.
    """
    for name, tensor in candidates(model).items():
        if name in stays.pinned and tensor.requires_grad:
            raise BadTask(f"{name} is trained, and travels= leaves it out: freeze it, or let it travel")


def hold(model: nn.Module, stays: Staying) -> None:
    """Let modules whose buffers are pinned use them in training too, as norms do when a model is used."""
    if not stays.pinned:
        return
    bare = naming(model)
    for path, module in model.named_modules():
        names = (f"{path}.{name}" if path else name for name, _ in module.named_buffers(recurse=False))
        if any(bare(name) in stays.pinned for name in names):
            module.training = False


def pinned_of(model: nn.Module, stays: Staying) -> tuple[tuple[TensorSpec, ...], bytes]:
    """Return the manifest of what is pinned, in the order of the names, and its hash; empty if nothing is.

    Raises:
        BadTask: see `check_bounds`.
    """
    specs = pinned_specs(model, stays)
    if not specs:
        return (), b""
    found = candidates(model)
    return specs, pinned_hash((spec, tensor_bytes(found[spec.name]).data) for spec in specs)


def pinned_specs(model: nn.Module, stays: Staying) -> tuple[TensorSpec, ...]:
    """Return the manifest of what is pinned, in the order of the names.

    Raises:
        BadTask: see `check_bounds`.
    """
    found = candidates(model)
    specs = tuple(_spec(name, found[name]) for name in sorted(stays.pinned))
    check_bounds(specs)
    return specs


def select(model: nn.Module, family: Family) -> frozenset[str]:
    """Return the names of a model's tensors of a usual choice, for `Task.travels` or ``travels=``.

    ``lora``: low-rank changes, as Hugging Face PEFT names them. ``adapter``, ``prompt``: modules so named.
    ``head``: the last `nn.Linear`. ``bias``: all biases, and the head.

    Raises:
        BadTask: the model has none.
    """
    tensors = float_tensors(model)
    if family in ("head", "bias"):
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
        head = {id(parameter) for module in last for parameter in module.parameters()}
        found = {name for name, tensor in tensors.items() if id(tensor) in head}
        if family == "bias":
            found |= {name for name in tensors if name.rpartition(".")[2] == "bias"}
    else:
        found = {name for name in tensors if any(family in word for word in name.lower().split("."))}
    if not found:
        raise BadTask(f"the model has no tensor of the family {family}: choose another, or give names")
    return frozenset(found)


def candidates(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all tensors that travel or are pinned: the floating ones, and parameters of any kind."""
    bare = naming(model)
    parameters = {bare(name): tensor for name, tensor in model.named_parameters()}
    return {**float_tensors(model), **parameters}


def _check_names(travels: Travels, tensors: Collection[str]) -> None:
    if isinstance(travels, str):
        if travels not in ("trained", "all"):
            raise BadTask(f"travels = {travels!r}: give 'trained', 'all', a set of names, or a function")
    elif not callable(travels):
        unknown = sorted(set(travels) - set(tensors))
        if unknown:
            raise BadTask(f"travels names {unknown[0]}, which is no tensor of the model")
        if not travels:
            raise BadTask("travels names no tensor: there is nothing to train together")


def _rule(model: nn.Module, travels: Travels) -> Callable[[str, torch.Tensor], bool]:
    if callable(travels):
        return travels
    if not isinstance(travels, str):
        names = frozenset(travels)
        return lambda name, tensor: name in names
    if travels == "all" or all(parameter.requires_grad for parameter in model.parameters()):
        return lambda name, tensor: tensor.is_floating_point()
    frozen = set(_frozen_buffers(model))
    return lambda name, tensor: (
        tensor.requires_grad or not (isinstance(tensor, nn.Parameter) or name in frozen)
    )


def _frozen_buffers(model: nn.Module) -> Iterator[str]:
    """Yield the buffers around which everything is frozen."""
    bare = naming(model)
    modules = dict(model.named_modules())
    for name, _ in model.named_buffers():
        path = name.rpartition(".")[0]
        while path and not any(True for _ in modules[path].parameters()):
            path = path.rpartition(".")[0]
        if not any(parameter.requires_grad for parameter in modules[path].parameters()):
            yield bare(name)


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    return TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def tensor_bytes(tensor: torch.Tensor) -> Array:
    """Return a tensor's numbers in its own dtype, as bytes; a copy only where they lie elsewhere."""
    plain = whole(tensor.detach())
    if plain.layout is not torch.strided:
        plain = plain.to_dense()
    if plain.is_quantized:
        plain = plain.int_repr()
    found: Array = plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return found
