"""Muxer: many streams over one record session, with frames of up to 256 KiB and no polling.

Frames have the header of yamux (version, type, flags, stream, length), but travel inside records:
one record holds one DATA frame, or any number of small ones. The rest is ours:

- Every stream may be sent as many bytes as its receiver granted. It starts with `BASE_WINDOW`;
  whenever a reader has taken a quarter of the window, that is granted again and the window doubles,
  up to `MAX_WINDOW` and as far as `LINK_BUDGET` allows for all streams of a link together. A peer
  that sends more than it was granted loses the link.
- What the receiving loop has to say (grants, pongs, refusals) goes through an outbox with a task of
  its own. If it wrote by itself, two peers whose sockets are full could wait for each other for ever.
- A reader that waits with `read_into` gets its bytes from the opened record without another copy.
- A link on which nothing was heard for `PING_EVERY` is pinged, and closed after `PING_WAIT`.
- A stream that ends without its FIN ends in a reset: cut data never looks complete.

yamux: https://github.com/hashicorp/yamux/blob/master/spec.md
"""

import logging
import struct
from collections import deque
from typing import Any, Final, Never

import trio
from cryptography.exceptions import InvalidTag
from libp2p.abc import IMuxedConn, IMuxedStream, ISecureConn
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamReset,
)

from gossip.fast_link import CHUNK, RecordSession

log = logging.getLogger(__name__)

PROTOCOL: Final = "/shoal/mux/1"
HEADER: Final = struct.Struct("!BBHII")
"""version, type, flags, stream, length."""
DATA, WINDOW, PING, GOAWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8
BASE_WINDOW: Final = 256 * 1024
MAX_WINDOW: Final = 16 << 20
"""Bytes under way on one stream: fills 160 MB/s at 100 ms."""
LINK_BUDGET: Final = 64 << 20
"""Bytes a link may have to keep for all its streams together."""
MAX_STREAMS: Final = 256
"""Streams that the peer may have opened at a time."""
MAX_OUTBOX: Final = 1024
"""Refusals waiting to be sent. A peer that causes more of them reads nothing."""
SMALL: Final = 64 * 1024
"""Received pieces are joined up to this size, so that one-byte frames cost no object each."""
PING_EVERY: Final = 15.0
PING_WAIT: Final = 20.0
CLOSE_PATIENCE: Final = 2.0
"""Seconds for those who are told that a link ended; none of ours takes a tenth of it."""

LINK_ERRORS: Final = (IOException, RawConnError, OSError, InvalidTag, trio.ClosedResourceError)
"""How a connection below a muxer fails."""


class BadFrame(IOException):
    """A peer broke the rules of the muxer; it costs its link."""


