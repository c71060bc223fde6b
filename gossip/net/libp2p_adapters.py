"""Parts of the library with our behaviour in them: streams, transport, and a swarm that dials nobody."""

import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP, TCPListener

from shoal.gossip.addresses import endpoint
from shoal.gossip.events import Data, Loan
from shoal.gossip.net.frames import LinkBroken
from shoal.gossip.net.transport.pnet import PrivateStream
from shoal.gossip.net.transport.stream import FastStream
from shoal.gossip.net.transport.tcp import TcpStream, Traffic
from shoal.gossip.scope import Network, Scope, scope_of

log = logging.getLogger(__name__)

TCP_WATCH: Final = {
    "TCP_KEEPIDLE": 15,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 35_000,
}
"""Seconds, seconds, probes, milliseconds: like our muxer's pings."""
STOCK_PIECE: Final = 1 << 20
STREAM_ERRORS: Final = (BaseLibp2pError, OSError, trio.ClosedResourceError, trio.BrokenResourceError)
"""How a stream of the library fails."""

may_dial: ContextVar[bool] = ContextVar("may_dial", default=False)
"""Whether the library may dial in this task and those it starts."""


def claim(stream: Any) -> None:
    """Let what lies unread in a stream be bounded by its window alone; it is read as fast as it is used."""
    muxed = getattr(stream, "muxed_stream", None)
    if isinstance(muxed, FastStream):
        muxed.claim()
    elif muxed is not None:
        muxed.is_lane = True  # `StrictYamux` looks for it


class LaneStream:
    """A stream of a lane. Ours fills the reader's memory by itself; the standard's is copied."""

    def __init__(self, stream: Any) -> None:
        """`stream`: the library's, negotiated."""
        self._stream = stream
        self._fast = stream.muxed_stream if isinstance(stream.muxed_stream, FastStream) else None
        self._taken = 0
        self.connection = stream.swarm_conn

    def claim(self) -> None:
        """Say that it is read as fast as frames are taken; see `claim`."""
        claim(self._stream)

    @property
    def taken(self) -> int:
        """Bytes that have come and were read, also those of a frame that is not here yet."""
        return self._taken if self._fast is None else self._fast.taken

    async def write(self, data: Data, more: Data | Loan = b"") -> None:
        """See `ByteStream`."""
        try:
            if self._fast is not None:
                await self._fast.write(data, more)
                return
            for piece in (data, more):
                view = memoryview(bytes(piece) if isinstance(piece, Loan) else piece).cast("B")
                for start in range(0, len(view), STOCK_PIECE):
                    await self._stream.write(bytes(view[start : start + STOCK_PIECE]))
        except STREAM_ERRORS as error:
            raise LinkBroken(str(error)) from error

    async def fill(self, places: Iterator[memoryview]) -> None:
        """See `ByteStream`."""
        try:
            if self._fast is not None:
                await self._fast.fill(places)
                return
            for view in places:
                await self._fill_one(view)
        except STREAM_ERRORS as error:
            raise LinkBroken(str(error)) from error

    async def _fill_one(self, view: memoryview) -> None:
        while view:
            piece = await self._stream.read(len(view))
            if not piece:
                raise LinkBroken("the stream ended")
            view[: len(piece)] = piece
            self._taken += len(piece)
            view = view[len(piece) :]

    async def read_into(self, view: memoryview) -> None:
        """Fill one buffer.

        Raises:
            LinkBroken: the stream ended before.
        """
        await self.fill(iter((view,)))

    async def reset(self) -> None:
        """End it in both directions, without waiting for a peer that takes no data."""
        with trio.move_on_after(1) as scope:
            scope.shield = True
            try:
                await self._stream.reset()
            except STREAM_ERRORS:
                log.debug("the stream ended before its reset")


class Transport(TCP):
    """TCP with counted bytes, and with `accept` in the place of the library's handler."""

    def __init__(
        self, traffic: Traffic, accept: Callable[[TcpStream], Awaitable[None]], internet: tuple[Network, ...]
    ) -> None:
        """`accept` owns each new connection until it returns; `internet`: what counts as public besides."""
        super().__init__()
        self._internet = internet
        self._traffic = traffic
        self._accept = accept

    async def dial(self, maddr: Any) -> RawConnection:
        """See `TCP`; used by the library's own dials, of whom the DHT named.

        Raises:
            OpenConnectionError: the address is not public.
        """
        spot = endpoint(str(maddr))
        if spot is None or scope_of(spot.host, self._internet) is not Scope.PUBLIC:
            raise OpenConnectionError(f"{maddr} is not for us to dial")
        raw = await super().dial(maddr)
        key = next(iter(self._traffic.network_keys), b"")
        return RawConnection(watched(raw.stream.stream, self._traffic, key), True)

    def create_listener(self, handler_function: Any) -> TCPListener:
        """See `TCP`."""

        async def handle(stream: TrioTCPStream) -> None:
            await self._accept(watched(stream.stream, self._traffic))

        return TCPListener(handle)


def watched(stream: trio.SocketStream, traffic: Traffic, key: bytes = b"") -> TcpStream:
    """Return the connection, counted, and ended by the system when the other machine is gone.

    Our muxer pings; the standard one does not end a link that nobody answers on. `key`: the one of a private
    network with which this node speaks first; without it the other end may take any of ours.
    """
    if stream.socket.family == socket.AF_UNIX:
        return _counted(stream, traffic, key)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in TCP_WATCH.items():
        if hasattr(socket, name):  # no two systems know the same ones
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return _counted(stream, traffic, key)


def _counted(stream: trio.SocketStream, traffic: Traffic, key: bytes) -> TcpStream:
    keys = (key,) if key else traffic.network_keys
    return PrivateStream(stream, traffic, *keys) if keys else TcpStream(stream, traffic)


class DialOnDemandSwarm(Swarm):
    """Dials only for those who may; the library's GossipSub dials whom it has just lost."""

    async def dial_peer(self, peer_id: ID) -> list[Any]:
        """See `Swarm`.

        Raises:
            SwarmException: nobody answered, or the task may not dial.
        """
        if not may_dial.get():
            raise SwarmException("no link, and this part of the library may not dial")
        return list(await super().dial_peer(peer_id))


class NoAutoConnector(AutoConnector):
    """Dials nobody. The library's dials everybody it has heard of, also whom we have just dropped."""

    async def maybe_connect(self) -> None:
        """See `AutoConnector`."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """See `AutoConnector`."""
