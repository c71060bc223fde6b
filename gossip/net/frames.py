"""Lanes: frames over a stream, queued, bounded and counted.

    frame = head length (4 bytes, big endian) | data length (4 bytes) | head | data

Two peers have two lanes in each direction, a stream each: control frames have a head only and are
sent joined; bulk frames carry data, which is queued as a reference and written piece by piece as
the link takes it. So a control frame never waits behind more than one record of bulk.
"""

import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import trio

from shoal.gossip.buffers import BUFFERS
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Data, Loan
from shoal.gossip.net.transport.throttle import PIECE, Throttle

CONTROL: Final = "/shoal/control/1"
BULK: Final = "/shoal/bulk/1"
PREFIX: Final = struct.Struct("!II")
MAX_HEAD_BYTES: Final = 256 * 1024
MAX_DATA_BYTES: Final = 4 << 20
MAX_QUEUED: Final = {CONTROL: 1024, BULK: 8192}
"""Frames. A peer for whom more of them wait does not keep up with what it must know."""
JOINED_BYTES: Final = 128 * 1024


class LinkBroken(Exception):
    """The stream or the link below it ended."""


class ByteStream(Protocol):
    """What a lane needs of a stream; all methods raise `LinkBroken`."""

    async def write(self, data: Data, more: Data | Loan = b"") -> None:
        """Send everything; raises `TakenBack` too, in the middle of it, where a loan ends."""
        ...

    async def fill(self, places: Iterator[memoryview]) -> None:
        """Fill one buffer after the other, asking for the next when one is full."""
        ...


class Meter:
    """Counts bulk bytes sent, and the time during which at least one bulk write is in progress."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds."""
        self._clock = clock
        self.throttle: Throttle | None = None
        """What bulk waits for, where the owner of the line keeps a part of it."""
        self.sent = 0
        self.busy = 0.0
        self._writing = 0
        self._since = 0.0

    def __enter__(self) -> None:
        """A write begins."""
        if not self._writing:
            self._since = self._clock()
        self._writing += 1

    def __exit__(self, *_: object) -> None:
        """A write has ended."""
        self._writing -= 1
        if not self._writing:
            self.busy += self._clock() - self._since


class Outbox:
    """Frames waiting to be sent on one lane to one peer."""

    def __init__(self, lane: str) -> None:
        """`lane`: decides how many may wait."""
        self._frames: deque[tuple[bytes, Data | Loan]] = deque()
        self._limit = MAX_QUEUED[lane]
        self._filled = trio.Event()
        self._sent = trio.Event()
        self._writing = False

    def __len__(self) -> int:
        """Return how many frames wait."""
        return len(self._frames)

    def put(self, head: bytes, data: Data | Loan) -> bool:
        """Queue a frame; False if too many wait already."""
        if len(self._frames) >= self._limit:
            return False
        self._frames.append((head, data))
        self._filled.set()
        return True

    async def wait_filled(self) -> None:
        """Wait until there is a frame."""
        while not self._frames:
            self._filled = trio.Event()
            await self._filled.wait()

    async def wait_sent(self) -> None:
        """Wait until everything was written, or thrown away."""
        while self._frames or self._writing:
            if self._sent.is_set():
                self._sent = trio.Event()
            await self._sent.wait()

    def close(self) -> None:
        """Throw everything away."""
        self._frames.clear()
        self._writing = False
        self._sent.set()

    async def send_to(self, stream: ByteStream, sent: Callable[[int], None], meter: Meter) -> None:
        """Write what is queued, and go on until the link breaks.

        `sent` is told the payload bytes of each write, `meter` those of bulk. A frame that was on its way
        when the link broke is not sent again: half of it may have arrived.

        Raises:
            LinkBroken: the stream ended.
            TakenBack: a loan ended when half of it was sent; the stream is of no more use.
        """
        while True:
            await self.wait_filled()
            self._writing = True
            try:
                await self._write_next(stream, sent, meter)
            finally:
                self._writing = False
                if not self._frames:
                    self._sent.set()

    async def _write_next(self, stream: ByteStream, sent: Callable[[int], None], meter: Meter) -> None:
        head, data = self._frames.popleft()
        if isinstance(data, Loan) and data.is_over:
            return
        prefix = PREFIX.pack(len(head), len(data))
        if data:
            with meter:
                if meter.throttle is None:
                    await stream.write(prefix + head, data)
                else:
                    await _write_slowly(stream, prefix + head, data, meter.throttle)
            meter.sent += len(data)
            sent(len(head) + len(data))
        else:
            joined, count = self._joined(prefix + head)
            await stream.write(joined)
            sent(len(joined) - count * PREFIX.size)

    def _joined(self, first: bytes) -> tuple[bytes, int]:
        """Return this frame and the small ones right behind it as one piece, and how many they are."""
        pieces, size = [first], len(first)
        while self._frames and not self._frames[0][1] and size < JOINED_BYTES:
            head, _ = self._frames.popleft()
            pieces.append(PREFIX.pack(len(head), 0) + head)
            size += len(pieces[-1])
        return b"".join(pieces), len(pieces)


