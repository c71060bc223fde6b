"""A stream of the muxer: what was received and not yet read, and how much may be sent.

Both directions live by grants. A receiver may be sent as many bytes as it granted; it starts with
`BASE_WINDOW`. Whenever the reader has taken a quarter of the window, that is granted again and the
window doubles, up to `MAX_WINDOW` and as far as the budget of the link allows. A reader that waits
with `fill` gives memory ahead, and large records are opened right into it.

A stream that ends without its FIN ends in a reset: cut data never looks complete.
"""

import logging
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, Never, Protocol

import trio
from cryptography.exceptions import InvalidTag
from libp2p.abc import IMuxedStream
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.stream_muxer.exceptions import MuxedStreamClosed, MuxedStreamEOF, MuxedStreamReset

from shoal.gossip.events import Data, Loan
from shoal.gossip.net.transport.mux_frames import DATA, FIN, HEADER, MAX_REST, RST, WINDOW
from shoal.gossip.net.transport.records import CHUNK

log = logging.getLogger(__name__)

NOWHERE: Final = memoryview(b"")

BASE_WINDOW: Final = 256 * 1024
MAX_WINDOW: Final = 16 << 20
"""Bytes under way on one stream: fills 160 MB/s at 100 ms."""
LEAD: Final = 4096
"""Bytes that are put behind a frame's header; what is larger goes in records of its own."""
YIELD_BYTES: Final = 4 << 20
"""Bytes that one task may send or receive without letting others run: a millisecond or two."""
QUICK: Final = 0.02
"""Seconds in which a frame must be sent for the next to be larger: others of the link wait so long."""
SLOW: Final = 0.1
"""Seconds for a frame, after which the next are smaller than `CHUNK`, and wait until the system has room."""
LEAST: Final = 16 * 1024
"""Payload of a frame on the slowest line."""
TAKEN_AHEAD: Final = 512 * 1024
"""Bytes sent quickly on a slow line before that counts: so many the system may take without sending them."""
SMALL: Final = 64 * 1024
"""Received pieces are joined up to this size, so that one-byte frames cost no object each."""

MAX_STREAMS: Final = 256
"""Streams that the peer may have open at a time."""
MAX_UNCLAIMED: Final = 1 << 18
"""Bytes that may lie unread on a link, those of lanes apart: what serves other streams reads at once."""
LINK_ERRORS: Final = (IOException, RawConnError, OSError, InvalidTag, trio.ClosedResourceError)
"""How a connection below a muxer fails."""


class BadFrame(IOException):
    """A peer broke the rules of the muxer; it costs its link."""


