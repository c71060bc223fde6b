"""Visitor: the connection of a browser or program; it is closed once nothing of what it asked for is taken.

The server shields what it sends from cancellation, so that the bound has to be here: every `PIECE` has
`PATIENCE` seconds to leave. TCP alone would hold on for a quarter of an hour, and a reader that answers its
probes and never reads, for ever.
"""

from typing import Final

import trio
from trio.abc import HalfCloseableStream

PATIENCE: Final = 30.0
"""Seconds for a piece; below half a kilobyte per second is no reader."""
PIECE: Final = 16 << 10


class Visitor:
    """A stream that gives up on a reader who does not read."""

    def __init__(self, stream: HalfCloseableStream) -> None:
        """`stream`: what is read and written."""
        self._stream = stream

    @property
    def socket(self) -> trio.socket.SocketType:
        """As the server asks for it."""
        found: trio.socket.SocketType = self._stream.socket  # type: ignore[attr-defined]  # of a `SocketStream`
        return found

    async def send_all(self, data: bytes) -> None:
        """See `trio.abc.SendStream`.

        Raises:
            trio.BrokenResourceError: the visitor is gone, or took nothing for `PATIENCE` seconds.
        """
        view = memoryview(data)
        while len(view):
            with trio.move_on_after(PATIENCE) as scope:
                await self._stream.send_all(view[:PIECE])
            if scope.cancelled_caught:
                await trio.aclose_forcefully(self._stream)
                raise trio.BrokenResourceError("the visitor does not read")
            view = view[PIECE:]

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See `trio.abc.ReceiveStream`."""
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        """See `trio.abc.HalfCloseableStream`."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        await self._stream.aclose()
