"""The daemon's end of the trainer line: a Unix socket, frames of node/framing.py, one descriptor.

One trainer at a time; a second one that attaches is told to stop, since two would write one state.
"""

import array
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import trio

from shoal.gossip.run_spec import TensorSpec
from shoal.node.errors import BadHome
from shoal.node.framing import Message, frame, receive_frame, send_bytes
from shoal.node.trainer import ipc

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)
_BROKEN: Final = (OSError, EOFError, msgspec.MsgspecError, ValueError)


class Handler(Protocol):
    """The listener to the trainer: node/daemon/rounds.py."""

    def attached(self, message: ipc.Attach, segment: ipc.Segment, reply: Callable[[Message], None]) -> None:
        """A trainer attached."""
        ...

    def from_trainer(self, message: Any) -> None:
        """It said something."""
        ...

    def detached(self) -> None:
        """It is gone."""
        ...


class Bases(Protocol):
    """Fetches a frozen base: node/daemon/base_keeper.py."""

    def fetch(self, name: bytes, specs: Sequence[TensorSpec], ready: Callable[[str, str], None]) -> None:
        """Fetch one; `ready(path, reason)` is told where it lies, or why it never will."""
        ...


class TrainerLine:
    """Listens for trainers and hands on what they say."""

    def __init__(self, path: Path, handler: Handler, bases: Bases | None = None) -> None:
        """`path`: where the socket is made. `bases`: who fetches a base that a trainer lacks."""
        self.pid = 0
        """Of the attached trainer; 0: none."""
        self._path, self._handler, self._bases = path, handler, bases
        self._outgoing: deque[bytes] = deque()
        self._wake = trio.Event()

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled.

        Raises:
            BadHome: the socket cannot be made.
        """
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await listener.bind(str(self._path))
            os.chmod(self._path, 0o600)
            listener.listen(4)
        except OSError as error:
            listener.close()
            raise BadHome(f"cannot listen on {self._path}: {error.strerror}; choose another --home") from None
        with listener:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    connection, _ = await listener.accept()
                    nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: Any) -> None:
        with connection:
            if self.pid:
                with suppress(OSError):
                    await connection.send(frame(ipc.Stop()))
                return
            self.pid = -1
            try:
                await self._attach_and_talk(connection)
            except _BROKEN as error:
                log.warning("what attached as a trainer is none: %s", error)
            finally:
                self.pid = 0
                self._outgoing.clear()
                self._handler.detached()

    async def _attach_and_talk(self, connection: Any) -> None:
        descriptors: list[int] = []
        try:
            message = await self._receive(connection, descriptors)
            while isinstance(message, ipc.FetchBase) and self._bases is not None:
                await self._fetch_base(connection, message, self._bases)
                message = await self._receive(connection, descriptors)
            if isinstance(message, ipc.TrainerFailed):
                self._handler.from_trainer(message)
                return
            if not isinstance(message, ipc.Attach) or not descriptors:
                raise ValueError("a trainer begins with Attach and a descriptor")
            segment = ipc.Segment.attach(descriptors[0], message.spec.state_numel, message.exchange_numel)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self.pid = message.pid
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, connection)
            self._handler.attached(message, segment, self._send)
            while True:
                try:
                    received = await self._receive(connection, [])
                except _BROKEN as error:
                    log.debug("the trainer's line ended: %s", error)
                    break
                self._handler.from_trainer(received)
            nursery.cancel_scope.cancel()

    async def _fetch_base(self, connection: Any, message: ipc.FetchBase, bases: Bases) -> None:
        """Answer once the base is here; a trainer that goes meanwhile is not waited for."""
        answers: list[Message] = []
        is_ready = trio.Event()

        def ready(path: str, reason: str) -> None:
            answers.append(ipc.BaseReady(path=path, reason=reason))
            is_ready.set()

        async def watch() -> None:
            # Nothing more comes until we answer, but the end of the line.
            with suppress(OSError):
                await connection.recv(1, socket.MSG_PEEK)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            bases.fetch(message.name, message.specs, ready)
            await is_ready.wait()
            nursery.cancel_scope.cancel()
        if answers:
            await send_bytes(connection, frame(answers[0]))

    def _send(self, message: Message) -> None:
        self._outgoing.append(frame(message))
        self._wake.set()

    async def _write(self, connection: Any) -> None:
        while True:
            self._wake = trio.Event()
            while self._outgoing:
                try:
                    await send_bytes(connection, self._outgoing.popleft())
                except OSError:
                    return  # the reader sees the end of the line too, and says so
            await self._wake.wait()

    async def _receive(self, connection: Any, descriptors: list[int]) -> Any:
        async def receive(count: int) -> bytes:
            piece, ancillary, _, _ = await connection.recvmsg(count, socket.CMSG_SPACE(16))
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    received = array.array("i")
                    received.frombytes(content[: len(content) - len(content) % received.itemsize])
                    descriptors.extend(received)
            return bytes(piece)

        return ipc.from_trainer.decode(await receive_frame(receive))
