"""Params: named tensors as one float32 vector, and the manifest that says where each one lies.

    manifest  ((name, dtype, shape), ...)    in the order in which the model names its tensors
    vector    [ fc1.weight | fc1.bias | ... ]    each tensor flattened row by row, nothing between

Peers compare manifests before they average. The dtype in it is that of what travels, float32, whatever a
peer's model computes in.

The shared state is a vector too: the params, then every further shared vector in the order of its name.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from shoal.gossip.events import Vector
from shoal.gossip.run_spec import TensorSpec
from shoal.methods.base import Array, State


def numel(specs: Sequence[TensorSpec]) -> int:
    """Return how many numbers a manifest's vector has."""
    return sum(spec.numel for spec in specs)


def flatten(tensors: Mapping[str, Array], specs: Sequence[TensorSpec]) -> Vector:
    """Return named arrays as one vector.

    Raises:
        ValueError: a tensor of the manifest is missing or has another shape.
    """
    vector = np.empty(numel(specs), np.float32)
    for name, view in views(vector, specs).items():
        if name not in tensors:
            raise ValueError(f"tensor {name} is missing")
        if tensors[name].shape != view.shape:
            raise ValueError(f"tensor {name} has shape {tensors[name].shape}, not {view.shape}")
        view[...] = tensors[name]
    return vector


def views(vector: Vector, specs: Sequence[TensorSpec]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the named tensors inside a vector, without copying.

    Raises:
        ValueError: the vector has another length than the manifest says.
    """
    if vector.shape != (numel(specs),):
        raise ValueError(f"a vector of shape {vector.shape} for a manifest of {numel(specs)} numbers")
    return {spec.name: part.reshape(spec.shape) for spec, part in _parts(vector, specs)}


def shared_specs(state: State) -> tuple[TensorSpec, ...]:
    """Return the manifest of what a state shares beside its params."""
    return tuple(TensorSpec(name, "float32", state.shared[name].shape) for name in sorted(state.shared))


def write_state(state: State, out: Vector) -> None:
    """Write the shared state into a vector of exactly its size, as memory shared with the daemon is.

    What stands there already is not copied.

    Raises:
        ValueError: the vector has another size.
    """
    parts = [state.params, *(state.shared[name].reshape(-1) for name in sorted(state.shared))]
    if sum(part.size for part in parts) != out.size:
        raise ValueError(f"a state of {sum(part.size for part in parts)} numbers for memory of {out.size}")
    start = 0
    for part in parts:
        copy_unless_there(part, out[start : start + part.size])
        start += part.size


def copy_unless_there(source: Vector, out: Vector) -> None:
    """Copy float32 [n] into `out`, unless it is that memory."""
    if source.__array_interface__["data"][0] != out.__array_interface__["data"][0]:
        np.copyto(out, source)


def read_state(
    vector: Vector,
    params_numel: int,
    specs: Sequence[TensorSpec],
    private: Mapping[str, Array],
    buffers: int = 0,
    room: Vector | None = None,
) -> State:
    """Return the state in a vector, as views that cannot be written.

    `room`: where the next state goes, as long as the vector.
    """
    there = None
    if room is not None:
        there = State(room[:params_numel], _shared(room, params_numel, specs))
    given = vector.view()
    given.flags.writeable = False
    shared = _shared(given, params_numel, specs)
    return State(given[:params_numel], shared, private, buffers, there)


def copied(state: State) -> State:
    """Return a state of its own memory, but for what is private."""
    shared = {name: vector.copy() for name, vector in state.shared.items()}
    return State(state.params.copy(), shared, state.private, state.buffers)


def _shared(vector: Vector, params_numel: int, specs: Sequence[TensorSpec]) -> dict[str, Vector]:
    return {spec.name: part.reshape(spec.shape) for spec, part in _parts(vector[params_numel:], specs)}


def _parts(vector: Vector, specs: Sequence[TensorSpec]) -> Iterator[tuple[TensorSpec, Vector]]:
    start = 0
    for spec in specs:
        yield spec, vector[start : start + spec.numel]
        start += spec.numel
