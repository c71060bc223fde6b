"""Model tensors: which tensors of a torch model travel, under which names, and the vector they make.

    vector  [ fc.weight | fc.bias | ... | norm.running_mean | norm.running_var ]
              parameters                  buffers: `buffers` numbers at the end, averaged and never stepped

All that is trained travels, or `check_model` refuses the start; so do floating buffers that belong to the
saved model. What is left out of that, pinned or a node's own, is said by `Staying` (parts.py). Integer
buffers, such as batch counters, stay on the node.

Names are those of the bare model: what torch.compile and DDP put before them is left out, so that a node
that compiles its model averages with one that does not.

What travels is float32, also for a model in float16 or bfloat16. `ModelVector` then keeps the float32 vector
of which the model holds the rounded numbers, and reads the model as vector + (model - rounded vector): a
number that training has not changed comes back to the last bit, and rounding is never taken for progress.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

import numpy as np
import torch
from torch import nn

from shoal.gossip.events import Vector
from shoal.gossip.run_spec import MAX_TENSORS, NAME_LENGTH, TENSOR_DIMENSIONS, TensorSpec
from shoal.methods.errors import BadTask
from shoal.methods.learning.sharded import is_sharded
from shoal.methods.overlap import Moved

_WRAPPERS: Final = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}
"""Classes of torch that add nothing to a model but a name: the child that is the model."""
_FLATTENED: Final = "FullyShardedDataParallel"
"""The class of torch that holds a model's parameters as pieces of one flat tensor (FSDP 1)."""
_SHARDED: Final = frozenset({"FlatParameter", "ShardedTensor"})


@dataclass(frozen=True, slots=True)
class Staying:
    """Floating tensors and parameters of a model that do not travel, by name."""

    pinned: frozenset[str] = frozenset()
    """They never change."""
    own: Mapping[str, str] = field(default_factory=dict)
    """Name -> the part of the node's own that it belongs to."""

    def __contains__(self, name: str) -> bool:
        """Tell whether a tensor stays."""
        return name in self.pinned or name in self.own


NOTHING: Final = Staying()


def naming(model: nn.Module) -> Callable[[str], str]:
    """Return what turns a name inside `model` into that inside the bare model."""
    added = set()
    for path, module in model.named_modules(remove_duplicate=False):
        child = _wrapped(module)
        if child:
            added.add(f"{path}.{child}" if path else child)

    def bare(name: str) -> str:
        parts = name.split(".")
        paths = (".".join(parts[: i + 1]) for i in range(len(parts)))
        return ".".join(part for part, path in zip(parts, paths, strict=True) if path not in added)

    return bare if added else str


def _wrapped(module: nn.Module) -> str:
    """Return the name of the child that a module of torch's only wraps, or nothing."""
    for kind in type(module).__mro__:
        if kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch."):
            return _WRAPPERS[kind.__name__]
    return ""


def float_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a model that may travel, in order; a tensor with two names comes once."""
    bare = naming(model)
    saved = model.state_dict(keep_vars=True).keys()
    trained = [(name, t) for name, t in model.named_buffers() if t.requires_grad]
    named = chain(model.named_parameters(), trained, model.named_buffers())
    return {
        bare(name): t for name, t in named if t.is_floating_point() and (t.requires_grad or name in saved)
    }


def travelling(model: nn.Module, stays: Staying = NOTHING) -> dict[str, torch.Tensor]:
    """Return the tensors of a model that travel, in the order of its vector."""
    return {name: tensor for name, tensor in float_tensors(model).items() if name not in stays}


def pinned_ids(model: nn.Module, stays: Staying) -> frozenset[int]:
    """Return the identities of the tensors of a model that are pinned."""
    if not stays.pinned:
        return frozenset()
    bare = naming(model)
    held = chain(model.named_parameters(), model.named_buffers())
    return frozenset(id(tensor) for name, tensor in held if bare(name) in stays.pinned)


def count_buffers(model: nn.Module, stays: Staying = NOTHING) -> int:
    """Return how many of a model's numbers, at the end of its vector, belong to buffers."""
    return sum(t.numel() for t in travelling(model, stays).values() if _is_buffer(t))


def _is_buffer(tensor: torch.Tensor) -> bool:
    return not (isinstance(tensor, nn.Parameter) or tensor.requires_grad)


def manifest(
    model: nn.Module, stays: Staying = NOTHING, *, may_be_sharded: bool = False
) -> tuple[TensorSpec, ...]:
    """Return the manifest of a model.

    Raises:
        BadTask: it has no parameters, something in it is trained but cannot travel, or it is too large.
    """
    check_model(model, may_be_sharded=may_be_sharded)
    found = travelling(model, stays).items()
    if not found:
        raise BadTask("no floating parameter of the model travels; there is nothing to train together")
    # What travels is float32, whatever the model computes in.
    specs = tuple(TensorSpec(name, "float32", tuple(t.shape)) for name, t in found)
    check_bounds(specs)
    return specs


