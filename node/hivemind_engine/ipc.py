"""The line between the daemon and its hivemind process: messages on a socket pair, vectors in shared memory.

    daemon                                    node/hivemind_engine/process.py
                                        <--   Up(addresses)
      Meet(addresses)                   -->        other nodes' hivemind addresses, as they become known
      Average(number, numel, weight..)  -->        vector in the shared memory
                                        <--   Mean(number, ..): the mean in its place
                                            | Unmet(number, text): nobody to average with
                                            | Unmade(number, text): a group, but no mean
                                        <--   Beat(), every second; Broken(text) before it ends by itself

Frames: see node/framing.py. The memory is the daemon's own: a process that was given up on may still
write there, and must not reach what the trainer holds.
"""

import mmap
from typing import Annotated, Final, TypeAlias

import msgspec
import numpy as np

from shoal.gossip.events import Vector
from shoal.node.framing import Message, Text
from shoal.node.trainer.ipc import PAGE, nameless_file

BEAT: Final = 1.0
"""Seconds between two signs of life."""
MAX_PEERS: Final = 64
"""Of a group, and addresses told at once."""
Peers = Annotated[
    tuple[Annotated[str, msgspec.Meta(max_length=256)], ...], msgspec.Meta(max_length=MAX_PEERS)
]


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a hivemind process is told when it starts, in one argument."""

    me: str
    """The node's peer id, which the others of a group see."""
    prefix: str
    """The name under which groups of this run are found."""
    numel: int
    """Numbers that the shared memory holds."""
    codec: str
    """One of `shoal.node.config.engine_preflight.COMPRESSIONS`."""
    listen: tuple[str, ...]
    """Multiaddrs on which hivemind's own libp2p listens."""
    patience: Annotated[float, msgspec.Meta(gt=0)]
    """Seconds: of silence after which a member is left out."""


class Meet(Message, frozen=True):
    """Other nodes' hivemind addresses."""

    addresses: Peers


class Average(Message, frozen=True):
    """Make the mean of the first `numel` numbers of the memory with the others of this run."""

    number: int
    """Of this order; the answer repeats it."""
    index: int
    """Index of this ask within its round, from 0; asks of one index are averaged together."""
    numel: int
    weight: float
    expected: int
    """Members to wait for, ourselves included; a group begins when they are there."""
    quorum: int
    """Fewest members of a group."""
    base: str
    """What the other nodes must have started from too; empty where it does not matter."""
    seconds: float
    """How long a group may be sought."""
    waits: bool
    """Whether all that are expected are waited for so long, and not only for hivemind's window."""


class Up(Message, frozen=True):
    """hivemind runs, and is reached here."""

    addresses: Peers


class Mean(Message, frozen=True):
    """The mean stands in the memory."""

    number: int
    members: Peers
    """The group: peer ids of nodes as they named themselves, hivemind ids of others."""
    strangers: int
    """How many of them are no nodes of ours."""
    matchmaking_seconds: float
    exchange_seconds: float


class Unmet(Message, frozen=True):
    """Nobody was there to average with."""

    number: int


class Unmade(Message, frozen=True):
    """There was somebody, and yet there is no mean."""

    number: int
    text: Text


class Beat(Message, frozen=True):
    """All of hivemind's processes live."""


class Broken(Message, frozen=True):
    """It ends, and why, in one line."""

    text: Text


FromEngine: TypeAlias = Up | Mean | Unmet | Unmade | Beat | Broken
ToEngine: TypeAlias = Meet | Average
from_engine: Final[msgspec.msgpack.Decoder[FromEngine]] = msgspec.msgpack.Decoder(FromEngine)
to_engine: Final[msgspec.msgpack.Decoder[ToEngine]] = msgspec.msgpack.Decoder(ToEngine)


def prefix_of(run: bytes) -> str:
    """Return the name under which groups of a run are found."""
    return f"shoal-{run.hex()[:16]}"


def key_of(prefix: str, index: int) -> str:
    """Return the prefix of hivemind for an ask; the first is the run's own, for whoever has just one."""
    return prefix if index == 0 else f"{prefix}-{index}"


def create_memory(numel: int) -> tuple[Vector, int]:
    """Make shared memory; returns it and the descriptor to hand on (the caller closes it)."""
    size = max(PAGE, 4 * numel)
    fd = nameless_file(size)
    return map_memory(fd, numel), fd


def map_memory(fd: int, numel: int) -> Vector:
    """Map shared memory by its descriptor.

    Raises:
        ValueError: the file is smaller than so many numbers.
    """
    memory = mmap.mmap(fd, max(PAGE, 4 * numel))
    return np.frombuffer(memory, np.float32, numel)
