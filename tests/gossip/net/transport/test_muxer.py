"""The muxer: streams side by side, flow control, and peers that break its rules."""

import gc
import hashlib
import random
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from fast_pairs import muxers, over_tcp, wired
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamReset,
)

from shoal.gossip.events import Loan, TakenBack
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
from shoal.gossip.net.transport.muxer import (
    DOUBT_WAIT,
    LINK_BUDGET,
    MAX_OUTBOX,
    PING_EVERY,
    PING_WAIT,
    FastMuxer,
)
from shoal.gossip.net.transport.records import CHUNK, RecordSession
from shoal.gossip.net.transport.stream import (
    BASE_WINDOW,
    LEAD,
    LEAST,
    LINK_ERRORS,
    MAX_STREAMS,
    MAX_UNCLAIMED,
    MAX_WINDOW,
    QUICK,
    FastStream,
)


def run(main: Callable[[], Awaitable[Any]], *, jump: bool = False) -> None:
    """Run; with `jump` waiting costs no time, which needs a link without sockets."""
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0) if jump else None)


async def stream_pair(one: FastMuxer, other: FastMuxer) -> tuple[FastStream, FastStream]:
    pair = await one.open_stream(), await other.accept_stream()
    for stream in pair:
        stream.claim()
    return pair


@pytest.mark.parametrize("tcp", [True, False])
def test_streams_carry_random_pieces_both_ways_at_once(tcp: bool) -> None:
    async def main() -> None:
        dice = random.Random(7)
        seeds = list(range(8))

        async def send(stream: FastStream, seed: int) -> None:
            pieces = random.Random(seed)
            for _ in range(30):
                await stream.write(pieces.randbytes(pieces.choice([1, 100, 5000, 70_000, 300_000])))
            await stream.close()

        async def check(stream: FastStream, seed: int) -> None:
            pieces, digest, expected = random.Random(seed), hashlib.sha256(), hashlib.sha256()
            for _ in range(30):
                expected.update(pieces.randbytes(pieces.choice([1, 100, 5000, 70_000, 300_000])))
            while True:
                try:
                    digest.update(await stream.read(dice.choice([1, 4096, CHUNK])))
                except MuxedStreamEOF:
                    break
            assert digest.digest() == expected.digest()

        async with muxers(tcp) as (one, other), trio.open_nursery() as nursery:
            for seed in seeds:
                near, far = await stream_pair(one, other)
                for function, stream, number in (
                    (send, near, seed),
                    (check, far, seed),
                    (send, far, -seed),
                    (check, near, -seed),
                ):
                    nursery.start_soon(function, stream, number)

    run(main)


@pytest.mark.parametrize("first", [1, 8, 1000, CHUNK, CHUNK + 1])
def test_read_into_fills_buffers_of_any_size_from_records_of_any_size(first: int) -> None:
    async def main() -> None:
        data = random.Random(1).randbytes(1_200_000)
        async with muxers() as (one, other), trio.open_nursery() as nursery:
            near, far = await stream_pair(one, other)
            nursery.start_soon(near.write, data)
            received = bytearray(len(data))
            view = memoryview(received)
            await far.read_into(view[:first])
            assert received[:first] == data[:first]
            some = await far.read(10)
            view[first : first + len(some)] = some
            await far.read_into(view[first + len(some) :])
            assert received == data
            assert far.taken == len(data)

    run(main)


@pytest.mark.parametrize("lead", [0, 1, 70, 4096, 4097, 20_000])
@pytest.mark.parametrize("size", [0, 1, 16_384, CHUNK - 70, CHUNK, CHUNK + 1, 5 * CHUNK])
def test_a_head_and_a_body_arrive_behind_each_other(lead: int, size: int) -> None:
    async def main() -> None:
        dice = random.Random(lead + size)
        head, body = dice.randbytes(lead), dice.randbytes(size)
        async with muxers() as (one, other), trio.open_nursery() as nursery:
            near, far = await stream_pair(one, other)
            for wait in (True, False):
                received = bytearray(lead), bytearray(size)
                if wait:
                    nursery.start_soon(far.fill, iter([memoryview(each) for each in received]))
                    await trio.testing.wait_all_tasks_blocked()
                    await near.write(head, memoryview(body))
                else:
                    nursery.start_soon(near.write, head, memoryview(body))
                    await trio.testing.wait_all_tasks_blocked(0.005)
                    await far.fill(iter([memoryview(each) for each in received]))
                await trio.testing.wait_all_tasks_blocked(0.005)
                assert (bytes(received[0]), bytes(received[1])) == (head, body)

    run(main)