async def _write_slowly(stream: ByteStream, head: bytes, data: Data | Loan, throttle: Throttle) -> None:
    """Write a frame in pieces, each when there is room for it on the line; a loan may end between two."""
    for start in range(0, len(data), PIECE):
        n_bytes = len(head) + min(PIECE, len(data) - start)
        await trio.sleep(throttle.wait(n_bytes, trio.current_time()))
        view = memoryview(data.view if isinstance(data, Loan) else data).cast("B")
        # Copied, since what is lent may be taken back while the link takes the piece.
        await stream.write(head, bytes(view[start : start + PIECE]))
        head = b""


class SlowlyTaken:
    """A stream of which no more is taken than a throttle lets: its window then holds the sender back."""

    def __init__(self, stream: ByteStream, throttle: Throttle) -> None:
        """`throttle`: of all that the node takes."""
        self._stream, self._throttle = stream, throttle

    async def write(self, data: Data, more: Data | Loan = b"") -> None:
        """See `ByteStream`."""
        await self._stream.write(data, more)

    async def fill(self, places: Iterator[memoryview]) -> None:
        """See `ByteStream`."""
        for place in places:
            for start in range(0, len(place), PIECE):
                piece = place[start : start + PIECE]
                await self._stream.fill(iter((piece,)))
                await trio.sleep(self._throttle.wait(len(piece), trio.current_time()))


class FrameReader:
    """Cuts the bytes of a lane into frames, wherever they come from."""

    def __init__(
        self, lane: str, take: Callable[[bytes, Data], bool], max_head: int = MAX_HEAD_BYTES
    ) -> None:
        """`take` is handed each frame and says whether it wants more."""
        self._take = take
        self._max_head = max_head
        self._max_data = MAX_DATA_BYTES if lane == BULK else 0
        self._violation: RemoteViolation | None = None

    async def read(self, stream: ByteStream) -> None:
        """Read frames until enough were taken.

        Raises:
            LinkBroken: the stream ended.
            RemoteViolation: a frame is larger than any of ours.
        """
        await stream.fill(self._places())
        if self._violation is not None:
            raise self._violation

    def _places(self) -> Iterator[memoryview]:
        """Yield the memory for what comes next; none is taken before the lengths were checked."""
        prefix = memoryview(bytearray(PREFIX.size))
        wants_more = True
        while wants_more:
            yield prefix
            head_size, data_size = PREFIX.unpack(prefix)
            if head_size > self._max_head:
                self._violation = RemoteViolation("head too large", f"{head_size} bytes")
                return
            if data_size > self._max_data:
                self._violation = RemoteViolation("data too large", f"{data_size} bytes")
                return
            head = bytearray(head_size)
            yield memoryview(head)
            data: Data = b""
            if data_size:
                data = BUFFERS.take(data_size)
                yield data
            wants_more = self._take(bytes(head), data)
            del data  # whoever took it decides how long it lives


async def read_frame(stream: ByteStream, lane: str, max_head: int = MAX_HEAD_BYTES) -> tuple[bytes, Data]:
    """Return the next frame.

    Raises:
        LinkBroken: the stream ended.
        RemoteViolation: the frame is larger than any of ours.
    """
    frames: list[tuple[bytes, Data]] = []

    def take(head: bytes, data: Data) -> bool:
        frames.append((head, data))
        return False

    await FrameReader(lane, take, max_head).read(stream)
    return frames[0]