def check_model(model: nn.Module, *, may_be_sharded: bool = False) -> None:
    """Refuse a model of which something is trained that could not travel.

    `may_be_sharded`: ranks that hold pieces of it read and write it together.

    Raises:
        BadTask: names the tensor, and says what to do.
    """
    if any(_FLATTENED in (kind.__name__ for kind in type(module).__mro__) for module in model.modules()):
        raise BadTask(
            "the model is wrapped by FullyShardedDataParallel, which hides its tensors: shard it with"
            " torch.distributed.fsdp.fully_shard (FSDP2), or train with DDP"
        )
    bare = naming(model)
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if is_sharded(tensor) and not may_be_sharded:
            raise BadTask(
                f"{bare(name)} is sharded, and a task trains whole tensors: use shoal.Swarm or"
                " shoal.SwarmOptimizer under torchrun, or train with DDP"
            )
        if reason := _reason_to_stay(tensor):
            raise BadTask(f"{bare(name)} {reason}")


def _reason_to_stay(tensor: torch.Tensor) -> str:
    """Say why a tensor cannot travel though it must, or return nothing."""
    if torch.nn.parameter.is_lazy(tensor):
        return "has no size yet: run one batch through the model before the start"
    if type(tensor).__name__ in _SHARDED:
        return (
            "is a piece of a flat tensor: shard the model with torch.distributed.fsdp.fully_shard (FSDP2),"
            " or train with DDP"
        )
    if hasattr(tensor, "ds_shape"):
        return "is partitioned by DeepSpeed ZeRO-3: use torch.distributed.fsdp.fully_shard (FSDP2) or DDP"
    if not (tensor.requires_grad or isinstance(tensor, nn.Parameter)):
        return ""
    if tensor.is_meta:
        return "has no numbers (device meta): load or initialise the model before the start"
    if not tensor.requires_grad:
        return ""
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        return (
            f"is trained and {kind}, and only real floating numbers travel: hold it as a real parameter"
            " (torch.view_as_real), or freeze it with requires_grad_(False)"
        )
    if tensor.layout is not torch.strided:
        return "is trained and sparse, and only dense tensors travel: hold it as a dense parameter"
    return ""


def check_bounds(specs: Sequence[TensorSpec]) -> None:
    """Refuse a manifest that no node would take.

    Raises:
        BadTask: a tensor's name, its dimensions or the count of tensors are beyond the bounds.
    """
    if len(specs) > MAX_TENSORS:
        raise BadTask(
            f"the model has {len(specs)} tensors that travel, and a run at most {MAX_TENSORS}:"
            f" {specs[MAX_TENSORS].name} is one too many; join small tensors into larger ones"
        )
    for spec in specs:
        if len(spec.name) > NAME_LENGTH:
            raise BadTask(
                f"{spec.name} is a name of {len(spec.name)} characters, and at most {NAME_LENGTH} travel:"
                " nest its modules less deeply, or give them shorter names"
            )
        if len(spec.shape) > TENSOR_DIMENSIONS:
            raise BadTask(
                f"{spec.name} has {len(spec.shape)} dimensions, and at most {TENSOR_DIMENSIONS} travel:"
                " reshape it"
            )


def read_model(model: nn.Module) -> Vector:
    """Return a model's numbers as float32 [n], a copy."""
    return ModelVector(model).read()


def write_model(model: nn.Module, params: Vector) -> None:
    """Set a model to float32 [n]."""
    ModelVector(model).write(params)