class FastStream(IMuxedStream):
    """A two-way stream of bytes; one task may read and one may write at a time."""

    def __init__(self, stream_id: int, conn: "FastMuxer") -> None:
        """Made by `FastMuxer` only."""
        self.stream_id = stream_id
        self.muxed_conn: FastMuxer = conn
        self._parts: deque[bytearray] = deque()
        self._offset = 0
        self._target: memoryview | None = None
        self.window = BASE_WINDOW
        self.credit = BASE_WINDOW
        self._untold = 0
        self.send_window = BASE_WINDOW
        self.send_closed = False
        self.recv_closed = False
        self.was_reset = False
        self._write_lock = trio.Lock()
        self._readable = trio.Event()
        self._writable = trio.Event()

    @property
    def closed(self) -> bool:
        """Whether both directions have ended."""
        return self.was_reset or (self.send_closed and self.recv_closed)

    def wake(self) -> None:
        """Let the reader and the writer look again."""
        self._readable.set()
        self._writable.set()

    async def write(self, data: bytes | memoryview) -> None:
        """Send everything, waiting for the receiver's grants.

        Raises:
            MuxedStreamReset: the stream or its link ended.
            MuxedStreamClosed: we closed it before.
        """
        view = memoryview(data).cast("B")
        async with self._write_lock:
            while view:
                if self.was_reset:
                    raise MuxedStreamReset("the stream was reset")
                if self.send_closed:
                    raise MuxedStreamClosed("the stream is closed for sending")
                if self.send_window <= 0:
                    self._writable = trio.Event()
                    await self._writable.wait()
                    continue
                size = min(CHUNK, self.send_window, len(view))
                await self.muxed_conn.write_frame(HEADER.pack(0, DATA, 0, self.stream_id, size), view[:size])
                self.send_window -= size
                view = view[size:]

    async def read(self, n: int | None = None) -> bytes:
        """Return at most `n` bytes as soon as there are any; without `n` everything up to the end.

        Raises:
            MuxedStreamEOF: the peer ended the stream.
            MuxedStreamReset: the stream or its link was cut.
        """
        if n is None or n < 0:
            everything = bytearray()
            while True:
                try:
                    everything += await self.read(CHUNK)
                except MuxedStreamEOF:
                    return bytes(everything)
        if not self._parts:
            await self._wait_readable()
        part = self._parts[0]
        data = bytes(memoryview(part)[self._offset : self._offset + n])
        self._take(len(data))
        return data

    async def read_into(self, view: memoryview) -> None:
        """Fill the buffer.

        Raises:
            MuxedStreamEOF: the stream ended before it was full.
            MuxedStreamReset: the stream or its link was cut.
        """
        while view:
            if not self._parts:
                self._target = view
                try:
                    await self._wait_readable()
                finally:
                    view, self._target = self._target, None
                continue
            part = memoryview(self._parts[0])[self._offset : self._offset + len(view)]
            size = len(part)
            view[:size] = part
            view = view[size:]
            part.release()
            self._take(size)

    async def _wait_readable(self) -> None:
        """Wait until there are parts, or the target is full."""
        while not self._parts and (self._target is None or len(self._target)):
            if self.was_reset:
                raise MuxedStreamReset("the stream was reset")
            if self.recv_closed:
                raise MuxedStreamEOF("the stream has ended")
            self._readable = trio.Event()
            await self._readable.wait()

    def _take(self, size: int) -> None:
        """Account for bytes that left the first part."""
        self._offset += size
        if self._offset == len(self._parts[0]):
            self._parts.popleft()
            self._offset = 0
        self._consumed(size)

    def _consumed(self, size: int) -> None:
        """Grant again what was read, in batches, and more to a stream that is read quickly."""
        self._untold += size
        if self._untold < self.window // 4 or self.recv_closed or self.was_reset:
            return
        grant, self._untold = self._untold, 0
        extra = self.muxed_conn.more_window(self.window)
        self.window += extra
        self.credit += grant + extra
        self.muxed_conn.grant(self.stream_id, grant + extra)

    def deliver(self, body: memoryview) -> None:
        """Take in bytes of a frame.

        Raises:
            BadFrame: more than was granted.
        """
        self.credit -= len(body)
        if self.credit < 0:
            raise BadFrame("the peer ignores flow control")
        if self.recv_closed or self.was_reset:
            return
        if self._target is not None and not self._parts:
            size = min(len(self._target), len(body))
            self._target[:size] = body[:size]
            self._target = self._target[size:]
            body = body[size:]
            self._consumed(size)
            if self._target and not body:
                return
        if body:
            if self._parts and len(self._parts[-1]) + len(body) <= SMALL:
                self._parts[-1] += body
            else:
                self._parts.append(bytearray(body))
        self._readable.set()

    async def close(self) -> None:
        """End our direction; the peer's bytes can still be read."""
        if self.send_closed or self.was_reset:
            return
        self.send_closed = True
        self._writable.set()
        self.muxed_conn.forget_if_closed(self)
        try:
            await self.muxed_conn.write_frame(HEADER.pack(0, WINDOW, FIN, self.stream_id, 0))
        except LINK_ERRORS:
            log.debug("stream %d ended with its link", self.stream_id)

    async def reset(self) -> None:
        """End both directions at once."""
        if self.closed:
            return
        self.was_reset = True
        self.wake()
        self.muxed_conn.forget_if_closed(self)
        try:
            await self.muxed_conn.write_frame(HEADER.pack(0, WINDOW, RST, self.stream_id, 0))
        except LINK_ERRORS:
            log.debug("stream %d ended with its link", self.stream_id)

    def set_deadline(self, ttl: int) -> Never:
        """Refuse: waits are bounded by cancel scopes here."""
        raise NotImplementedError("use trio.move_on_after")

    def get_remote_address(self) -> tuple[str, int] | None:
        """See `IMuxedStream`."""
        return self.muxed_conn.get_remote_address()

    async def __aenter__(self) -> "FastStream":
        """Return itself; the stream is closed at the end."""
        return self


