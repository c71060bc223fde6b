"""A host and strangers who break its rules: they lose their links, are counted, and disturb nobody."""

import os
import random
import resource
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing
from hosts import attack, config, link, nothing_follows, stranger, until, wait_for

from shoal.crypto.keys import new_key
from shoal.gossip.addresses import parse
from shoal.gossip.events import NO_PLACE, DialFailed, PeerFound, PeerLost
from shoal.gossip.host import FrameReceived
from shoal.gossip.net.frames import BULK, CONTROL, MAX_DATA_BYTES, MAX_HEAD_BYTES, PREFIX, LinkBroken
from shoal.gossip.net.libp2p_adapters import LaneStream
from shoal.gossip.net.libp2p_host import Libp2pHost, open_host
from shoal.gossip.net.libp2p_node import Network
from shoal.gossip.net.peers import MAX_BACKLOG_BYTES, WIRE, Hello, Peer


async def ended(stream: LaneStream) -> None:
    """Wait until the host has cut the link."""
    with trio.fail_after(60):
        try:
            while True:
                await stream.read_into(memoryview(bytearray(1)))
        except LinkBroken:
            return


def with_an_attacker(body: Callable[[Libp2pHost, Libp2pHost, Network], object], *, fast: bool = True) -> None:
    """Run with a host, an honest peer of it, and a stranger; the honest link has to survive."""

    async def main() -> None:
        with trio.fail_after(250):
            async with (
                open_host(new_key(), config()) as host,
                open_host(new_key(), config()) as peer,
                stranger(fast) as network,
            ):
                await link(peer, host)
                await body(host, peer, network)  # type: ignore[misc]
                peer.send_nowait(host.me, b"still here")
                assert (await wait_for(host, FrameReceived)).head == b"still here"

    trio.run(main)


def frame(head: bytes) -> bytes:
    return PREFIX.pack(len(head), 0) + head


OURS = ".".join(map(str, WIRE))
BAD_HELLOS = [
    frame(b""),
    frame(b"\xc1"),
    frame(b"\x93\x01\x02\x03"),
    frame(b"\x91\x01"),
    frame(b"x" * 4096),
    PREFIX.pack(4097, 0),
    PREFIX.pack(0xFFFFFFFF, 0xFFFFFFFF),
    Hello(WIRE[0], "s" * 201, b"i").frame(),
    Hello(WIRE[0], "shoal", b"i" * 17).frame(),
    Hello(WIRE[0], "shoal", b"i", minor=1 << 16).frame(),
    Hello(WIRE[0], "shoal", b"i", features=("x",) * 33).frame(),
    Hello(WIRE[0], "shoal", b"i", features=("x" * 25,)).frame(),
]


@pytest.mark.parametrize("fast", [True, False])
def test_a_bad_hello_costs_the_link(fast: bool) -> None:
    async def body(host: Libp2pHost, peer: Libp2pHost, network: Network) -> None:
        for count, hello in enumerate(BAD_HELLOS, 1):
            _, stream = await attack(network, host, hello)
            await ended(stream)
            assert host.admission.counts == {"bad hello": count}
        await nothing_follows(host, 0.05)

    with_an_attacker(body, fast=fast)


@pytest.mark.parametrize("hello", [Hello(99, "shoal", b"i").frame(), frame(b"\x93\x63\xa5shoal\xc4\x01i")])
def test_another_major_is_refused_with_a_sentence(hello: bytes) -> None:
    async def body(host: Libp2pHost, peer: Libp2pHost, network: Network) -> None:
        _, stream = await attack(network, host, hello)
        await ended(stream)
        assert (await wait_for(host, DialFailed)).reason == (
            f"wire {OURS} and wire 99.0 do not fit: update shoal on the node of wire {OURS}"
        )

    with_an_attacker(body)


def test_both_sides_say_which_node_is_to_be_updated() -> None:
    assert Hello(1, "shoal", b"i").mismatch() == (
        f"wire 1.0 and wire {OURS} do not fit: update shoal on the node of wire 1.0"
    )
    assert Hello(WIRE[0], "shoal", b"i", minor=9).mismatch() == ""


def test_another_minor_and_unknown_features_are_no_reason_to_part() -> None:
    async def body(host: Libp2pHost, peer: Libp2pHost, network: Network) -> None:
        hello = Hello(WIRE[0], "shoal", b"i", minor=WIRE[1] + 7, features=("telepathy",))
        await attack(network, host, hello.frame())
        await wait_for(host, PeerFound)

    with_an_attacker(body)


