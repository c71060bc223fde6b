"""Frames on the lines between a node's own processes: a 4-byte big-endian length, and a msgpack map.

The trainer and the hivemind engine speak them, each with messages of its own (node/trainer/ipc.py,
node/hivemind_engine/ipc.py). The trainer's ends block, the daemon's ends wait in trio.
"""

import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec

MAX_FRAME_BYTES: Final = 64 << 20
_LENGTH: Final = struct.Struct("!I")
Text = Annotated[str, msgspec.Meta(max_length=4000)]
_encoder: Final = msgspec.msgpack.Encoder()


class Message(msgspec.Struct, frozen=True, tag=True, kw_only=True, forbid_unknown_fields=True):
    """The base of everything on such a line."""


def frame(message: Message) -> bytes:
    """Return a message with its length in front."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def frame_length(prefix: bytes) -> int:
    """Return the body's length.

    Raises:
        ValueError: longer than any message of ours.
    """
    (length,) = _LENGTH.unpack(prefix)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes; at most {MAX_FRAME_BYTES} are sent here")
    return int(length)


def read_frame(line: socket.socket) -> bytes:
    """Wait for the body of the next frame on a blocking socket.

    Raises:
        EOFError: the other process is gone.
        ValueError: the frame is longer than any of ours.
    """

    def read(count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            data += _some(line.recv(count - len(data)))
        return bytes(data)

    return read(frame_length(read(_LENGTH.size)))


async def receive_frame(receive: Callable[[int], Awaitable[bytes]]) -> bytes:
    """Wait for the body of the next frame. `receive(n)` waits for at most n bytes; none are the end.

    Raises:
        EOFError: the other process is gone.
        ValueError: the frame is longer than any of ours.
    """

    async def read(count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            data += _some(await receive(count - len(data)))
        return bytes(data)

    return await read(frame_length(await read(_LENGTH.size)))


async def send_frame(connection: Any, message: Message) -> None:
    """Send a message over a socket of trio.

    Raises:
        OSError: the other process is gone.
    """
    await send_bytes(connection, frame(message))


async def send_bytes(connection: Any, data: bytes) -> None:
    """Send all of it over a socket of trio.

    Raises:
        OSError: the other process is gone.
    """
    view = memoryview(data)
    while view:
        view = view[await connection.send(view) :]


def _some(piece: bytes) -> bytes:
    if not piece:
        raise EOFError("the other process closed the line")
    return piece
