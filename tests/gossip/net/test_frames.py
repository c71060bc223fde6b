"""Lanes: frames in order, and bounds before memory."""

from collections.abc import Iterator

import pytest
import trio
import trio.testing

from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Data, Loan
from shoal.gossip.net.frames import (
    BULK,
    CONTROL,
    JOINED_BYTES,
    MAX_DATA_BYTES,
    MAX_HEAD_BYTES,
    MAX_QUEUED,
    PREFIX,
    LinkBroken,
    Meter,
    Outbox,
    read_frame,
)


class Pipe:
    """What is written can be read."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.writes: list[int] = []

    async def write(self, data: Data, more: Data | Loan = b"") -> None:
        self.data += bytes(data) + bytes(more)
        self.writes.append(len(data) + len(more))

    async def fill(self, places: Iterator[memoryview]) -> None:
        for view in places:
            if len(self.data) < len(view):
                raise LinkBroken("the pipe is empty")
            view[:] = self.data[: len(view)]
            del self.data[: len(view)]


async def sent(outbox: Outbox, pipe: Pipe, meter: Meter | None = None) -> list[int]:
    """Send all that waits; return the payload sizes that were counted."""
    counted: list[int] = []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.send_to, pipe, counted.append, meter or Meter())
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    return counted


def test_frames_come_out_as_they_were_queued() -> None:
    async def main() -> None:
        for lane, frames in (
            (CONTROL, [(b"a" * size, b"") for size in (0, 1, 1000, MAX_HEAD_BYTES)]),
            (BULK, [(b"head", b"d" * size) for size in (1, 1000, MAX_DATA_BYTES)]),
        ):
            outbox, pipe = Outbox(lane), Pipe()
            for head, data in frames:
                assert outbox.put(head, data)
            counted = await sent(outbox, pipe)
            assert sum(counted) == sum(len(head) + len(data) for head, data in frames)
            for head, data in frames:
                read_head, read_data = await read_frame(pipe, lane)
                assert (read_head, bytes(read_data)) == (head, data)
            with pytest.raises(LinkBroken):
                await read_frame(pipe, lane)

    trio.run(main)


def test_what_was_taken_back_is_not_sent_and_what_is_behind_it_is() -> None:
    async def main() -> None:
        outbox, pipe = Outbox(BULK), Pipe()
        late, kept = Loan(memoryview(bytearray(b"late"))), Loan(memoryview(bytearray(b"kept")))
        for loan in (late, kept):
            outbox.put(b"head", loan)
        late.end()
        await sent(outbox, pipe)
        assert await read_frame(pipe, BULK) == (b"head", b"kept")
        assert not pipe.data

    trio.run(main)


def test_bulk_is_counted_with_the_time_in_which_any_of_it_waits() -> None:
    now = 0.0
    meter, outboxes = Meter(lambda: now), [Outbox(BULK), Outbox(BULK)]

    class Slow(Pipe):
        """A stream that takes data when it may."""

        may = trio.Event()

        async def write(self, data: Data, more: Data | Loan = b"") -> None:
            await self.may.wait()

    async def main() -> None:
        nonlocal now
        outboxes[0].put(b"head", bytes(1000))
        outboxes[1].put(b"head", bytes(500))
        async with trio.open_nursery() as nursery:
            for outbox in outboxes:
                nursery.start_soon(outbox.send_to, Slow(), lambda _: None, meter)
            await trio.testing.wait_all_tasks_blocked()
            now = 3.0
            Slow.may.set()
            await trio.testing.wait_all_tasks_blocked()
            now = 10.0
            nursery.cancel_scope.cancel()
        assert (meter.sent, meter.busy) == (1500, 3.0)
        control = Outbox(CONTROL)
        control.put(b"head", b"")
        await sent(control, Pipe(), meter)
        assert (meter.sent, meter.busy) == (1500, 3.0)

    trio.run(main)


def test_small_frames_that_wait_are_written_together() -> None:
    async def main() -> None:
        outbox, pipe = Outbox(CONTROL), Pipe()
        for _ in range(1000):
            outbox.put(bytes(1000), b"")
        await sent(outbox, pipe)
        assert len(pipe.writes) < 10
        assert max(pipe.writes) < JOINED_BYTES + 1000 + PREFIX.size

    trio.run(main)


def test_a_queue_that_is_full_takes_nothing() -> None:
    outbox = Outbox(CONTROL)
    for _ in range(MAX_QUEUED[CONTROL]):
        assert outbox.put(b"x", b"")
    assert not outbox.put(b"x", b"")
    assert len(outbox) == MAX_QUEUED[CONTROL]


@pytest.mark.parametrize(
    ("lane", "head", "data", "reason"),
    [
        (CONTROL, MAX_HEAD_BYTES + 1, 0, "head too large"),
        (CONTROL, 0xFFFFFFFF, 0, "head too large"),
        (CONTROL, 1, 1, "data too large"),
        (BULK, MAX_HEAD_BYTES + 1, 0, "head too large"),
        (BULK, 0, MAX_DATA_BYTES + 1, "data too large"),
        (BULK, 0, 0xFFFFFFFF, "data too large"),
    ],
)
def test_lengths_beyond_all_frames_are_refused_before_anything_is_read(
    lane: str, head: int, data: int, reason: str
) -> None:
    async def main() -> None:
        with pytest.raises(RemoteViolation) as caught:
            await read_frame(Pipe(PREFIX.pack(head, data)), lane)
        assert caught.value.reason == reason

    trio.run(main)
