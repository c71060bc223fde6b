"""Muxer: many streams over one record session, with large frames and no polling.

    read_record --> frames --> streams (stream.py) --> readers
    writers --> DATA frames --> write_records
    grants, pongs, refusals --> outbox --> one record for all that have gathered

What the receiving loop has to say goes through an outbox with a task of its own. If it wrote by
itself, two peers whose sockets are full could wait for each other for ever.

A link on which nothing was heard for `PING_EVERY` is pinged, and closed when nothing comes within
`PING_WAIT`. Every fault of the peer ends its link and nothing else.
"""

import logging
from typing import Any, Final

import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable

from shoal.gossip.events import Loan
from shoal.gossip.net.transport.mux_frames import (
    ACK,
    DATA,
    FIN,
    GOAWAY,
    HEADER,
    MAX_REST,
    PING,
    RST,
    SYN,
    WINDOW,
)
from shoal.gossip.net.transport.records import RecordSession
from shoal.gossip.net.transport.stream import (
    BASE_WINDOW,
    LINK_ERRORS,
    MAX_STREAMS,
    MAX_WINDOW,
    YIELD_BYTES,
    BadFrame,
    FastStream,
)

log = logging.getLogger(__name__)

PROTOCOL: Final = "/shoal/mux/2"
LINK_BUDGET: Final = 64 << 20
"""Bytes a link may have to keep for all its streams together."""
MAX_OUTBOX: Final = 1024
"""Replies waiting to be sent. A peer that causes more of them reads nothing."""
PING_EVERY: Final = 15.0
PING_WAIT: Final = 20.0
DOUBT_WAIT: Final = 5.0
"""Like `PING_WAIT`, for a link that is doubted."""
CLOSE_PATIENCE: Final = 2.0
"""Seconds for those who are told that a link ended; none of ours takes a tenth of it."""


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
        self.on_close: Any = None
        """Awaited once, when the link has ended; set by the library."""
        self.streams: dict[int, FastStream] = {}
        self.unclaimed = 0
        """Bytes that lie unread in streams that are no lanes."""
        self.rtt = 0.0
        """Seconds of the last ping there and back."""
        self._ended = trio.Event()
        self._closed = trio.Event()
        self._next_id = 1 if conn.is_initiator else 2
        self._n_theirs = 0
        self._promised = 0
        self._accept_in, self._accept_out = trio.open_memory_channel[FastStream](MAX_STREAMS)
        self._grants: dict[int, int] = {}
        self._replies: list[bytes] = []
        self._outbox_filled = trio.Event()
        # The stream whose frame goes on in the next records, and for how many bytes.
        self._goes_on: tuple[FastStream | None, int] | None = None
        self._heard = trio.current_time()
        self._ping_sent = 0.0
        self._pong = trio.Event()
        self._doubted = trio.Event()

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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_outbox)
            nursery.start_soon(self._keep_alive)
            self.event_started.set()
            try:
                await self._receive()
            finally:
                # Before the tasks are cancelled: one may stand in a record that it must not cut, and
                # only the end of the connection lets it go.
                with trio.move_on_after(CLOSE_PATIENCE) as scope:
                    scope.shield = True
                    await self.close()
                nursery.cancel_scope.cancel()

    async def close(self) -> None:
        """End the link and all its streams."""
        if self._ended.is_set():
            return
        self._ended.set()
        for stream in list(self.streams.values()):
            stream.end_with_link()
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

    def probe(self) -> None:
        """Ping now, and close the link soon if nothing comes."""
        self._doubted.set()

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

    async def write_frame(
        self, head: bytes, body: bytes | memoryview = b"", loan: Loan | None = None
    ) -> None:
        """Send one frame: its header and the first of its body, and the rest, which may be lent."""
        await self.secured_conn.write_records(head, body, loan)

    async def wait_room(self) -> None:
        """Wait until the system holds little that it has not sent."""
        await self.secured_conn.wait_room()

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
            stream.claim()  # it is read on by whoever holds it, or gone
            self._grants.pop(stream.stream_id, None)
            self._n_theirs -= self._is_theirs(stream.stream_id)

    def _is_theirs(self, stream_id: int) -> bool:
        return stream_id % 2 == (0 if self.is_initiator else 1)

    def _add(self, stream_id: int) -> FastStream:
        stream = self.streams[stream_id] = FastStream(stream_id, self)
        self._promised += BASE_WINDOW
        self._n_theirs += self._is_theirs(stream_id)
        return stream

    async def _receive(self) -> None:
        """Read records until the link ends."""
        unyielded = 0
        try:
            while True:
                size = await self.secured_conn.wait_record()
                self._heard = trio.current_time()
                if self._goes_on is None:
                    self._take_record(self.secured_conn.open_record())
                else:
                    self._take_rest(size)
                unyielded += size
                if unyielded >= YIELD_BYTES:
                    unyielded = 0
                    await trio.lowlevel.checkpoint()
        except LINK_ERRORS as error:
            log.debug("link to %s ended: %s", str(self.peer_id)[-8:], error)

    def _take_record(self, record: memoryview) -> None:
        """Handle the frames of a record.

        Raises:
            BadFrame: the peer broke the rules.
        """
        at = 0
        while at < len(record):
            if len(record) - at < HEADER.size:
                raise BadFrame("a header is cut")
            version, kind, flags, stream_id, length = HEADER.unpack_from(record, at)
            at += HEADER.size
            if version or kind > PING:
                raise BadFrame("the peer says goodbye" if kind == GOAWAY else "no frame of this protocol")
            if kind == PING:
                self._on_ping(flags, length)
                continue
            body = record[at : at + length] if kind == DATA else record[:0]
            at += len(body)
            self._on_frame(kind, flags, stream_id, length, body)
            if kind == DATA and len(body) < length:
                if flags or length - len(body) > MAX_REST:
                    raise BadFrame("a frame that cannot go on")
                self._goes_on = self.streams.get(stream_id), length - len(body)

    def _take_rest(self, size: int) -> None:
        """Handle a record that is of the rest of a frame's body.

        Raises:
            BadFrame: it is not.
        """
        assert self._goes_on is not None
        stream, rest = self._goes_on
        if not 0 < size <= rest:
            raise BadFrame("the rest of a frame is of another size")
        self._goes_on = (stream, rest - size) if size < rest else None
        target = stream.target_for(size) if stream is not None else None
        body = self.secured_conn.open_record(target)
        if stream is not None:
            if target is None:
                stream.deliver(body)
            else:
                stream.placed(size)

    def _on_ping(self, flags: int, value: int) -> None:
        if flags & SYN:
            self._reply(HEADER.pack(0, PING, ACK, 0, value))
        else:
            self.rtt = trio.current_time() - self._ping_sent
            self._pong.set()

    def _on_frame(self, kind: int, flags: int, stream_id: int, length: int, body: memoryview) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            if not flags & SYN:
                return  # closed here, still under way there
            stream = self._accept(stream_id)
            if stream is None:
                return
        if kind == WINDOW:
            stream.allow(length)
        elif body:
            stream.deliver(body)
        if flags & (FIN | RST):
            stream.end_by_peer(reset=bool(flags & RST))
            self.forget_if_closed(stream)

    def _accept(self, stream_id: int) -> FastStream | None:
        """Take a stream that the peer opens, or refuse it."""
        if not self._is_theirs(stream_id):
            raise BadFrame("a stream id of ours")
        if self._n_theirs < MAX_STREAMS:
            stream = self._add(stream_id)
            try:
                self._accept_in.send_nowait(stream)
                return stream
            except trio.WouldBlock:
                stream.end_by_peer(reset=True)
                self.forget_if_closed(stream)
        self._reply(HEADER.pack(0, WINDOW, RST, stream_id, 0))
        return None

    def _reply(self, frame: bytes) -> None:
        if len(self._replies) >= MAX_OUTBOX:
            raise BadFrame("the peer asks much and reads nothing")
        self._replies.append(frame)
        self._outbox_filled.set()

    async def _send_outbox(self) -> None:
        while not self._ended.is_set():
            await self._outbox_filled.wait()
            self._outbox_filled = trio.Event()
            frames, self._replies = self._replies, []
            grants, self._grants = self._grants, {}
            frames += [HEADER.pack(0, WINDOW, 0, stream, size) for stream, size in grants.items()]
            if frames:
                try:
                    await self.secured_conn.write_record(b"".join(frames))
                except LINK_ERRORS:
                    return  # `_receive` sees it as well

    async def _keep_alive(self) -> None:
        """Ping a silent or doubted link, and close its connection when nothing comes."""
        patience = PING_WAIT
        await trio.sleep(0.5)
        while True:
            asked = self._ping_sent = trio.current_time()
            self._pong = trio.Event()
            self._replies.append(HEADER.pack(0, PING, SYN, 0, 0))
            self._outbox_filled.set()
            with trio.move_on_after(patience):
                await self._pong.wait()
            if self._heard < asked:
                log.info("link to %s does not answer", str(self.peer_id)[-8:])
                await self.secured_conn.close()  # `_receive` then ends the link
                return
            patience = await self._wait_silence()

    async def _wait_silence(self) -> float:
        """Wait until the link is silent or doubted; return how long an answer may take."""
        while (wait := self._heard + PING_EVERY - trio.current_time()) > 0:
            with trio.move_on_after(wait):
                await self._doubted.wait()
                self._doubted = trio.Event()
                return DOUBT_WAIT
        return PING_WAIT

    def get_transport_addresses(self) -> list[Any]:
        """See `IMuxedConn`."""
        return list(self.secured_conn.get_transport_addresses())

    def get_connection_type(self) -> Any:
        """See `IMuxedConn`."""
        return self.secured_conn.get_connection_type()

    def get_remote_address(self) -> tuple[str, int] | None:
        """See `IMuxedConn`."""
        return self.secured_conn.get_remote_address()