class ModelVector:
    """A model and the float32 vector that it stands for; see the module's docstring."""

    may_be_sharded = False
    """Whether ranks that hold pieces of the model read and write it together."""

    def __init__(self, model: nn.Module, stays: Staying = NOTHING) -> None:
        """`model` as it is now; what travels is decided here.

        Raises:
            BadTask: see `manifest`.
        """
        self._model, self._stays = model, stays
        self.manifest = manifest(model, stays, may_be_sharded=self.may_be_sharded)
        self.buffers = count_buffers(model, stays)
        """How many numbers at the end are buffers."""
        self._sizes = [spec.numel for spec in self.manifest]
        self._masters: dict[str, torch.Tensor] = {}
        """Float32 on the CPU, of tensors that hold less: what was written into them."""

    @property
    def numel(self) -> int:
        """How many numbers the vector has."""
        return sum(self._sizes)

    def read(self, out: Vector | None = None) -> Vector:
        """Return the numbers as float32 [n], a copy; in `out` where that is given.

        Raises:
            BadTask: the model has other tensors than at the start.
        """
        vector = np.empty(self.numel, np.float32) if out is None else out[: self.numel]
        with torch.no_grad():
            for name, tensor, part in self._parts(vector):
                master, now = self._masters.get(name), self._whole(tensor)
                if master is None or not _is_narrow(tensor):
                    part.copy_(now)
                else:
                    part.copy_(now).sub_(master.to(tensor.dtype)).add_(master)
        return vector

    def write(self, params: Vector) -> None:
        """Set the model to float32 [n].

        Raises:
            BadTask: the model has other tensors than at the start.
        """
        with torch.no_grad():
            for name, tensor, part in self._parts(np.ascontiguousarray(params)):
                self._put(tensor, part)
                if _is_narrow(tensor):
                    self._masters[name] = part.clone()

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return all of a tensor of the model."""
        return tensor

    def _put(self, tensor: torch.Tensor, part: torch.Tensor) -> None:
        """Set a tensor of the model; `part`: float32 on the CPU, in its shape."""
        tensor.copy_(part)

    def parts_of(self, vector: Vector) -> dict[torch.Tensor, torch.Tensor]:
        """Return tensor of the model -> its place in a vector like the params, in the tensor's shape.

        Raises:
            BadTask: the model has other tensors than at the start.
        """
        return {tensor: part for _, tensor, part in self._parts(vector)}

    def move(self, moved: Moved) -> None:
        """Carry a model in training over to a new agreed state.

        Parameters keep their progress. Buffers are taken as agreed: a variance that kept a difference could
        become negative.
        """
        params = moved.apply(self.read())
        start = params.size - self.buffers
        params[start:] = moved.agreed[start:]
        self.write(params)

    @contextmanager
    def put_back(self, *, all_tensors: bool) -> Iterator[None]:
        """Leave the tensors of the model afterwards as they were before, whatever is written meanwhile.

        But for pinned ones, and unless `all_tensors` for those that travel.
        """
        # A large base is not copied for what cannot touch it.
        left = set(pinned_ids(self._model, self._stays))
        left |= set() if all_tensors else {id(tensor) for tensor in self.tensors().values()}
        tensors = [t for t in (*self._model.parameters(), *self._model.buffers()) if id(t) not in left]
        before, masters = [tensor.detach().clone() for tensor in tensors], dict(self._masters)
        try:
            yield
        finally:
            if all_tensors:
                self._masters = masters
            with torch.no_grad():
                for tensor, value in zip(tensors, before, strict=True):
                    tensor.copy_(value)

    def _parts(self, vector: Vector) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Yield each tensor with its name and its place in the vector, in the tensor's shape."""
        tensors = self.tensors()
        flat = _as_tensor(vector)
        for (name, tensor), part in zip(tensors.items(), flat.split(self._sizes), strict=True):
            yield name, tensor, part.view(tensor.shape)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the model that travel, in the order of the vector.

        Raises:
            BadTask: the model has other tensors than at the start.
        """
        check_model(self._model, may_be_sharded=self.may_be_sharded)
        found = float_tensors(self._model)
        for name in self._stays.pinned & found.keys():
            if found[name].requires_grad:
                raise BadTask(
                    f"{name} was frozen at the start and is trained now: freeze it, or start a new run in"
                    " which it travels"
                )
        tensors = {name: tensor for name, tensor in found.items() if name not in self._stays}
        self._check(tensors)
        return tensors

    def _check(self, tensors: dict[str, torch.Tensor]) -> None:
        """Refuse a model that has changed.

        Raises:
            BadTask: names the tensors that are new, gone or of another shape.
        """
        known = {spec.name: spec.shape for spec in self.manifest}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if list(known.items()) == list(found.items()):
            return
        said = [f"{name} is new" for name in found.keys() - known.keys()]
        said += [f"{name} is gone" for name in known.keys() - found.keys()]
        said += [
            f"{name} was {list(known[name])} and is {list(found[name])}"
            for name in known.keys() & found.keys()
            if known[name] != found[name]
        ]
        listed = ", ".join(sorted(said)[:4]) or "its tensors are in another order"
        raise BadTask(
            f"the model has changed since the start: {listed}; add, remove or prune before the start, and"
            " on all peers alike"
        )


def _as_tensor(vector: Vector) -> torch.Tensor:
    """Return a vector's memory as a tensor; what must not be written is only read by our callers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(vector)


def _is_narrow(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor holds less than float32."""
    return bool(torch.finfo(tensor.dtype).bits < 32)
