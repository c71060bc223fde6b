"""Ranks: several processes that train one model, of which the first speaks with the node.

    torchrun --nproc-per-node 4 train.py          one node, four GPUs: DDP, or FSDP2 (fully_shard)

Rank 0 holds the node and averages. In every step the others listen until it says that the step has ended.
Before that it may ask them to read or to write the model with it, tensor by tensor:

    rank 0   read() ----READ----> all gather each sharded tensor; rank 0 keeps it, the others drop it
             write() ---WRITE---> rank 0 scatters each sharded tensor, and broadcasts each whole one
             tell() ----ENDED, or FAILED, with the round and whether the run is over

So all ranks train the same model, the swarm sees one peer, and no rank but the first holds a whole copy.
"""

from collections.abc import Mapping
from enum import IntEnum
from os import environ
from typing import Any, Final

import torch
from torch import distributed, nn

from shoal.gossip.events import Vector
from shoal.methods.learning.model_tensors import NOTHING, ModelVector, Staying
from shoal.methods.learning.sharded import is_sharded, mesh_size, put, whole
from shoal.node.errors import UserError

SPEAKER: Final = 0


class NoRanks(UserError):
    """The processes of a torchrun cannot act as one; the message says what to type."""


class Word(IntEnum):
    """What the speaker says to the others."""

    ENDED = 0
    FAILED = 1
    READ = 2
    WRITE = 3


class Ranks:
    """The processes that train one model; mostly this one alone."""

    def __init__(
        self,
        device: torch.device | str = "cpu",
        group: Any = None,
        environment: Mapping[str, str] = environ,
    ) -> None:
        """Find out who is there. `device`: of the model. `group`: of torch.distributed; None: all ranks.

        Raises:
            NoRanks: there are others, and no way to reach them.
        """
        self._device, self._group = device, group
        self.count = self.rank = 0
        self._source = SPEAKER
        if distributed.is_available() and distributed.is_initialized():
            self.count, self.rank = distributed.get_world_size(group), distributed.get_rank(group)
            self._source = SPEAKER if group is None else distributed.get_global_rank(group, SPEAKER)
            if self.rank < 0:
                raise NoRanks("this rank is none of process_group: make a Swarm only on the ranks that are")
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

    def call(self, word: Word, *, rounds: int = 0, is_finished: bool = False) -> None:
        """Say a word to the other ranks; called by the speaker."""
        if self.count > 1:
            self._share([int(word), rounds, int(is_finished)])

    def hear(self, vector: "RankedVector") -> tuple[int, bool]:
        """Do what the speaker asks for until the step ends; returns its rounds, and whether the run is over.

        Raises:
            NoRanks: it has failed.
            BadTask: the model has other tensors than at the start.
        """
        while True:
            word, rounds, is_finished = self._share([0, 0, 0])
            match word:
                case Word.READ:
                    vector.help_read()
                case Word.WRITE:
                    vector.help_write()
                case Word.FAILED:
                    raise NoRanks(f"rank {SPEAKER} has left the swarm; see what it said")
                case _:
                    return rounds, bool(is_finished)

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Set a tensor to what the speaker has there."""
        if self.count > 1:
            distributed.broadcast(tensor.detach(), self._source, self._group)

    def _share(self, numbers: list[int]) -> list[int]:
        told = torch.tensor(numbers, device=self._device)
        self.broadcast(told)
        return [int(number) for number in told.tolist()]


class RankedVector(ModelVector):
    """A model that all ranks hold, whole or in pieces; the speaker alone holds the vector."""

    may_be_sharded = True

    def __init__(self, model: nn.Module, ranks: Ranks, stays: Staying = NOTHING) -> None:
        """See `ModelVector`.

        Raises:
            BadTask: see `manifest`.
            NoRanks: pieces of the model are on ranks of which some are none of ours, or the other way round.
        """
        super().__init__(model, stays)
        self._ranks = ranks
        spread = {name: mesh_size(t) for name, t in self.tensors().items() if is_sharded(t)}
        self.is_sharded = bool(spread)
        """Whether ranks hold pieces of the model."""
        for name, count in spread.items():
            if count != max(ranks.count, 1):
                raise NoRanks(
                    f"{name} is spread over {count} ranks, and {max(ranks.count, 1)} train this model: shard"
                    " it over all ranks of one process group, and give that as process_group"
                )

    def read(self, out: Vector | None = None) -> Vector:
        """See `ModelVector`; called by the speaker."""
        self.tensors()  # before the others are called: what is refused here is refused there too
        if self.is_sharded:
            self._ranks.call(Word.READ)
        return super().read(out)

    def write(self, params: Vector) -> None:
        """See `ModelVector`; called by the speaker."""
        self.tensors()
        self._ranks.call(Word.WRITE)
        super().write(params)

    def help_read(self) -> None:
        """Take part in the speaker's `read`."""
        with torch.no_grad():
            for tensor in self.tensors().values():
                whole(tensor)

    def help_write(self) -> None:
        """Take part in the speaker's `write`."""
        with torch.no_grad():
            for tensor in self.tensors().values():
                if is_sharded(tensor):
                    put(tensor, None)
                else:
                    self._ranks.broadcast(tensor)

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        return whole(tensor)

    def _put(self, tensor: torch.Tensor, part: torch.Tensor) -> None:
        if is_sharded(tensor):
            put(tensor, part)
        else:
            super()._put(tensor, part)
            self._ranks.broadcast(tensor)
