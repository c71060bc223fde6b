"""Hosts over real libp2p on loopback: links, hellos, frames, and how they end."""

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from hosts import LOOPBACK, config, link, nothing_follows, stranger, until, wait_for

from shoal.crypto.keys import new_key, peer_id_of
from shoal.gossip.addresses import parse
from shoal.gossip.events import Arriving, DialFailed, Loan, PeerFound, PeerLost
from shoal.gossip.host import FrameReceived
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_host import BadAddress, Libp2pHost, PortInUse, open_host

FAST_AND_STANDARD = [(True, True), (False, False), (True, False), (False, True)]


def with_two(
    body: Callable[[Libp2pHost, Libp2pHost], Awaitable[None]],
    first: HostConfig | None = None,
    second: HostConfig | None = None,
) -> None:
    async def main() -> None:
        with trio.fail_after(250):
            async with (
                open_host(new_key(), first or config()) as one,
                open_host(new_key(), second or config()) as other,
            ):
                await body(one, other)

    trio.run(main)


@pytest.mark.parametrize("fast", FAST_AND_STANDARD)
def test_frames_arrive_whole_and_in_order_between_fast_and_standard_hosts(fast: tuple[bool, bool]) -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        await link(one, other)
        connection = next(iter(one.network.swarm.get_connections()))
        assert ("shoal" in connection.get_negotiated_security_protocol()) == all(fast)
        assert ("shoal" in connection.get_negotiated_muxer_protocol()) == all(fast)
        for number in range(200):
            one.send_nowait(other.me, b"%d" % number)
        bulk = [bytes([number]) * (1 << 20) + b"end" for number in range(5)]
        for number, data in enumerate(bulk):
            other.send_nowait(one.me, b"%d" % number, memoryview(data))
        for number in range(200):
            assert await wait_for(other, FrameReceived) == FrameReceived(one.me, b"%d" % number)
        for number, data in enumerate(bulk):
            event = await wait_for(one, FrameReceived)
            assert (event.peer, event.head, bytes(event.data)) == (other.me, b"%d" % number, data)
        statistics = one.statistics()
        assert statistics.peer_bytes[other.me] == (490, 5 * ((1 << 20) + 3) + 5)
        assert 5 << 20 < statistics.bytes_received < 6 << 20
        assert statistics.links[other.me][1] == "direct"

    with_two(body, config(fast_links=fast[0]), config(fast_links=fast[1]))


def test_a_peer_that_leaves_is_lost_once() -> None:
    async def main() -> None:
        async with open_host(new_key(), config()) as one:
            async with open_host(new_key(), config()) as other:
                await link(one, other)
            assert await wait_for(one, PeerLost) == PeerLost(other.me)
            await nothing_follows(one)

    trio.run(main)


def test_a_peer_that_is_dropped_is_lost_on_both_sides() -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        await link(one, other)
        one.drop_nowait(other.me, "a test")
        assert await wait_for(one, PeerLost) == PeerLost(other.me)
        assert await wait_for(other, PeerLost) == PeerLost(one.me)
        one.drop_nowait(other.me, "again")
        await nothing_follows(one)
        assert not one.statistics().links

    with_two(body)