@pytest.mark.parametrize(
    ("head", "data", "reason"),
    [(MAX_HEAD_BYTES + 1, 0, "head too large"), (10, 1, "data too large"), (0, 0xFFFFFFFF, "data too large")],
)
def test_a_frame_beyond_the_bounds_costs_the_link(head: int, data: int, reason: str) -> None:
    async def body(host: Libp2pHost, peer: Libp2pHost, network: Network) -> None:
        _, stream = await attack(network, host)
        found = await wait_for(host, PeerFound)
        await stream.write(frame(b"a good one") + PREFIX.pack(head, data))
        await ended(stream)
        assert await wait_for(host, FrameReceived) == FrameReceived(found.peer, b"a good one")
        assert await wait_for(host, PeerLost) == PeerLost(found.peer)
        assert host.admission.counts == {reason: 1}

    with_an_attacker(body)


def test_bulk_beyond_the_bound_costs_the_link() -> None:
    async def body(host: Libp2pHost, peer: Libp2pHost, network: Network) -> None:
        connection, _ = await attack(network, host)
        await wait_for(host, PeerFound)
        bulk = await network.open_lane(connection, BULK)
        assert bulk is not None
        await bulk.write(PREFIX.pack(1, MAX_DATA_BYTES + 1))
        await ended(bulk)
        await wait_for(host, PeerLost)
        assert host.admission.counts == {"data too large": 1}

    with_an_attacker(body)


def test_bulk_without_a_hello_is_not_read() -> None:
    async def body(host: Libp2pHost, peer: Libp2pHost, network: Network) -> None:
        connection = await network.dial(parse(host.addresses()[0]), lambda _muxed, _peer: True)
        bulk = await network.open_lane(connection, BULK)
        assert bulk is not None
        await bulk.write(PREFIX.pack(4, 4) + b"headdata")
        await nothing_follows(host)

    with_an_attacker(body)


def test_a_lane_that_ends_within_a_frame_delivers_nothing_of_it() -> None:
    async def body(host: Libp2pHost, peer: Libp2pHost, network: Network) -> None:
        connection, stream = await attack(network, host)
        found = await wait_for(host, PeerFound)
        await stream.write(frame(b"whole") + PREFIX.pack(100, 0) + b"half")
        assert await wait_for(host, FrameReceived) == FrameReceived(found.peer, b"whole")
        await connection.close()
        assert await wait_for(host, PeerLost) == PeerLost(found.peer)

    with_an_attacker(body)


def test_a_thousand_random_frames_disturb_nobody() -> None:
    dice = random.Random(5)

    async def body(host: Libp2pHost, peer: Libp2pHost, network: Network) -> None:
        refused = 0
        for _ in range(15):
            connection, stream = await attack(network, host)
            try:
                for _ in range(70):
                    await stream.write(dice.randbytes(dice.choice([1, 7, 8, 9, 100, 5000])))
            except LinkBroken:
                refused += 1
            await connection.close()
        lost = found = 0
        while found != 15 or lost != 15:
            event = await host.next_event()
            found += isinstance(event, PeerFound)
            lost += isinstance(event, PeerLost)
            assert not isinstance(event, DialFailed)
        assert list(host.statistics().links) == [peer.me]
        assert sum(host.admission.counts.values()) > 8

    with_an_attacker(body)


def test_a_peer_is_not_read_while_nobody_takes_what_it_sent() -> None:
    async def main() -> None:
        async with open_host(new_key(), config()) as host, open_host(new_key(), config()) as peer:
            await link(peer, host)
            data, count = memoryview(bytes(1 << 20)), 120
            for _ in range(count):
                peer.send_nowait(host.me, b"bulk", data)
            entry: Peer = host._peers[peer.me]
            await until(lambda: entry.is_full)
            await trio.testing.wait_all_tasks_blocked(0.1)  # so that more would come, if it were read
            assert entry.backlog_bytes <= MAX_BACKLOG_BYTES + (1 << 20) + 4
            for _ in range(count):
                assert len((await wait_for(host, FrameReceived)).data) == 1 << 20
            assert entry.backlog_bytes == entry.backlog_frames == 0

    trio.run(main)


def test_a_peer_that_does_not_keep_up_with_control_frames_is_dropped() -> None:
    async def main() -> None:
        async with open_host(new_key(), config()) as host, stranger() as network:
            await attack(network, host)
            peer = (await wait_for(host, PeerFound)).peer
            for _ in range(1025):  # without a pause in which they could be sent
                host.send_nowait(peer, bytes(1000))
            assert await wait_for(host, PeerLost) == PeerLost(peer)
            assert host.admission.counts == {"queue full": 1}

    trio.run(main)


