"""Unshared file: what of a model does not travel, kept on this node's disk over restarts."""

from contextlib import suppress
from pathlib import Path

import numpy as np
from torch import nn

from shoal.gossip.run_spec import RunSpec
from shoal.methods.base import Array
from shoal.methods.learning.model_tensors import NOTHING, Staying
from shoal.methods.learning.unshared import read_unshared, write_unshared
from shoal.node.storage.private_state import PrivateState

KIND = "unshared"


class UnsharedFile:
    """The unshared entries of one model in one run."""

    def __init__(self, state_dir: Path, spec: RunSpec, model: nn.Module, stays: Staying = NOTHING) -> None:
        """`state_dir`: the node's own."""
        self._stays = stays
        self._file = PrivateState(state_dir, spec, KIND)
        self._state_dir, self._model = state_dir, model
        self._saved: dict[str, Array] | None = None

    def restore(self) -> None:
        """Put back what was saved last, if there is anything."""
        found = self._file.load()
        if not found:
            return
        try:
            write_unshared(self._model, found)
        except ValueError as error:
            self._file.set_aside(f"is of no use ({error})")

    def save(self) -> None:
        """Save what has changed."""
        now = read_unshared(self._model, self._stays)
        if self._saved is None or not _are_equal(now, self._saved):
            with suppress(OSError):  # which is said when it is written
                self._state_dir.mkdir(parents=True, exist_ok=True)
            self._file.save(now)
            self._saved = now

    def put_back(self) -> None:
        """Put back what was saved last in this life: a round that came to nothing changes nothing."""
        if self._saved:
            write_unshared(self._model, self._saved)


def _are_equal(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
