"""Task messages: one vector for all of a peer's tasks, and for each a mask, a scale and a count, as bytes.

    base      the hash of the model that all task vectors are added to
    tau       the unified vector: float32, float16, or int8 with a float32 scale for every 256 numbers
    parts     per task: its identity, a bit for each number (DEFLATE where shorter), λ, how many examples

A task's id is computed from the identity that is told, never told beside it. Reading is a pure function of
the bytes and of what all peers share, so that all refuse the same messages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
import numpy as np

from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Vector
from shoal.methods.coding.bit_coding import Bits, deflate, inflate, pack_bits, unpack_bits
from shoal.methods.coding.gathered import unpack
from shoal.methods.learning.task_identity import ID_BYTES, Identity
from shoal.methods.matu.task_vectors import MAX_SCALE, Unified

Coding: TypeAlias = Literal["float32", "float16", "int8"]
Digest = Annotated[bytes, msgspec.Meta(min_length=ID_BYTES, max_length=ID_BYTES)]

MAX_NUMBER: Final = 1024.0
"""No number of a task vector is further from zero: an honest one is seldom above 1."""
MAX_EXAMPLES: Final = 1 << 24
BLOCK: Final = 256
PART_BYTES: Final = 64
"""Of a part, beside its mask and identity."""
IDENTITY_BYTES: Final = 68_000
"""The longest identity that is allowed."""


class Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a message says of one task."""

    identity: Identity
    mask: bytes
    is_deflated: bool
    scale: Annotated[float, msgspec.Meta(ge=0, le=MAX_SCALE)]
    examples: Annotated[int, msgspec.Meta(ge=1, le=MAX_EXAMPLES)]


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All that a peer says in a round."""

    base: Digest
    tau: bytes
    parts: Annotated[tuple[Part, ...], msgspec.Meta(min_length=1, max_length=256)]


@dataclass(frozen=True, slots=True)
class Form:
    """What all peers know about a message before they read it."""

    base: bytes
    numel: int
    coding: Coding
    most: int
    """Tasks in one message."""

    @property
    def bound(self) -> int:
        """The most bytes that a message may have."""
        mask = -(-self.numel // 8)
        return (
            tau_bytes(self.numel, self.coding) + self.most * (mask + PART_BYTES + IDENTITY_BYTES) + PART_BYTES
        )


@dataclass(frozen=True, slots=True)
class Heard:
    """What was said of one task, checked."""

    mask: Bits
    scale: float
    examples: int
    identity: Identity


@dataclass(frozen=True, slots=True)
class HeardMessage:
    """A message, checked."""

    tau: Vector
    tasks: dict[bytes, Heard]
    """By task id."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def write(unified: Unified, identities: Sequence[Identity], examples: Sequence[int], form: Form) -> bytes:
    """Return the message of a peer whose tasks these are."""
    parts = []
    for mask, scale, identity, count in zip(unified.masks, unified.scales, identities, examples, strict=True):
        bits = pack_bits(mask)
        short = deflate(bits)
        is_deflated = len(short) < len(bits)
        counted = min(count, MAX_EXAMPLES)
        parts.append(Part(identity, short if is_deflated else bits, is_deflated, scale, counted))
    return _encode(Message(form.base, write_numbers(unified.tau, form.coding), tuple(parts)))


def read(body: bytes, form: Form) -> HeardMessage:
    """Return what a message says.

    Raises:
        RemoteViolation: it is damaged, of another base, or out of bounds.
    """
    message = unpack(body, _decode)
    if message.base != form.base:
        raise RemoteViolation("other base", "its task vectors belong to another model")
    if len(message.parts) > form.most:
        raise RemoteViolation("too many tasks", f"{len(message.parts)} of at most {form.most}")
    tasks: dict[bytes, Heard] = {}
    for part in message.parts:
        if not math.isfinite(part.scale):
            raise RemoteViolation("scale is not finite")
        bits = inflate(part.mask, -(-form.numel // 8)) if part.is_deflated else part.mask
        mask = unpack_bits(bits, form.numel)
        tasks[part.identity.id] = Heard(mask, float(np.float32(part.scale)), part.examples, part.identity)
    if len(tasks) != len(message.parts):
        raise RemoteViolation("task told twice")
    return HeardMessage(read_numbers(message.tau, form.numel, form.coding), tasks)


def tau_bytes(numel: int, coding: Coding) -> int:
    """Return how many bytes so many numbers take."""
    match coding:
        case "float32":
            return 4 * numel
        case "float16":
            return 2 * numel
    return numel + 4 * -(-numel // BLOCK)


def write_numbers(vector: Vector, coding: Coding) -> bytes:
    """Return numbers as bytes."""
    bounded = np.clip(vector, -MAX_NUMBER, MAX_NUMBER)
    match coding:
        case "float32":
            return bounded.astype("<f4").tobytes()
        case "float16":
            return bounded.astype("<f2").tobytes()
    padded = np.zeros(-(-vector.size // BLOCK) * BLOCK, np.float32)
    padded[: vector.size] = bounded
    blocks = padded.reshape(-1, BLOCK)
    scales = (np.abs(blocks).max(axis=1) / np.float32(127)).astype("<f4")
    steps = np.divide(blocks, scales[:, None], out=np.zeros_like(blocks), where=scales[:, None] > 0)
    whole = np.rint(steps).astype(np.int8).reshape(-1)[: vector.size]
    return bytes(scales.tobytes() + whole.tobytes())


def read_numbers(data: bytes, numel: int, coding: Coding) -> Vector:
    """Read so many numbers.

    Raises:
        RemoteViolation: there are more or fewer, or one is not finite or out of bounds.
    """
    if len(data) != tau_bytes(numel, coding):
        raise RemoteViolation("vector of another length", f"{len(data)} bytes for {numel} numbers")
    match coding:
        case "float32":
            vector = np.frombuffer(data, "<f4").astype(np.float32)
        case "float16":
            vector = np.frombuffer(data, "<f2").astype(np.float32)
        case "int8":
            blocks = -(-numel // BLOCK)
            scales = np.repeat(np.frombuffer(data, "<f4", blocks).astype(np.float32), BLOCK)[:numel]
            # A scale that is not finite must not become a warning before it becomes a refusal.
            with np.errstate(invalid="ignore", over="ignore"):
                vector = np.multiply(np.frombuffer(data, np.int8, offset=4 * blocks), scales)
    # A NaN fails this comparison too.
    if not (np.abs(vector) <= MAX_NUMBER).all():
        raise RemoteViolation("vector out of bounds")
    return vector
