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
    """Write the shared state into a vector of exactly its size, as memory shared with the daemon is."""
    parts = [state.params, *(state.shared[name].reshape(-1) for name in sorted(state.shared))]
    np.concatenate(parts, out=out)


def read_state(
    vector: Vector,
    params_numel: int,
    specs: Sequence[TensorSpec],
    private: Mapping[str, Array],
    buffers: int = 0,
) -> State:
    """Return the state in a vector, as copies: nothing written there later changes it."""
    shared = {
        spec.name: part.reshape(spec.shape).copy() for spec, part in _parts(vector[params_numel:], specs)
    }
    return State(vector[:params_numel].copy(), shared, private, buffers)


def _parts(vector: Vector, specs: Sequence[TensorSpec]) -> Iterator[tuple[TensorSpec, Vector]]:
    start = 0
    for spec in specs:
        yield spec, vector[start : start + spec.numel]
        start += spec.numel