def test_peers_that_dial_each_other_at_once_lose_nothing_and_do_not_flap() -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        def reaction(me: Libp2pHost, peer: Libp2pHost) -> None:
            for number in range(100):
                me.send_nowait(peer.me, b"%d" % number)
                me.send_nowait(peer.me, b"bulk %d" % number, b"d" * 1000)

        async def watch(me: Libp2pHost, peer: Libp2pHost) -> None:
            control: list[bytes] = []
            bulk: list[bytes] = []
            found = 0
            while len(control) < 100 or len(bulk) < 100 or found < 1:
                event = await me.next_event()
                if isinstance(event, PeerFound):
                    found += 1
                    if found == 1:
                        reaction(me, peer)
                elif not isinstance(event, Arriving):  # which a busy machine is told of
                    assert isinstance(event, FrameReceived), event
                    (bulk if event.data else control).append(event.head)
            assert control == [b"%d" % number for number in range(100)]
            assert bulk == [b"bulk %d" % number for number in range(100)]

        one.dial_nowait(other.addresses()[0])
        other.dial_nowait(one.addresses()[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, one, other)
            nursery.start_soon(watch, other, one)

    for _ in range(3):
        with_two(body)


def test_a_second_link_takes_over_when_the_first_one_breaks() -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        await link(one, other)
        await one.network.dial(parse(other.addresses()[0]), lambda _muxed, _peer: True)
        links = one._peers[other.me].links
        await until(lambda: len([each for each in links if each.is_good and each.control]) == 2)
        one.send_nowait(other.me, b"before", b"data")
        assert (await wait_for(other, FrameReceived)).head == b"before"
        await links[0].connection.close()
        one.send_nowait(other.me, b"control")
        one.send_nowait(other.me, b"bulk", b"data")
        other.send_nowait(one.me, b"back")
        heads = {(await wait_for(other, FrameReceived)).head for _ in range(2)}
        assert heads == {b"control", b"bulk"}
        assert (await wait_for(one, FrameReceived)).head == b"back"

    with_two(body)


def test_another_swarm_is_refused_on_both_sides() -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        address = other.addresses()[0]
        one.dial_nowait(address)
        assert await wait_for(one, DialFailed) == DialFailed(address, "wrong swarm")
        failed = await wait_for(other, DialFailed)
        assert failed.reason == "wrong swarm"
        assert failed.address.endswith(f"/p2p/{one.me}")
        await until(lambda: not one.network.swarm.get_connections())
        await until(lambda: not other.network.swarm.get_connections())
        await nothing_follows(one, 0.1)
        await nothing_follows(other, 0.1)

    with_two(body, config(), config(swarm="another"))


def test_an_address_without_an_identity_is_dialled_and_the_identity_learned() -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        port = other.addresses()[0].split("/")[4]
        for text in (f"127.0.0.1:{port}", f"/ip4/127.0.0.1/tcp/{port}", f"localhost:{port}"):
            one.dial_nowait(text)
            assert await wait_for(one, PeerFound) == PeerFound(other.me, text, "direct")
        assert len(one.links.all) == 1

    with_two(body)


class NoNames(trio.abc.HostnameResolver):
    """Knows no name, whatever servers for names there are."""

    async def getaddrinfo(self, *_: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async def getnameinfo(self, *_: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no such address")


def test_why_a_dial_failed_is_said() -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        trio.socket.set_custom_hostname_resolver(NoNames())
        address = other.addresses()[0]
        base, someone = address.split("/p2p/")[0], peer_id_of(bytes(new_key().verify_key))
        silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
        free = silent[0].socket.getsockname()[1]
        await silent[0].aclose()
        for text, reason in (
            ("nonsense", "not a multiaddr"),
            (f"/ip4/127.0.0.1/tcp/{free}", "refused"),
            (f"{base}/p2p/{someone}", "wrong key"),
            (one.addresses()[0], "own address"),
            (one.addresses()[0].split("/p2p/")[0], "own address"),
            ("name.invalid:4710", "unreachable"),
        ):
            one.dial_nowait(text)
            assert await wait_for(one, DialFailed) == DialFailed(text, reason)
        await nothing_follows(one, 0.1)

    with_two(body)


def test_something_that_is_no_libp2p_node_is_said_to_be_none() -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    async def main() -> None:
        async with open_host(new_key(), config()) as one, trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, talk, 0)
            text = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            one.dial_nowait(text)
            assert await wait_for(one, DialFailed) == DialFailed(text, "not a shoal node")
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("fast", [True, False])
def test_a_plain_libp2p_node_stays_connected_and_is_no_peer(fast: bool) -> None:
    async def main() -> None:
        async with open_host(new_key(), config()) as one, stranger(fast) as node:
            text = f"{node.addresses()[0]}/p2p/{node.id}"
            one.dial_nowait(text)
            assert await wait_for(one, DialFailed) == DialFailed(text, "not a shoal node")
            await nothing_follows(one)
            assert len(one.network.swarm.get_connections()) == 1
            assert not one.statistics().links

    trio.run(main)


def test_a_node_with_our_identity_is_noticed_by_both() -> None:
    async def main() -> None:
        key = new_key()
        async with open_host(key, config()) as one, open_host(key, config()) as twin:
            text = twin.addresses()[0].split("/p2p/")[0]
            one.dial_nowait(text)
            assert await wait_for(one, DialFailed) == DialFailed(text, "same identity")
            assert (await wait_for(twin, DialFailed)).reason == "same identity"

    trio.run(main)


@pytest.mark.slow
def test_two_nodes_with_one_identity_are_told_apart_by_a_third() -> None:
    async def main() -> None:
        key = new_key()
        async with (
            open_host(new_key(), config()) as third,
            open_host(key, config()) as one,
            open_host(key, config()) as twin,
        ):
            await link(one, third)
            twin.dial_nowait(third.addresses()[0])
            assert await wait_for(twin, DialFailed) == DialFailed(third.addresses()[0], "same identity")
            assert (await wait_for(third, DialFailed)).reason == "same identity"
            third.send_nowait(one.me, b"still there")
            assert (await wait_for(one, FrameReceived)).head == b"still there"

    trio.run(main)


def test_a_node_that_comes_back_is_found_again() -> None:
    async def main() -> None:
        key = new_key()
        async with open_host(new_key(), config()) as one:
            for _ in range(3):
                async with open_host(key, config()) as other:
                    await link(other, one)
                assert await wait_for(one, PeerLost) == PeerLost(other.me)

    trio.run(main)


def test_a_frame_for_somebody_known_dials_and_for_others_is_dropped() -> None:
    async def main() -> None:
        key, nobody = new_key(), peer_id_of(bytes(new_key().verify_key))
        async with open_host(new_key(), config()) as one:
            async with open_host(key, config()) as other:
                address = other.addresses()[0]
                await link(one, other)
                one.drop_nowait(other.me, "a test")
                await wait_for(one, PeerLost)
                await wait_for(other, PeerLost)
                one.send_nowait(other.me, b"hello again")
                assert await wait_for(one, PeerFound) == PeerFound(other.me, address, "direct")
                await wait_for(other, PeerFound)
                assert (await wait_for(other, FrameReceived)).head == b"hello again"
            await wait_for(one, PeerLost)
            one.send_nowait(nobody, b"hello")
            for _ in range(3):
                one.send_nowait(other.me, b"hello")
            assert await wait_for(one, DialFailed) == DialFailed(address, "refused")
            one.send_nowait(other.me, b"too soon")
            await nothing_follows(one, 0.1)
            assert one.admission.counts["no link"] == 2

    trio.run(main)


def test_an_announcement_that_is_too_large_is_counted() -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        one.announce_nowait(b"x" * 200_000)
        assert one.admission.counts == {"announcement not taken": 1}

    with_two(body)


def test_a_port_in_use_is_named_with_what_to_do() -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        port = one.addresses()[0].split("/")[4]
        with pytest.raises(PortInUse, match=f"port {port} is in use: choose another with --port"):
            async with open_host(new_key(), config(listen=(f"/ip4/127.0.0.1/tcp/{port}",))):
                pytest.fail("two nodes on a port")

    with_two(body)


def test_a_bad_listen_address_is_refused() -> None:
    with pytest.raises(BadAddress, match="write /ip4/0"):
        Libp2pHost(new_key(), config(listen=("/ip4/nonsense",)))
    with pytest.raises(BadAddress):
        Libp2pHost(new_key(), config(announce=("nonsense",)))


def test_addresses_name_every_interface_or_what_is_announced() -> None:
    async def main() -> None:
        async with open_host(new_key(), config(listen=("/ip4/0.0.0.0/tcp/0",))) as host:
            assert all(each.endswith(f"/p2p/{host.me}") for each in host.addresses())
            assert host.addresses()[-1].startswith("/ip4/127.0.0.1/tcp/")
            assert not any("/0.0.0.0/" in str(each) for each in host.network.host.get_addrs())
        public = "/dns4/node.example/tcp/4710"
        async with open_host(new_key(), config(announce=(public,))) as host:
            assert host.addresses() == [f"{public}/p2p/{host.me}"]
        two = (LOOPBACK, LOOPBACK.replace("0.1", "0.2"))
        async with open_host(new_key(), config(listen=two)) as host:
            assert len(host.addresses()) == 2

    trio.run(main)


def test_flush_waits_until_everything_was_written() -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        await one.flush()
        await link(one, other)
        for _ in range(20):
            one.send_nowait(other.me, b"bulk", memoryview(bytes(1 << 20)))
        one.send_nowait(other.me, b"control")
        await one.flush()
        assert one.statistics().peer_bytes[other.me][0] == 20 * ((1 << 20) + 4) + 7

        async def drop() -> None:
            await trio.sleep(0.05)
            one.drop_nowait(other.me, "a test")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drop)
            for _ in range(200):
                one.send_nowait(other.me, b"bulk", memoryview(bytes(1 << 20)))
            await one.flush()

    with_two(body)


@pytest.mark.parametrize("fast", [True, False])
def test_what_was_taken_back_never_arrives_and_the_rest_of_the_lane_does(fast: bool) -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        await link(one, other)
        memory = [bytearray(bytes([number]) * (1 << 20)) for number in range(80)]
        loans = [Loan(memoryview(each)) for each in memory]
        for number, loan in enumerate(loans):
            one.send_nowait(other.me, b"%d" % number, loan)
        # Nobody takes events over there, so that the lane is full, and the first have arrived.
        await until(lambda: other._peers[one.me].is_full)
        for loan, each in zip(loans, memory, strict=True):
            loan.end()
            each[:] = b"\xff" * len(each)
        one.send_nowait(other.me, b"after", b"more")
        arrived = 0
        while (event := await wait_for(other, FrameReceived)).head != b"after":
            assert bytes(event.data) == bytes([int(event.head)]) * (1 << 20)
            arrived += 1
        assert 0 < arrived < len(loans)

    with_two(body, config(fast_links=fast), config(fast_links=fast))


def test_a_frame_that_no_receiver_takes_is_our_own_fault() -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        with pytest.raises(ValueError, match="larger than any may be"):
            one.send_nowait(other.me, bytes((256 << 10) + 1))
        with pytest.raises(ValueError, match="larger than any may be"):
            one.send_nowait(other.me, b"", bytes((4 << 20) + 1))

    with_two(body)
