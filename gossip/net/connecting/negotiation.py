"""How a connection becomes secured streams: the library's negotiation, with bounds, and with no way down.

    raw --security--> secured --muxer--> streams

The two ends choose each step by name (multistream-select). Security is chosen in the clear, the muxer within
the secured connection. Somebody on the way who denies our security protocols in the first step is found out
in the second: both ends then agree on our muxer over a session that is not ours, and the link ends
(`FastLinkDenied`). A node of ours therefore never falls back to what is weaker because somebody in between
wishes it.

https://github.com/multiformats/multistream-select
"""

import struct
from typing import Any, Final

import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.exceptions import ParseError
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    FLAG_SYN,
    HEADER_SIZE,
    TYPE_DATA,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
    Yamux,
)
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.transport.upgrader import TransportUpgrader
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from shoal.gossip.net.transport import muxer
from shoal.gossip.net.transport.muxer import FastMuxer
from shoal.gossip.net.transport.records import RecordSession
from shoal.gossip.net.transport.stream import MAX_STREAMS, MAX_UNCLAIMED

MAX_LINE: Final = 1024
"""Bytes of a line of multistream-select; as in go-multistream."""
MAX_LINES: Final = 64
"""Lines that are read until a protocol is agreed on."""
MAX_YAMUX_WINDOW: Final = 1 << 20
"""Bytes under way on a stream of the standard muxer: 10 MB/s at 100 ms."""
NEGOTIATION_PATIENCE: Final = 10
"""Seconds for the negotiation of a stream."""


class FastLinkDenied(MuxedConnUnavailable):
    """Both ends speak our links, and somebody in between kept them from agreeing on that."""


async def _read_line(self: MultiselectCommunicator) -> str:
    """Read a line of a negotiation, which is bounded; see `MultiselectCommunicator.read`.

    Raises:
        MultiselectCommunicatorError: the line is too long or none, or too many were read.
    """
    count = self.__dict__["lines"] = self.__dict__.get("lines", 0) + 1
    if count > MAX_LINES:
        raise MultiselectCommunicatorError("the negotiation does not end")
    try:
        line = await read_varint_prefixed_bytes_limited(self.read_writer, MAX_LINE)
        if not line.endswith(b"\n"):
            raise ParseError("not a line")
        text: str = line[:-1].decode()
        return text
    except (ParseError, IOException, UnicodeDecodeError) as error:
        raise MultiselectCommunicatorError("no line of a negotiation") from error


# By itself the library grows a window to 16 MiB on the sight of a few small reads.
yamux.MAX_WINDOW_SIZE = MAX_YAMUX_WINDOW

# The library makes these in three places of its own, and reads as many bytes as the other side announces.
MultiselectCommunicator.read = _read_line


class _Guard:
    """The bytes of a yamux connection, of which it ends with the first frame that breaks the rules."""

    def __init__(self, conn: ISecureConn, home: Yamux) -> None:
        self._conn, self._yamux = conn, home
        self._head = bytearray()
        self._body = 0
        self._fault = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    async def read(self, n: int | None = None) -> bytes:
        """Read at most `n` bytes.

        Raises:
            ConnectionClosedError: a frame that no peer may send has begun.
        """
        data = bytes(await self._conn.read(n))
        at = 0
        while at < len(data) and not self._fault:
            if self._body:
                size = min(self._body, len(data) - at)
                self._body -= size
            else:
                size = min(HEADER_SIZE - len(self._head), len(data) - at)
                self._head += data[at : at + size]
                if len(self._head) == HEADER_SIZE:
                    self._fault = self._look(*struct.unpack(YAMUX_HEADER_FORMAT, self._head))
                    self._head.clear()
            at += size
        if self._fault:
            with trio.move_on_after(1) as scope:
                scope.shield = True
                await self._conn.close()
            raise ConnectionClosedError(self._fault)
        return data

    def _look(self, version: int, kind: int, flags: int, stream_id: int, length: int) -> str:
        """Say what is wrong with a frame, or nothing."""
        stream = self._yamux.streams.get(stream_id)
        is_new = stream is None and flags & FLAG_SYN and kind in (TYPE_DATA, TYPE_WINDOW_UPDATE)
        if is_new and len(self._yamux.streams) >= MAX_STREAMS:
            return "too many streams"
        if kind != TYPE_DATA:
            return "" if version == 0 else "not yamux"
        self._body = length
        # What is for a stream that has ended here was under way, so it is within a first window.
        if length > (stream.recv_window if stream is not None else DEFAULT_WINDOW_SIZE):
            return "more than the window"
        if not hasattr(stream, "is_lane") and length + self._unclaimed() > MAX_UNCLAIMED:
            return "more than is read"
        return ""

    def _unclaimed(self) -> int:
        streams = self._yamux.streams
        waiting = self._yamux.stream_buffers.items()
        return sum(len(data) for key, data in waiting if not hasattr(streams.get(key), "is_lane"))


class StrictYamux(Yamux):
    """The library's, in which a peer that sends more than it was granted loses its link.

    By itself it only logs that, and keeps all that comes.
    """

    def __init__(self, conn: ISecureConn, peer_id: ID) -> None:
        """`conn`: secured."""

        async def on_close() -> None:
            """Do nothing: the library asks for something to await."""

        super().__init__(conn, peer_id, is_initiator=conn.is_initiator, on_close=on_close)
        self.secured_conn = _Guard(conn, self)


class _Muxers(MuxerMultistream):
    """The choice of the muxer, with ours in the place of the library's."""

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """See `MuxerMultistream`.

        Raises:
            FastLinkDenied: see the module's docstring.
        """
        protocol, muxer_class = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        if protocol == muxer.PROTOCOL and not isinstance(conn, RecordSession):
            raise FastLinkDenied("our security protocol was denied, and our muxer was not")
        made: Any = muxer_class
        return self._annotate_connection(made(conn, peer_id), conn, protocol)


class Upgrader(TransportUpgrader):
    """Secures connections and puts streams on them."""

    def __init__(self, security: dict[Any, Any], *, is_fast: bool) -> None:
        """`security`: transports by protocol, best first; `is_fast`: whether our muxer is offered."""
        muxers: dict[Any, Any] = ({muxer.PROTOCOL: FastMuxer} if is_fast else {}) | {YAMUX: StrictYamux}
        super().__init__(security, muxers, NEGOTIATION_PATIENCE)
        self.muxer_multistream = _Muxers(
            {TProtocol(name): each for name, each in muxers.items()}, NEGOTIATION_PATIENCE
        )
