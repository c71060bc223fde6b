"""Ranks: several processes that train one model, of which the first speaks with the node.

    torchrun --nproc-per-node 4 train.py          one node, four GPUs

Rank 0 holds the node and averages. After every step it tells the others whether the model was changed, and
if so they take it over; so all ranks train the same model, and the swarm sees one peer.
"""

from collections.abc import Mapping
from os import environ
from typing import Final

import torch
from torch import distributed

from shoal.methods.learning.model_tensors import ModelVector
from shoal.node.errors import UserError

SPEAKER: Final = 0


class NoRanks(UserError):
    """The processes of a torchrun cannot act as one; the message says what to type."""


class Ranks:
    """The processes that train one model; mostly this one alone."""

    def __init__(self, vector: ModelVector, environment: Mapping[str, str] = environ) -> None:
        """Find out who is there. `vector`: of the model, what travels of it.

        Raises:
            NoRanks: there are others, and no way to reach them.
        """
        self._vector = vector
        self.count = self.rank = 0
        if distributed.is_available() and distributed.is_initialized():
            self.count, self.rank = distributed.get_world_size(), distributed.get_rank()
        elif (world := environment.get("WORLD_SIZE", "1")).isdigit() and int(world) > 1:
            raise NoRanks(
                f"this is rank {environment.get('RANK', '?')} of {world}, and torch.distributed is not"
                " initialised: call torch.distributed.init_process_group() before SwarmOptimizer(...), or"
                " unset RANK and WORLD_SIZE if each process trains a model of its own"
            )

    @property
    def is_speaker(self) -> bool:
        """Whether this process holds the node."""
        return self.rank == SPEAKER

    def tell(self, *, moved: bool, rounds: int, is_finished: bool, failed: bool = False) -> None:
        """Tell the other ranks how this step ended; called by the speaker."""
        if self.count > 1:
            self._share([int(moved), rounds, int(is_finished), int(failed)])
            if moved:
                self._share_model()

    def hear(self) -> tuple[int, bool]:
        """Take over what the speaker tells; returns its rounds, and whether the run is over.

        Raises:
            NoRanks: it has failed.
        """
        moved, rounds, is_finished, failed = self._share([0, 0, 0, 0])
        if failed:
            raise NoRanks(f"rank {SPEAKER} has left the swarm; see what it said")
        if moved:
            self._share_model()
        return rounds, bool(is_finished)

    def _share(self, numbers: list[int]) -> list[int]:
        device = next(iter(self._vector.tensors().values())).device
        told = torch.tensor(numbers, device=device)
        distributed.broadcast(told, SPEAKER)
        return [int(number) for number in told.tolist()]

    def _share_model(self) -> None:
        for tensor in self._vector.tensors().values():
            distributed.broadcast(tensor.detach(), SPEAKER)
