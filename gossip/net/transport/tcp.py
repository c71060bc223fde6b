"""Connections whose bytes are counted, and that records pass through without the scheduler.

A socket of trio yields to other tasks at every call. Here data is sent and received at once while the
system takes and has it, and only who must wait does so: whoever moves much lets others run by itself.
"""

import os
import socket
import sys
from dataclasses import dataclass
from typing import Final

import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream

from shoal.gossip.addresses import is_loopback
from shoal.gossip.net.transport.unix_sockets import peer_name

MAX_READ: Final = 64 * 1024
"""Bytes that a read of the library may ask the system for at once."""
LOOPBACK_BUFFER: Final = 256 * 1024
"""Bytes that the system takes ahead of a reader on this machine. By itself it takes megabytes, which fill a
long line; here there is none, and what was written last is still in the processor's cache when it is read."""
LOCAL_BUFFER: Final = 3 << 19
"""The same for a Unix socket, which holds little by itself, and costs a switch of tasks when it is full.
Three records: with two, a round of 8 peers takes 3 % longer; with four, it takes a third of a vector more."""
_HAS_LOW_WATER: Final = sys.platform == "linux"
"""Elsewhere a mark above the receive buffer's size is never reached."""


@dataclass(slots=True)
class Traffic:
    """What all connections of a node share: the count of their bytes, and keys."""

    sent: int = 0
    received: int = 0
    network_keys: tuple[bytes, ...] = ()
    """Of the private network (pnet.py), the one to say first; none: there is no such network."""


class TcpStream(TrioTCPStream):
    """A connection that counts its bytes and reads into a buffer of the caller: TCP, or a local socket."""

    def __init__(self, stream: trio.SocketStream, traffic: Traffic) -> None:
        """`traffic` may be shared by several connections."""
        super().__init__(stream)
        self.traffic = traffic
        self.heard = False
        """Whether anything has come."""
        self.fault = ""
        """What was wrong with the first bytes, where that can be told."""
        self._low_water = 1
        self._awaited: trio.Event | None = None
        """Set by the one task that waits for writability: trio allows one waiter per socket."""
        self._cached_remote_address = peer_name(stream.socket)
        if stream.socket.family == socket.AF_UNIX:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LOCAL_BUFFER)
        elif is_loopback(str((self.get_remote_address() or ("",))[0])):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LOOPBACK_BUFFER)

    async def write(self, data: bytes | memoryview) -> None:
        """See `TrioTCPStream`."""
        await super().write(data)
        self.traffic.sent += len(data)

    async def read(self, n: int | None = None) -> bytes:
        """See `TrioTCPStream`; a stranger's length prefix does not decide how much memory is taken."""
        data = bytes(await super().read(MAX_READ if n is None else min(n, MAX_READ)))
        self.traffic.received += len(data)
        self.heard = self.heard or bool(data)
        return data

    def send_nowait(self, data: memoryview) -> int:
        """Send what the system takes at once and return how much that was.

        trio's sockets pass through the scheduler on every call; under a stream of records that costs
        more than the encryption.

        Raises:
            ConnectionClosedError: the connection is broken or closed.
        """
        try:
            count = os.write(self.stream.socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionClosedError(str(error)) from error
        self.traffic.sent += count
        return count

    async def send_all(self, data: memoryview) -> None:
        """Send everything.

        Raises:
            ConnectionClosedError: the connection is broken or closed.
        """
        while data:
            count = self.send_nowait(data)
            data = data[count:]
            if not count:
                await self.wait_writable()

    async def wait_writable(self) -> None:
        """Wait until little of what was written is left to be sent: trio has it at most 16 KiB, on TCP.

        Who waits beside another may return too early, where the other was cancelled.

        Raises:
            ConnectionClosedError: the connection is broken or closed.
        """
        if self._awaited is not None:
            await self._awaited.wait()
            return
        self._awaited = trio.Event()
        try:
            await trio.lowlevel.wait_writable(self.stream.socket)
        except (OSError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(str(error)) from error
        finally:
            self._awaited.set()
            self._awaited = None

    def receive_nowait(self, view: memoryview) -> int | None:
        """Read what has arrived into the buffer and return how much; nothing yet is `None`, the end 0.

        Raises:
            ConnectionClosedError: the connection is broken or closed.
        """
        try:
            count = os.readv(self.stream.socket.fileno(), [view])
        except BlockingIOError:
            return None
        except OSError as error:
            raise ConnectionClosedError(str(error)) from error
        self.traffic.received += count
        return count

    async def wait_readable(self, least: int) -> None:
        """Wait until there is something to read: `least` bytes, where the system can wait for so many.

        A record cannot be opened before it is whole, so waking for each of its segments is in vain.

        Raises:
            ConnectionClosedError: the connection is broken or closed.
        """
        try:
            if _HAS_LOW_WATER and least != self._low_water:
                self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
                self._low_water = least
            await trio.lowlevel.wait_readable(self.stream.socket)
        except (OSError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(str(error)) from error