def test_a_reader_is_asked_for_memory_as_soon_as_the_last_is_full() -> None:
    async def main() -> None:
        sizes, asked = [3, 2, 300_000, 1], []

        def places() -> Iterator[memoryview]:
            for size in sizes:
                asked.append(size)
                yield memoryview(bytearray(size))

        async with muxers() as (one, other), trio.open_nursery() as nursery:
            near, far = await stream_pair(one, other)
            nursery.start_soon(far.fill, places())
            for piece, seen in ((b"ab", 1), (b"cde", 3), (bytes(299_999), 3), (b"x", 4)):
                await near.write(piece)
                await trio.testing.wait_all_tasks_blocked(0.02)
                assert asked == sizes[:seen]
            await near.write(b"last, and more")
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert await far.read(100) == b"ast, and more"

    run(main)


def slow_down(muxer: FastMuxer, seconds: Callable[[int], float]) -> list[int]:
    """Let a body of so many bytes take so many seconds; return the sizes of those that are sent."""
    records: list[int] = []
    write_frame = muxer.write_frame

    async def slowly(head: bytes, body: bytes | memoryview = b"", loan: Loan | None = None) -> None:
        await trio.sleep(seconds(len(body)))
        records.append(len(body))
        await write_frame(head, body, loan)

    muxer.write_frame = slowly  # type: ignore[method-assign]
    return records


@pytest.mark.parametrize("pause", [0.0, 2 * QUICK])
def test_frames_grow_while_they_are_sent_quickly_and_are_small_where_others_would_wait(pause: float) -> None:
    async def main() -> None:
        async with muxers(tcp=False) as (near, far), trio.open_nursery() as nursery:
            stream, end = await stream_pair(near, far)
            records = slow_down(near, lambda _: pause)
            body = memoryview(bytes(8 * MAX_REST))
            received = memoryview(bytearray(len(body)))
            nursery.start_soon(end.read_into, received)
            await stream.write(body)
            await trio.testing.wait_all_tasks_blocked(0.005)
        assert sum(records) == len(body)
        assert max(records) == (CHUNK if pause else MAX_REST)

    run(main, jump=True)


def test_a_slow_line_takes_small_frames_once_it_has_room_and_large_ones_again_when_it_is_fast() -> None:
    async def main() -> None:
        seconds_per_byte, asked = 2e-6, 0

        async def ask() -> None:
            nonlocal asked
            asked += 1

        async with muxers(tcp=False) as (near, far):
            stream, end = await stream_pair(near, far)
            records = slow_down(near, lambda size: seconds_per_byte * size)
            near.wait_room = ask  # type: ignore[method-assign]

            async def carry(size: int) -> None:
                async with trio.open_nursery() as both:
                    both.start_soon(end.read_into, memoryview(bytearray(size)))
                    await stream.write(memoryview(bytes(size)))

            await carry(4 * CHUNK)
            assert records[0] == CHUNK
            assert asked == len(records) - 1
            assert set(records[2:-1]) == {LEAST}  # a frame of 16 KiB takes 33 ms, one of 32 would take more

            await carry(LEAD)
            assert asked == len(records) - 2  # what is small goes at once

            seconds_per_byte = 0.0
            for _ in range(4):
                await carry(8 * MAX_REST)
            assert max(records) == MAX_REST
            await trio.testing.wait_all_tasks_blocked(0.005)

    run(main, jump=True)


