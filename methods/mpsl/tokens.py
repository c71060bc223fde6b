"""Tokens on the wire: activations and gradients as float32, float16, or int8 with a scale per token.

| number  | bytes of a token of width d | error of each of its numbers                    |
|---------|-----------------------------|-------------------------------------------------|
| float32 | 4 d                         | none                                            |
| float16 | 2 d                         | 2^-11 of it; 2^-25 below 6e-5; cut off at 65504 |
| int8    | d + 4, and 4 per 1024       | 1/254 of the token's largest                    |

int8 of the calls has a scale per block of 1024 numbers. A token with small numbers beside one with large ones
would lose all of its own, so each token is divided by its largest number first, which travels beside it.
"""

from collections.abc import Mapping
from math import prod
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from shoal.gossip.calls.forms import MAX_BYTES, TensorForm, Tensors

Number: TypeAlias = Literal["float32", "float16", "int8"]
Array: TypeAlias = npt.NDArray[np.float32]

BYTES: Final[Mapping[Number, float]] = {"float32": 4.0, "float16": 2.0, "int8": 1.0}
SCALE: Final = "_scale"
SPARE_BYTES: Final = 1 << 12
"""Left free in a call for what stands beside the tokens."""


def token_bytes(shape: tuple[int, ...], number: Number) -> float:
    """Return the bytes of one example whose activations have this shape, such as (tokens, width)."""
    scales = 4 * prod(shape[:-1]) + 4 * prod(shape) / 1024 if number == "int8" else 0.0
    return prod(shape) * BYTES[number] + scales


def most_rows(shape: tuple[int, ...], number: Number) -> int:
    """Return how many examples of this shape one call holds."""
    return int((MAX_BYTES - SPARE_BYTES) // token_bytes(shape, number))


def form_of(name: str, shape: tuple[int, ...], rows: int, number: Number) -> dict[str, TensorForm]:
    """Return the form of up to so many rows of activations."""
    forms = {name: TensorForm((rows, *shape), number)}
    if number == "int8":
        forms[name + SCALE] = TensorForm((rows, *shape[:-1], 1))
    return forms


def told(name: str, rows: Array, number: Number) -> dict[str, Array]:
    """Return activations, float32 [b, ..., d], as tensors of `form_of`."""
    if number != "int8":
        return {name: rows}
    scale = np.abs(rows).max(axis=-1, keepdims=True, initial=0.0).astype(np.float32)
    divided = np.divide(rows, scale, out=np.zeros_like(rows), where=scale > 0)
    return {name: divided, name + SCALE: scale}


def heard(name: str, tensors: Tensors) -> Array:
    """Return activations that `told` made of, float32 [b, ..., d]; zeros where scales do not fit them."""
    rows = tensors[name]
    scale = tensors.get(name + SCALE)
    if scale is None:
        return rows
    if scale.shape != (*rows.shape[:-1], 1):
        return np.zeros_like(rows)
    with np.errstate(over="ignore", invalid="ignore"):
        found: Array = np.nan_to_num(rows * scale, nan=0.0, posinf=0.0, neginf=0.0)
    return found
