"""The throttle, by arithmetic, and a lane that keeps to it in virtual time."""

import random
from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio
import trio.testing

from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Data, Loan, TakenBack
from shoal.gossip.net.frames import BULK, PREFIX, FrameReader, LinkBroken, Meter, Outbox, SlowlyTaken
from shoal.gossip.net.transport.throttle import BURST, Throttle

RATE = 100_000.0


def test_after_silence_a_burst_leaves_at_once_and_then_the_rate_holds() -> None:
    throttle = Throttle(RATE)
    assert throttle.wait(int(BURST * RATE), 10.0) == 0.0
    assert throttle.wait(50_000, 10.0) == pytest.approx(0.0)
    assert throttle.wait(1, 10.0) == pytest.approx(0.5)
    # Long silence gives no more credit than the burst.
    assert throttle.wait(100_000, 1000.0) == 0.0
    assert throttle.wait(1, 1000.0) == pytest.approx(1.0 - BURST)


@pytest.mark.parametrize("seed", range(5))
def test_whoever_waits_as_told_sends_no_faster_than_the_rate_and_loses_nothing(seed: int) -> None:
    dice, throttle, now, sent = random.Random(seed), Throttle(RATE), 5.0, 0
    began = now
    for _ in range(500):
        size = dice.randrange(1, 20_000)
        now += throttle.wait(size, now)
        sent += size
        assert sent - size <= RATE * (now - began + BURST) + 1e-6
    assert sent - size >= RATE * (now - began) - 20_000


class Sink:
    """A stream that takes everything, and notes when."""

    def __init__(self) -> None:
        self.taken = bytearray()
        self.pieces: list[int] = []

    async def write(self, data: object, more: object = b"") -> None:
        self.taken += bytes(data) + bytes(more)  # type: ignore[call-overload]
        self.pieces.append(len(bytes(more)))  # type: ignore[call-overload]


def test_a_lane_under_a_limit_sends_the_same_bytes_in_pieces_and_takes_its_time() -> None:
    data = random.Random(1).randbytes(400_000)
    sink, meter = Sink(), Meter()
    meter.throttle = Throttle(RATE)
    seconds = []

    async def send() -> None:
        outbox = Outbox(BULK)
        outbox.put(b"head", data)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.send_to, sink, lambda count: None, meter)
            await outbox.wait_sent()
            nursery.cancel_scope.cancel()
        seconds.append(trio.current_time() - began)

    trio.run(send, clock=trio.testing.MockClock(autojump_threshold=0))
    assert bytes(sink.taken) == PREFIX.pack(4, len(data)) + b"head" + data
    assert seconds[0] == pytest.approx(4.0 - BURST, abs=0.2)
    assert max(sink.pieces) <= 16 * 1024


def test_a_loan_that_ends_on_the_way_is_not_sent_on() -> None:
    memory = bytearray(b"a" * 100_000)
    loan = Loan(memoryview(memory))
    sink, meter = Sink(), Meter()
    meter.throttle = Throttle(RATE)

    async def send() -> None:
        outbox = Outbox(BULK)
        outbox.put(b"", loan)
        with pytest.RaisesGroup(TakenBack):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outbox.send_to, sink, lambda count: None, meter)
                await trio.sleep(0.5)
                loan.end()
                memory[:] = b"b" * len(memory)

    trio.run(send, clock=trio.testing.MockClock(autojump_threshold=0))
    assert 0 < len(sink.taken) < len(memory)
    assert b"b" not in sink.taken


class Source:
    """A stream that gives everything at once."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def write(self, data: object, more: object = b"") -> None:
        raise AssertionError("nothing is written")

    async def fill(self, places: Iterator[memoryview]) -> None:
        for place in places:
            if len(self.data) < len(place):
                raise LinkBroken("the end")
            place[:], self.data = self.data[: len(place)], self.data[len(place) :]


def test_a_lane_under_a_limit_takes_the_same_frames_and_takes_its_time() -> None:
    frames = [random.Random(number).randbytes(200_000) for number in range(2)]
    source = Source(b"".join(PREFIX.pack(4, len(data)) + b"head" + data for data in frames))
    found, seconds = [], []

    def take(head: bytes, data: Data) -> bool:
        found.append((head, bytes(data)))
        return True

    async def receive() -> None:
        began = trio.current_time()
        with suppress(LinkBroken):
            await FrameReader(BULK, take).read(SlowlyTaken(source, Throttle(RATE)))
        seconds.append(trio.current_time() - began)

    trio.run(receive, clock=trio.testing.MockClock(autojump_threshold=0))
    assert found == [(b"head", data) for data in frames]
    assert seconds[0] == pytest.approx(4.0 - BURST, abs=0.2)


def test_what_is_too_large_is_refused_under_a_limit_too() -> None:
    async def receive() -> None:
        source = SlowlyTaken(Source(PREFIX.pack(4, 1 << 30) + bytes(100)), Throttle(RATE))
        with pytest.raises(RemoteViolation):
            await FrameReader(BULK, lambda *_: True).read(source)

    trio.run(receive, clock=trio.testing.MockClock(autojump_threshold=0))
