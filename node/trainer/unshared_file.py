"""Unshared file: what of a model does not travel, on this node's disk beside the round that it belongs to.

A node's own parts, and buffers that stay, are kept as what methods keep is (storage/private_rounds.py): those
of the round before lie there until a later state is on the disk. So a node that is killed between an exchange
and its confirmation goes on with the own parts of the state that it wakes up with.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from torch import nn

from shoal.gossip.run_spec import RunSpec
from shoal.methods.base import Array
from shoal.methods.learning.model_tensors import NOTHING, Staying
from shoal.methods.learning.unshared import read_unshared, write_unshared
from shoal.node.storage.private_rounds import Kind, Mark, PrivateRounds

KIND: Final[Kind] = "own"


class UnsharedFile:
    """The unshared entries of one model in one run. See the module's docstring."""

    def __init__(self, state_dir: Path, spec: RunSpec, model: nn.Module, stays: Staying = NOTHING) -> None:
        """`state_dir`: the node's own."""
        self._stays = stays
        self._rounds = PrivateRounds({}, spec, state_dir, matches_state=False, kind=KIND)
        self._state_dir, self._model = state_dir, model
        self._saved: dict[str, Array] | None = None
        self._is_restored = True

    def restore(self) -> None:
        """Put back what was saved, when the first round begins: what belongs to that."""
        self._rounds.restore()
        self._is_restored = False

    def begun(self, round_: int) -> None:
        """Take note that a round begins from a state that the swarm agrees on."""
        found, _ = self._rounds.at(Mark(round_))
        if self._is_restored or not found:
            self._is_restored = True
            return
        self._is_restored = True
        try:
            write_unshared(self._model, found)
        except ValueError as error:
            self._rounds.set_aside(f"is of no use ({error})")

    def save(self, round_: int) -> None:
        """Save what has changed, as what belongs to the state before this round."""
        now = read_unshared(self._model, self._stays)
        if self._saved is None or not _are_equal(now, self._saved):
            with suppress(OSError):  # which is said when it is written
                self._state_dir.mkdir(parents=True, exist_ok=True)
            self._rounds.made(Mark(round_), now)
            self._saved = now

    def put_back(self) -> None:
        """Put back what was saved last in this life: a round that came to nothing changes nothing."""
        if self._saved:
            write_unshared(self._model, self._saved)


def _are_equal(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