def test_a_body_whose_second_record_is_altered_never_looks_whole() -> None:
    async def main() -> None:
        one, other, wire, _ = await wired()
        muxer = FastMuxer(other, ID(b"one"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(muxer.start)
            await one.write_record(frame(WINDOW, SYN, 1, 0))
            stream = await muxer.accept_stream()

            async def read() -> None:
                with pytest.raises(MuxedStreamReset):
                    await stream.read_into(memoryview(bytearray(100_000)))

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            wire.bend = lambda data: data[:-1] + bytes([data[-1] ^ 1])
            await one.write_records(frame(DATA, 0, 1, 100_000), bytes(100_000))
        assert muxer.is_closed

    run(main)


def test_a_half_closed_stream_still_carries_the_answer() -> None:
    async def main() -> None:
        async with muxers() as (one, other):
            near, far = await stream_pair(one, other)
            await near.write(b"question")
            await near.close()
            assert await far.read() == b"question"
            await far.write(b"answer")
            await far.close()
            assert await near.read() == b"answer"
            with pytest.raises(MuxedStreamClosed):
                await near.write(b"more")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not one.streams
            assert not other.streams

    run(main)


def test_a_reset_ends_both_directions_at_once() -> None:
    async def main() -> None:
        async with muxers() as (one, other):
            near, far = await stream_pair(one, other)
            await near.reset()
            with pytest.raises(MuxedStreamReset):
                await far.read(1)
            with pytest.raises(MuxedStreamReset):
                await far.write(b"x")
            with pytest.raises(MuxedStreamReset):
                await near.write(b"x")

    run(main)


def test_a_link_that_breaks_resets_streams_that_had_not_ended() -> None:
    async def main() -> None:
        async with muxers() as (one, other):
            near, far = await stream_pair(one, other)
            ended, reader = await stream_pair(one, other)
            await ended.write(b"all of it")
            await ended.close()
            await near.write(b"the beginning")
            assert await far.read(100) == b"the beginning"
            await one.secured_conn.close()
            with pytest.raises(MuxedStreamReset):
                await far.read(100)
            assert await reader.read() == b"all of it"
            with pytest.raises(MuxedConnUnavailable):
                await other.accept_stream()
            with pytest.raises(MuxedConnUnavailable):
                await other.open_stream()

    run(main)


def test_a_writer_waits_for_a_reader_that_sleeps() -> None:
    async def main() -> None:
        async with muxers() as (one, other), trio.open_nursery() as nursery:
            near, far = await stream_pair(one, other)
            nursery.start_soon(near.write, bytes(4 * BASE_WINDOW))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert sum(len(part) for part in far._parts) == BASE_WINDOW
            left = 4 * BASE_WINDOW
            while left:
                left -= len(await far.read(CHUNK))

    run(main)


@pytest.mark.parametrize("is_over", [False, True])
def test_what_is_taken_back_while_it_is_sent_never_arrives_whole(is_over: bool) -> None:
    async def main() -> None:
        async with muxers() as (one, other), trio.open_nursery() as nursery:
            near, far = await stream_pair(one, other)
            memory = bytearray(b"\1" * (2 * BASE_WINDOW))
            loan = Loan(memoryview(memory))

            async def write() -> None:
                try:
                    await near.write(b"head", loan)
                except TakenBack:
                    await near.reset()
                assert is_over == near.was_reset

            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked(0.05)
            if is_over:
                loan.end()
                memory[:] = b"\2" * len(memory)
            got = bytearray(4 + len(memory))
            if is_over:
                with pytest.raises(MuxedStreamReset):
                    await far.read_into(memoryview(got))
            else:
                await far.read_into(memoryview(got))
                assert got == b"head" + memory

    run(main)


def test_a_stream_that_is_read_quickly_gets_a_larger_window_and_gives_it_back() -> None:
    async def main() -> None:
        async with muxers() as (one, other):
            near, far = await stream_pair(one, other)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.write, bytes(64 << 20))
                await far.read_into(memoryview(bytearray(64 << 20)))
            assert far.window == MAX_WINDOW
            assert other._promised == MAX_WINDOW <= LINK_BUDGET
            await near.reset()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert other._promised == 0

    run(main)


def test_cancelled_writers_leave_the_link_whole() -> None:
    async def main() -> None:
        async with muxers() as (one, other), trio.open_nursery() as nursery:
            steady, reader = await stream_pair(one, other)

            async def read_all() -> None:
                left = 20 << 20
                while left:
                    left -= len(await reader.read(CHUNK))

            nursery.start_soon(read_all)
            nursery.start_soon(steady.write, bytes(20 << 20))
            for number in range(20):
                near, far = await stream_pair(one, other)
                with trio.move_on_after(0.0005 * number):
                    await near.write(bytes(1 << 20))
                await near.reset()
                with pytest.raises(MuxedStreamReset):
                    await far.read_into(memoryview(bytearray(2 << 20)))

    run(main)


def test_hundreds_of_streams_leave_nothing_behind() -> None:
    async def main() -> None:
        async with muxers() as (one, other):

            async def one_stream() -> None:
                near, far = await stream_pair(one, other)
                await near.write(b"x" * 1000)
                await near.close()
                assert len(await far.read()) == 1000
                await far.close()
                with pytest.raises(MuxedStreamEOF):
                    await near.read(1)

            for _ in range(400):
                await one_stream()
            await trio.testing.wait_all_tasks_blocked(0.01)
            gc.collect()
            assert not [each for each in gc.get_objects() if type(each) is FastStream]
            assert not one.streams
            assert not other.streams
            assert (one._promised, other._promised, other._n_theirs) == (0, 0, 0)
            assert not one._grants
            assert not other._grants

    run(main)


def test_more_streams_than_allowed_are_refused_and_the_link_lives() -> None:
    async def main() -> None:
        async with muxers() as (one, other):
            near = [await one.open_stream() for _ in range(MAX_STREAMS + 1)]
            with pytest.raises(MuxedStreamReset):
                await near[-1].read(1)
            await near[0].write(b"works")
            assert await (await other.accept_stream()).read(10) == b"works"
            await near[0].reset()
            await trio.testing.wait_all_tasks_blocked(0.01)
            again = await one.open_stream()
            for _ in range(MAX_STREAMS - 1):
                await other.accept_stream()
            await again.write(b"again")
            assert await (await other.accept_stream()).read(10) == b"again"

    run(main)


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return HEADER.pack(0, kind, flags, stream, length) + body


FATAL = {
    "an unknown version": [b"\x01" + frame(PING, SYN, 0, 0)[1:]],
    "an unknown type": [frame(9, 0, 1, 0)],
    "a cut header": [frame(PING, SYN, 0, 0)[:7]],
    "a body longer than its record": [frame(DATA, SYN, 1, 100, b"x" * 99)],
    "a body of 4 GiB": [frame(DATA, SYN, 1, 0xFFFFFFFF, b"x")],
    "a body that goes on with less": [frame(DATA, 0, 1, 100, b"x"), b"y" * 98],
    "a body that goes on with more": [frame(DATA, 0, 1, 100, b"x"), b"y" * 100],
    "a body that goes on with nothing": [frame(DATA, 0, 1, 100, b"x"), b""],
    "a body that goes on with another frame": [frame(DATA, 0, 1, 100), frame(PING, SYN, 0, 0)],
    "a body whose rest is larger than any": [frame(DATA, 0, 1, MAX_REST + 1), bytes(CHUNK)],
    "a body that goes on and ends its stream": [frame(DATA, FIN, 1, 5), b"abcde"],
    "a goodbye": [frame(GOAWAY, 0, 0, 0)],
    "a stream id of ours": [frame(WINDOW, SYN, 2, 0)],
    "stream zero": [frame(WINDOW, SYN, 0, 0)],
    "a record of another key": [b"\x00" * 10],
}
HARMLESS = {
    "data for an unknown stream": [frame(DATA, 0, 77, 3, b"abc")],
    "data for an unknown stream that goes on": [frame(DATA, 0, 77, 3, b"a"), b"bc"],
    "data that goes on": [frame(WINDOW, SYN, 1, 0), frame(DATA, 0, 1, 3, b"a"), b"bc"],
    "data that goes on twice": [frame(WINDOW, SYN, 1, 0), frame(DATA, 0, 1, 3, b"a"), b"b", b"c"],
    "a grant for an unknown stream": [frame(WINDOW, 0, 77, 5)],
    "an end of an unknown stream": [frame(WINDOW, FIN, 77, 0), frame(WINDOW, RST, 77, 0)],
    "a pong nobody asked for": [frame(PING, ACK, 0, 0xFFFFFFFF)],
    "an empty record": [b""],
    "the same stream opened twice": [frame(WINDOW, SYN, 1, 0), frame(WINDOW, SYN, 1, 0)],
    "huge grants": [frame(WINDOW, SYN, 1, 0xFFFFFFFF), frame(WINDOW, 0, 1, 0xFFFFFFFF)],
    "data after its end": [frame(DATA, SYN | FIN, 1, 1, b"x"), frame(DATA, 0, 1, 1, b"y")],
    "data after our reset": [
        frame(DATA, SYN, 1, 7, b"resetme"),
        *[frame(DATA, 0, 1, CHUNK // 2 - 4, bytes(CHUNK // 2 - 4))] * 2,
    ],
    "empty data": [frame(DATA, SYN, 1, 0), frame(DATA, 0, 1, 0)],
}


async def hostile(records: list[bytes]) -> tuple[FastMuxer, RecordSession, bool]:
    """Send records to a muxer; return it, the sending session, and whether the link lives."""
    attacker, victim = await over_tcp()
    muxer = FastMuxer(victim, ID(b"attacker"))
    alive = False

    async def serve() -> None:
        while True:
            stream = await muxer.accept_stream()
            nursery.start_soon(look, stream)

    async def look(stream: FastStream) -> None:
        try:
            while True:
                if await stream.read(7) == b"resetme":
                    await stream.reset()
        except (MuxedStreamEOF, MuxedStreamReset):
            return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.start)
        await muxer.event_started.wait()
        nursery.start_soon(swallow_end, serve)
        with trio.fail_after(60):
            try:
                for record in [*records, frame(PING, SYN, 0, 42)]:
                    await attacker.write_record(record)
                while frame(PING, ACK, 0, 42) not in bytes(await attacker.read_record()):
                    pass
                alive = True
            except (ConnectionClosedError, IncompleteReadError):
                alive = False
        await muxer.close()
        nursery.cancel_scope.cancel()
    return muxer, attacker, alive


async def swallow_end(function: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(MuxedConnUnavailable):
        await function()


@pytest.mark.parametrize("records", HARMLESS.values(), ids=HARMLESS.keys())
def test_odd_frames_cost_nothing(records: list[bytes]) -> None:
    async def main() -> None:
        _, attacker, alive = await hostile(records)
        await attacker.close()
        assert alive

    run(main)


@pytest.mark.parametrize("records", FATAL.values(), ids=FATAL.keys())
def test_bad_frames_cost_the_link_and_nothing_else(records: list[bytes]) -> None:
    async def main() -> None:
        muxer, attacker, alive = await hostile(records)
        await attacker.close()
        assert not alive
        assert muxer.is_closed

    run(main)


def test_a_peer_that_sends_more_than_was_granted_loses_its_link() -> None:
    async def main() -> None:
        attacker, victim = await over_tcp()
        muxer = FastMuxer(victim, ID(b"attacker"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(muxer.start)
            await attacker.write_record(frame(DATA, SYN, 1, CHUNK, bytes(CHUNK)))
            stream = await muxer.accept_stream()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not muxer.is_closed
            await attacker.write_record(frame(DATA, 0, 1, 1, b"x"))
            with pytest.raises(MuxedConnUnavailable):
                await muxer.accept_stream()
            assert stream.was_reset
        await attacker.close()

    run(main)


def test_random_records_never_end_more_than_the_link() -> None:
    dice = random.Random(3)

    async def main() -> None:
        for _ in range(40):
            records = [
                struct.pack(
                    "!BBHII",
                    dice.choice([0, 0, 0, 1]),
                    dice.randrange(5),
                    dice.randrange(16),
                    dice.randrange(6),
                    dice.choice([0, 1, 5, 2**31, dice.getrandbits(32)]),
                )
                + dice.randbytes(dice.choice([0, 1, 5, 12, 100]))
                for _ in range(dice.randrange(1, 30))
            ]
            _, attacker, _ = await hostile(records)
            await attacker.close()

    run(main)


async def flood(session: RecordSession) -> None:
    for _ in range(3 * MAX_OUTBOX):
        await session.write_record(frame(PING, SYN, 0, 1))


def test_a_peer_that_pings_and_reads_nothing_loses_its_link() -> None:
    async def main() -> None:
        attacker, victim, _, far = await wired()
        far.blocked = True
        muxer = FastMuxer(victim, ID(b"attacker"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(muxer.start)
            with trio.fail_after(1), pytest.raises(ConnectionClosedError):
                await flood(attacker)
        assert muxer.is_closed

    run(main, jump=True)


def test_a_silent_link_is_closed_and_a_living_one_is_not() -> None:
    async def main() -> None:
        one, other, _, far = await wired()
        pair = FastMuxer(one, ID(b"other")), FastMuxer(other, ID(b"one"))
        async with trio.open_nursery() as nursery:
            for muxer in pair:
                nursery.start_soon(muxer.start)
            await trio.sleep(200)
            assert not pair[0].is_closed
            assert pair[0].rtt < 1
            far.blocked = True
            began = trio.current_time()
            while not pair[0].is_closed:
                await trio.sleep(0.1)
            assert PING_WAIT <= trio.current_time() - began <= PING_EVERY + PING_WAIT + 1

    run(main, jump=True)


def test_a_doubted_link_is_closed_soon_if_nobody_answers() -> None:
    async def main() -> None:
        one, other, _, far = await wired()
        pair = FastMuxer(one, ID(b"other")), FastMuxer(other, ID(b"one"))
        async with trio.open_nursery() as nursery:
            for muxer in pair:
                nursery.start_soon(muxer.start)
            await trio.sleep(5)
            pair[0].probe()
            await trio.sleep(DOUBT_WAIT + 0.1)
            assert not pair[0].is_closed
            far.blocked = True
            pair[0].probe()
            await trio.sleep(DOUBT_WAIT + 0.1)
            assert pair[0].is_closed

    run(main, jump=True)


def test_a_peer_that_sends_what_nobody_reads_loses_the_link_and_a_lane_is_bounded_by_its_window() -> None:
    async def main(n_streams: int, *, claimed: bool) -> bool:
        async with muxers() as (one, other):
            for _ in range(n_streams):
                near = await one.open_stream()
                far = await other.accept_stream()
                if claimed:
                    far.claim()
                with suppress(MuxedStreamReset, *LINK_ERRORS):
                    await near.write(bytes(BASE_WINDOW))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert claimed or other.unclaimed <= MAX_UNCLAIMED + BASE_WINDOW
            return not other.is_closed

    enough = MAX_UNCLAIMED // BASE_WINDOW
    assert trio.run(partial(main, enough, claimed=False))
    assert not trio.run(partial(main, enough + 1, claimed=False))
    assert trio.run(partial(main, enough + 1, claimed=True))


def test_what_was_read_or_reset_is_no_longer_counted() -> None:
    async def main() -> None:
        async with muxers() as (one, other):
            for how in ("read", "reset", "reset by peer"):
                near, far = await one.open_stream(), await other.accept_stream()
                await near.write(bytes(100_000))
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert other.unclaimed == 100_000
                match how:
                    case "read":
                        await far.read_into(memoryview(bytearray(100_000)))
                    case "reset":
                        await far.reset()
                    case _:
                        await near.reset()
                        await trio.testing.wait_all_tasks_blocked(0.01)
                assert other.unclaimed == 0

    run(main)


def test_two_peers_that_flood_each_other_do_not_wait_for_each_other() -> None:
    async def main() -> None:
        async with muxers() as (one, other), trio.open_nursery() as nursery:

            async def flood(stream: FastStream) -> None:
                await stream.write(bytes(8 << 20))
                await stream.close()

            async def drain(stream: FastStream) -> None:
                assert len(await stream.read()) == 8 << 20

            for _ in range(3):
                for stream in await stream_pair(one, other):
                    nursery.start_soon(flood, stream)
                    nursery.start_soon(drain, stream)

    run(main)


def test_it_refuses_to_run_over_anything_but_records() -> None:
    class Other:
        is_initiator = True

    with pytest.raises(MuxedConnUnavailable):
        FastMuxer(Other(), ID(b"x"))