class StreamHome(Protocol):
    """What a stream needs of its link."""

    peer_id: Any

    async def write_frame(
        self, head: bytes, body: bytes | memoryview = b"", loan: Loan | None = None
    ) -> None:
        """Send one frame: its header and the first of its body, and the rest, which may be lent."""
        ...

    async def wait_room(self) -> None:
        """Wait until the system holds little that it has not sent."""
        ...

    def grant(self, stream_id: int, size: int) -> None:
        """Tell the peer that it may send more."""
        ...

    def more_window(self, wanted: int) -> int:
        """Return how much a window may grow."""
        ...

    def forget_if_closed(self, stream: "FastStream") -> None:
        """Drop the bookkeeping of a stream that has ended."""
        ...

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the other end."""
        ...

    unclaimed: int
    """Bytes that lie unread in streams that are no lanes."""


class FastStream(IMuxedStream):
    """A two-way stream of bytes; one task may read and one may write at a time."""

    def __init__(self, stream_id: int, conn: "StreamHome") -> None:
        """Made by `FastMuxer` only."""
        self.stream_id = stream_id
        self.muxed_conn = conn
        self._parts: deque[bytearray] = deque()
        self._offset = 0
        self._unread = 0
        """Bytes that are counted in `unclaimed` of the link."""
        self._is_counted = True
        self._places: Iterator[memoryview] | None = None
        self._target = NOWHERE
        self._unyielded = 0
        self._reach = CHUNK
        """Bytes of the next frame's body at most; see `QUICK` and `SLOW`."""
        self._quickly = 0
        self.window = BASE_WINDOW
        self.credit = BASE_WINDOW
        self._untold = 0
        self.taken = 0
        """Bytes that have come and were read."""
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

    def claim(self) -> None:
        """Make it a lane: what lies unread in it is bounded by its window alone."""
        self._is_counted = False
        self._count(-self._unread)

    def _count(self, size: int) -> None:
        self._unread += size
        self.muxed_conn.unclaimed += size

    def allow(self, size: int) -> None:
        """Take a grant of the peer."""
        if size:
            self.send_window += size
            self._writable.set()

    def end_by_peer(self, *, reset: bool) -> None:
        """The peer ends its direction, or both at once."""
        self.recv_closed = True
        self.was_reset = self.was_reset or reset
        self._wake()

    def end_with_link(self) -> None:
        """The link is gone; what came without an end was cut."""
        if not self.recv_closed:
            self.was_reset = True
        self.send_closed = True
        self._wake()

    def _wake(self) -> None:
        self._readable.set()
        self._writable.set()

    async def write(self, data: Data, more: Data | Loan = NOWHERE) -> None:
        """Send everything, waiting for the receiver's grants; small `data` travels with `more`.

        Raises:
            MuxedStreamReset: the stream or its link ended.
            MuxedStreamClosed: we closed it before.
            TakenBack: a loan ended before all of it was sent; what was sent of it has no end.
        """
        loan = more if isinstance(more, Loan) else None
        lead = memoryview(data).cast("B")
        body = more.view if isinstance(more, Loan) else memoryview(more).cast("B")
        try:
            self._write_lock.acquire_nowait()
        except trio.WouldBlock:
            await self._write_lock.acquire()
        try:
            if len(lead) > LEAD:
                await self._send(NOWHERE, lead)
                lead = NOWHERE
            await self._send(lead, body, loan)
        finally:
            self._write_lock.release()

    async def _send(self, lead: memoryview, body: memoryview, loan: Loan | None = None) -> None:
        while lead or body:
            while self.send_window <= 0 or self.was_reset or self.send_closed:
                if self.was_reset:
                    raise MuxedStreamReset("the stream was reset")
                if self.send_closed:
                    raise MuxedStreamClosed("the stream is closed for sending")
                self._writable = trio.Event()
                await self._writable.wait()
            began = trio.current_time()
            if self._reach < CHUNK and len(lead) + len(body) > LEAD:
                await self.muxed_conn.wait_room()
                if self.was_reset or self.send_closed:
                    continue
            first = lead[: self.send_window]
            piece = body[: min(self._reach, self.send_window - len(first))]
            size = len(first) + len(piece)
            head = HEADER.pack(0, DATA, 0, self.stream_id, size) + first
            await self.muxed_conn.write_frame(head, piece, loan)
            self._pace(size, trio.current_time() - began)
            self.send_window -= size
            lead, body = lead[len(first) :], body[len(piece) :]
            self._unyielded += size
            if self._unyielded >= YIELD_BYTES:
                self._unyielded = 0
                await trio.lowlevel.checkpoint()

    def _pace(self, size: int, seconds: float) -> None:
        """Size the next frames by how long this one took: what is urgent waits for one of them at least."""
        if seconds >= SLOW:
            self._reach = max(LEAST, min(CHUNK, int(self._reach * QUICK / seconds)))
            self._quickly = 0
        elif seconds >= QUICK:
            self._reach = min(self._reach, CHUNK)
        elif self._reach >= CHUNK:
            self._reach = min(2 * self._reach, MAX_REST)
        else:
            self._quickly += size
            if self._quickly >= TAKEN_AHEAD:
                self._reach *= 2
                self._quickly = 0

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
        await self.fill(iter((view,)))

    async def fill(self, places: Iterator[memoryview]) -> None:
        """Fill one buffer after the other, until there are no more.

        `places` is asked for the next buffer as soon as one is full, also from the link's task: so a
        reader that knows its format is not woken in the middle of a message.

        Raises:
            MuxedStreamEOF: the stream ended before the last was full.
            MuxedStreamReset: the stream or its link was cut.
        """
        self._places = places
        self._next_place()
        try:
            while self._places is not None:
                if self._parts:
                    part = memoryview(self._parts[0])[self._offset :]
                    size = self._place(part)
                    part.release()
                    self._take(size)
                    continue
                if self.was_reset:
                    raise MuxedStreamReset("the stream was reset")
                if self.recv_closed:
                    raise MuxedStreamEOF("the stream has ended")
                self._readable = trio.Event()
                await self._readable.wait()
        finally:
            self._places, self._target = None, NOWHERE

    def _next_place(self) -> None:
        """Ask for buffers until one can take bytes, and wake the reader when there is none."""
        while self._places is not None and not self._target:
            try:
                self._target = next(self._places)
            except StopIteration:
                self._places = None
                self._readable.set()

    def _place(self, data: memoryview) -> int:
        """Put bytes where the reader wants them; return how many it wanted."""
        done = 0
        while done < len(data) and self._target:
            size = min(len(self._target), len(data) - done)
            self._target[:size] = data[done : done + size]
            self._target = self._target[size:]
            done += size
            self._next_place()
        return done

    async def _wait_readable(self) -> None:
        while not self._parts:
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
        if self._unread:
            self._count(-min(size, self._unread))
        self._consumed(size)

    def _consumed(self, size: int) -> None:
        """Grant again what was read, in batches, and more to a stream that is read quickly."""
        self.taken += size
        self._untold += size
        if self._untold < self.window // 4 or self.recv_closed or self.was_reset:
            return
        grant, self._untold = self._untold, 0
        extra = self.muxed_conn.more_window(self.window)
        self.window += extra
        self.credit += grant + extra
        self.muxed_conn.grant(self.stream_id, grant + extra)

    def target_for(self, size: int) -> memoryview | None:
        """Return where the next `size` bytes can be written at once, if the reader waits for so many."""
        if len(self._target) < size or size > self.credit or self.recv_closed or self.was_reset:
            return None
        return self._target[:size]

    def placed(self, size: int) -> None:
        """The bytes stand where `target_for` said."""
        self.credit -= size
        self._target = self._target[size:]
        self._next_place()
        self._consumed(size)

    def deliver(self, body: memoryview) -> None:
        """Take in bytes of a frame.

        Raises:
            BadFrame: more than was granted, or more than is read.
        """
        self.credit -= len(body)
        if self.credit < 0:
            raise BadFrame("the peer ignores flow control")
        if self.recv_closed or self.was_reset:
            return
        size = self._place(body)
        if size:
            self._consumed(size)
            body = body[size:]
        if not body:
            return
        if self._is_counted:
            self._count(len(body))
            if self.muxed_conn.unclaimed > MAX_UNCLAIMED:
                raise BadFrame("the peer sends what nobody reads")
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
        self._wake()
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