def test_links_above_the_limit_are_refused() -> None:
    async def main() -> None:
        async with (
            open_host(new_key(), config(max_links=1)) as host,
            open_host(new_key(), config()) as one,
            open_host(new_key(), config()) as two,
        ):
            await link(one, host)
            two.dial_nowait(host.addresses()[0])
            assert (await wait_for(two, DialFailed)).reason == NO_PLACE
            assert (await wait_for(host, DialFailed)).reason == NO_PLACE
            host.dial_nowait(two.addresses()[0])
            assert (await wait_for(host, DialFailed)).reason == "too many links"
            assert host.admission.counts == {"too many links": 1}
            await nothing_follows(host, 0.1)

    trio.run(main)


def test_strangers_that_say_nothing_leave_room_for_others() -> None:
    async def body(host: Libp2pHost, peer: Libp2pHost, network: Network) -> None:
        target = parse(host.addresses()[0])
        silent = [await trio.open_tcp_stream(target.host, target.port) for _ in range(40)]
        await until(lambda: host.admission.counts["too many half-open"])
        for each in silent:
            await each.aclose()
        await until(lambda: not host.network.inbound.half_open)
        assert host.admission.counts["too many half-open"] <= 8 + 1
        await attack(network, host)
        await wait_for(host, PeerFound)

    with_an_attacker(body)


@pytest.mark.slow
def test_hundreds_of_links_leave_no_descriptor_and_no_bookkeeping_behind() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def body(host: Libp2pHost, peer: Libp2pHost, network: Network) -> None:
        async def once() -> None:
            connection, stream = await attack(network, host)
            found = await wait_for(host, PeerFound)
            await stream.write(frame(b"hello"))
            await wait_for(host, FrameReceived)
            await connection.close()
            assert await wait_for(host, PeerLost) == PeerLost(found.peer)

        for _ in range(20):
            await once()
        await trio.sleep(0.5)
        before, memory = descriptors(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(150):
            await once()
        await trio.sleep(0.5)
        assert descriptors() <= before + 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 20_000
        assert len(host.links.all) == len(host._peers) == 1
        assert not host._dials._links_to_come
        assert not host.network.inbound.half_open

    with_an_attacker(body)


def test_control_frames_pass_bulk() -> None:
    async def main() -> None:
        async with open_host(new_key(), config()) as one, open_host(new_key(), config()) as other:
            await link(one, other)
            for _ in range(100):
                one.send_nowait(other.me, b"bulk", memoryview(bytes(1 << 20)))
            await trio.sleep(0.01)
            one.send_nowait(other.me, b"urgent")
            before = 0
            while (await wait_for(other, FrameReceived)).head != b"urgent":
                before += 1
            assert before < 50

    trio.run(main)


def test_a_peer_that_comes_and_goes_within_a_moment_ends_nothing() -> None:
    async def body(host: Libp2pHost, peer: Libp2pHost, network: Network) -> None:
        await attack(network, host)
        found = await wait_for(host, PeerFound)
        entry = host._peers[found.peer]
        for _ in range(3):  # lost and found again before its writers have begun
            host.links._stop(entry.links[0])
            assert await wait_for(host, PeerLost) == PeerLost(found.peer)
            entry.links[0].ending = False
            host.links._on_hello(entry.links[0])
            assert await wait_for(host, PeerFound) == PeerFound(found.peer)
        host.drop_nowait(found.peer, "enough")
        assert await wait_for(host, PeerLost) == PeerLost(found.peer)

    with_an_attacker(body)


def test_silent_links_keep_out_neither_a_colleague_nor_who_shows_an_invite() -> None:
    async def main() -> None:
        with trio.fail_after(250):
            async with AsyncExitStack() as stack:
                host, colleague, invited, other = [
                    await stack.enter_async_context(open_host(new_key(), config(max_links=4)))
                    for _ in range(4)
                ]
                host.admission.keep_places("colleagues", lambda: {colleague.me})
                host.admission.is_invited = lambda peer, invite: invite == b"shoal1"
                invited.links.invite = b"shoal1"
                target = parse(host.addresses()[0])
                for number in range(9):
                    network = await stack.enter_async_context(stranger())
                    connection = await network.dial(target, lambda _muxed, _peer: True)
                    if number < 3:
                        lane = await network.open_lane(connection, CONTROL)
                        assert lane is not None
                        await lane.write(Hello(WIRE[0], "shoal", b"i").frame())
                        await wait_for(host, PeerFound)
                other.dial_nowait(str(target))
                assert (await wait_for(other, DialFailed)).reason in (NO_PLACE, "unreachable", "refused")
                for one in (colleague, invited):
                    one.dial_nowait(str(target))
                    while not isinstance(event := await one.next_event(), PeerFound):
                        one.dial_nowait(str(target))
                    assert event.peer == host.me
                assert {colleague.me, invited.me} <= set(host.statistics().links)

    trio.run(main)


def test_lanes_are_bound_to_their_protocol() -> None:
    assert (CONTROL, BULK) == ("/shoal/control/1", "/shoal/bulk/1")