class FastMuxer(IMuxedConn):
    """The streams of one link; see the module's docstring."""

    def __init__(self, conn: ISecureConn, peer_id: ID) -> None:
        """`conn`: a `RecordSession`.

        Raises:
            MuxedConnUnavailable: secured in another way; no peer of ours chooses that.
        """
        if not isinstance(conn, RecordSession):
            raise MuxedConnUnavailable("this muxer needs records below it")
        self.peer_id = peer_id
        self.secured_conn = conn
        self.event_started = trio.Event()
        self._ended = trio.Event()
        self._closed = trio.Event()
        self.on_close: Any = None
        self.streams: dict[int, FastStream] = {}
        self._next_id = 1 if conn.is_initiator else 2
        self._promised = 0
        self._inbound = 0
        self._accept_in, self._accept_out = trio.open_memory_channel[FastStream](MAX_STREAMS)
        self._grants: dict[int, int] = {}
        self._small: list[bytes] = []
        self._outbox_filled = trio.Event()
        self._heard = trio.current_time()
        self._ping_sent = 0.0
        self.rtt = 0.0

    @property
    def is_initiator(self) -> bool:
        """Whether we dialled."""
        return bool(self.secured_conn.is_initiator)

    @property
    def is_established(self) -> bool:
        """Whether streams can be opened."""
        return self.event_started.is_set() and not self._ended.is_set()

    @property
    def is_closed(self) -> bool:
        """Whether the link is gone."""
        return self._closed.is_set()

    async def start(self) -> None:
        """Run the link until it ends."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_outbox)
                nursery.start_soon(self._keep_alive)
                self.event_started.set()
                await self._receive()
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(CLOSE_PATIENCE) as scope:
                scope.shield = True
                await self.close()

    async def close(self) -> None:
        """End the link and all its streams."""
        if self._ended.is_set():
            return
        self._ended.set()
        for stream in list(self.streams.values()):
            if not stream.recv_closed:
                stream.was_reset = True
            stream.send_closed = True
            stream.wake()
        self.streams.clear()
        self._accept_in.close()
        self._outbox_filled.set()
        try:
            await self.secured_conn.close()
        except LINK_ERRORS:
            log.debug("the link was closed before")
        finally:
            self._closed.set()
        if self.on_close is not None:
            await self.on_close()

    async def open_stream(self) -> FastStream:
        """Open a stream.

        Raises:
            MuxedConnUnavailable: the link has ended.
        """
        if self._ended.is_set():
            raise MuxedConnUnavailable("the link has ended")
        stream_id, self._next_id = self._next_id, self._next_id + 2
        stream = self._add(stream_id)
        try:
            await self.write_frame(HEADER.pack(0, WINDOW, SYN, stream_id, 0))
        except LINK_ERRORS as error:
            raise MuxedConnUnavailable("the link has ended") from error
        return stream

    async def accept_stream(self) -> FastStream:
        """Wait for a stream that the peer opens.

        Raises:
            MuxedConnUnavailable: the link has ended.
        """
        try:
            return await self._accept_out.receive()
        except trio.EndOfChannel as error:
            raise MuxedConnUnavailable("the link has ended") from error

    async def write_frame(self, header: bytes, body: bytes | memoryview = b"") -> None:
        """Send one frame in a record of its own."""
        await self.secured_conn.write_record(header, body)

    def grant(self, stream_id: int, size: int) -> None:
        """Tell the peer, soon, that it may send so many bytes more."""
        self._grants[stream_id] = self._grants.get(stream_id, 0) + size
        self._outbox_filled.set()

    def more_window(self, wanted: int) -> int:
        """Return how much a stream's window may grow."""
        if wanted >= MAX_WINDOW or self._promised + wanted > LINK_BUDGET:
            return 0
        self._promised += wanted
        return wanted

    def forget_if_closed(self, stream: FastStream) -> None:
        """Drop the bookkeeping of a stream that has ended; what it received stays readable."""
        if stream.closed and self.streams.pop(stream.stream_id, None) is not None:
            self._promised -= stream.window
            self._grants.pop(stream.stream_id, None)
            self._inbound -= self._is_theirs(stream.stream_id)

    def _is_theirs(self, stream_id: int) -> bool:
        return stream_id % 2 == (0 if self.is_initiator else 1)

    def _add(self, stream_id: int) -> FastStream:
        stream = self.streams[stream_id] = FastStream(stream_id, self)
        self._promised += BASE_WINDOW
        self._inbound += self._is_theirs(stream_id)
        return stream

    async def _receive(self) -> None:
        """Read records until the link ends; every fault of the peer ends it."""
        try:
            while True:
                record = await self.secured_conn.read_record()
                self._heard = trio.current_time()
                at = 0
                while at < len(record):
                    if len(record) - at < HEADER.size:
                        raise BadFrame("a header is cut")
                    version, kind, flags, stream_id, length = HEADER.unpack_from(record, at)
                    at += HEADER.size
                    if version or kind > GOAWAY or (kind == DATA and length > len(record) - at):
                        raise BadFrame("no frame of this protocol")
                    if kind == GOAWAY:
                        return
                    if kind == PING:
                        self._on_ping(flags, length)
                        continue
                    body = record[at : at + length] if kind == DATA else record[:0]
                    at += len(body)
                    self._on_frame(kind, flags, stream_id, length, body)
        except LINK_ERRORS as error:
            log.debug("link to %s ended: %s", str(self.peer_id)[-8:], error)

    def _on_ping(self, flags: int, value: int) -> None:
        if flags & SYN:
            self._post(HEADER.pack(0, PING, ACK, 0, value))
        else:
            self.rtt = trio.current_time() - self._ping_sent

    def _on_frame(self, kind: int, flags: int, stream_id: int, length: int, body: memoryview) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            if not flags & SYN:
                return  # closed here, still under way there
            stream = self._accept(stream_id)
            if stream is None:
                return
        if kind == WINDOW:
            if length:
                stream.send_window += length
                stream.wake()
        elif body:
            stream.deliver(body)
        if flags & FIN:
            stream.recv_closed = True
        if flags & RST:
            stream.was_reset = True
        if flags & (FIN | RST):
            stream.wake()
            self.forget_if_closed(stream)

    def _accept(self, stream_id: int) -> FastStream | None:
        """Take a stream that the peer opens, or refuse it."""
        if not self._is_theirs(stream_id):
            raise BadFrame("a stream id of ours")
        if self._inbound < MAX_STREAMS:
            stream = self._add(stream_id)
            try:
                self._accept_in.send_nowait(stream)
                return stream
            except trio.WouldBlock:
                stream.was_reset = True
                self.forget_if_closed(stream)
        self._post(HEADER.pack(0, WINDOW, RST, stream_id, 0))
        return None

    def _post(self, frame: bytes) -> None:
        if len(self._small) >= MAX_OUTBOX:
            raise BadFrame("the peer asks much and reads nothing")
        self._small.append(frame)
        self._outbox_filled.set()

    async def _send_outbox(self) -> None:
        """Send grants and replies, all that have gathered in one record."""
        while not self._ended.is_set():
            await self._outbox_filled.wait()
            self._outbox_filled = trio.Event()
            frames, self._small = self._small, []
            grants, self._grants = self._grants, {}
            frames += [HEADER.pack(0, WINDOW, 0, stream, size) for stream, size in grants.items()]
            if frames:
                try:
                    await self.secured_conn.write_record(b"".join(frames))
                except LINK_ERRORS:
                    return

    async def _keep_alive(self) -> None:
        """Ping a silent link, and close its connection when nothing answers."""
        await trio.sleep(0.5)
        while True:
            asked = self._ping_sent = trio.current_time()
            self._small.append(HEADER.pack(0, PING, SYN, 0, 0))
            self._outbox_filled.set()
            await trio.sleep(PING_WAIT)
            if self._heard < asked:
                log.info("link to %s does not answer", str(self.peer_id)[-8:])
                await self.secured_conn.close()  # `_receive` then ends the link
                return
            while (wait := self._heard + PING_EVERY - trio.current_time()) > 0:
                await trio.sleep(wait)

    def get_transport_addresses(self) -> list[Any]:
        """See `IMuxedConn`."""
        return list(self.secured_conn.get_transport_addresses())

    def get_connection_type(self) -> Any:
        """See `IMuxedConn`."""
        return self.secured_conn.get_connection_type()

    def get_remote_address(self) -> tuple[str, int] | None:
        """See `IMuxedConn`."""
        address: tuple[str, int] | None = self.secured_conn.get_remote_address()
        return address
