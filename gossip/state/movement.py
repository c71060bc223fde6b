"""Movement: how far the rounds of a node move its state, and whether a state of others may be taken over.

The hash of a fetched state tells that it is the one that its holders name, and no more. So before it is
applied it is compared with our own:

    finite in every number
    at most `FACTOR` x (rounds apart + 1) x the median movement of a round away, in each of its pieces

The pieces are the params, a model's buffers, and what travels beside them: a counter among the buffers must
not hide what is done to the weights. A node that has made fewer than `LEAST_KNOWN` rounds has no measure yet,
and takes its first state from whom it goes by (gossip/membership/lineages.py).
"""

from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Final, TypeAlias

import numpy as np

from shoal.gossip.events import Vector
from shoal.gossip.run_spec import RunSpec

FACTOR: Final = 4.0
MAX_APART: Final = 100
"""Rounds apart that are accounted for. A node that was away for longer asks its user."""
LEAST_KNOWN: Final = 3
MAX_KNOWN: Final = 64
"""Rounds whose movement is remembered."""
NAMES: Final = ("params", "buffers", "shared vectors")
SLACK: Final = 1e-6
"""Of a piece's own norm: rounding, where nothing else moves it."""
NOT_FINITE: Final = "it has numbers that are not finite"
GAVE_NOT_FINITE: Final = "gave a state with numbers that are not finite"
GAVE_TOO_FAR: Final = "gave a state farther away than its rounds account for"
_STRIDE: Final = 1 << 20

Movement: TypeAlias = tuple[float, ...]
"""By piece: the Euclidean distance between two states. Float32 states, float64 sums."""


class Movements:
    """The movements of one node's last rounds. See the module's docstring."""

    def __init__(self, spec: RunSpec, past: Iterable[Movement] = ()) -> None:
        """`past`: of earlier rounds, the last one at the end."""
        buffers_at = spec.params_numel - spec.buffers
        self._edges = (0, buffers_at, spec.params_numel, spec.state_numel)
        usable = (each for each in past if len(each) == len(NAMES) and bool(np.isfinite(each).all()))
        self._past = deque(usable, maxlen=MAX_KNOWN)

    @property
    def past(self) -> tuple[Movement, ...]:
        """The movements that are remembered, the last one at the end."""
        return tuple(self._past)

    def between(self, old: Vector, new: Vector) -> Movement | None:
        """Return how far two states are apart, float32 [n] each; None where `new` is not finite."""
        if not is_finite(new):
            return None
        spans = zip(self._edges, self._edges[1:], strict=False)
        return tuple(_distance(old[lo:hi], new[lo:hi]) for lo, hi in spans)

    def note(self, movement: Movement) -> None:
        """Take note of how far a round of ours moved the state."""
        if np.isfinite(movement).all():
            self._past.append(movement)

    def objection(self, old: Vector, new: Vector, rounds_apart: int) -> str:
        """Say why a state of others may not take the place of ours; nothing where it may."""
        moved = self.between(old, new)
        if moved is None:
            return NOT_FINITE
        if len(self._past) < LEAST_KNOWN:
            return ""
        usual = [median(each) for each in zip(*self._past, strict=True)]
        if not any(usual):
            # Nothing moves here, so nothing tells what is far.
            return ""
        times = FACTOR * (min(max(rounds_apart, 0), MAX_APART) + 1)
        for piece, name in enumerate(NAMES):
            lo, hi = self._edges[piece : piece + 2]
            if moved[piece] <= times * usual[piece]:
                continue
            if not moved[piece] <= SLACK * _distance(old[lo:hi], np.zeros(1, np.float32)):
                return (
                    f"its {name} are {moved[piece]:.3g} away, and at most {times * usual[piece]:.3g} is usual"
                )
        return ""


def fault_of(objection: str, rounds_apart: int) -> str:
    """Return what those did who gave a state that is objected to; empty where we were away for too long."""
    if objection == NOT_FINITE:
        return GAVE_NOT_FINITE
    return GAVE_TOO_FAR if rounds_apart <= MAX_APART else ""


def is_finite(vector: Vector) -> bool:
    """Tell whether all numbers are finite, without a copy as large as the vector."""
    strides = range(0, vector.size, _STRIDE)
    return all(bool(np.isfinite(vector[start : start + _STRIDE]).all()) for start in strides)


def _distance(old: Vector, new: Vector) -> float:
    total = 0.0
    for start in range(0, old.size, _STRIDE):
        other = new if new.size == 1 else new[start : start + _STRIDE]
        difference = old[start : start + _STRIDE].astype(np.float64) - other
        total += float(np.dot(difference, difference))
    return float(np.sqrt(total))
