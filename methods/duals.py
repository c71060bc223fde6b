"""Duals: what the methods share whose nodes keep a vector of their own against the pull of their data."""

import numpy as np

from shoal.gossip.events import Vector
from shoal.methods.base import State


def moves(state: State, trained: Vector) -> Vector:
    """Return by how much local work moved the params; 0 for buffers, which no gradient moves."""
    moved = np.subtract(trained, state.params)
    moved[moved.size - state.buffers :] = 0
    return moved


def check_pull(name: str, strength: float, lr: float) -> None:
    """Refuse a pull to the common params that a step of local work overshoots for ever.

    Raises:
        ValueError: lr · strength is 2 or more; the words say what to choose.
    """
    if lr * strength >= 2:
        raise ValueError(
            f"lr * {name} = {lr * strength:g}, and from 2 on every step overshoots the common params:"
            f" choose {name} below {2 / lr:g}, or lr below {2 / strength:g}"
        )
