"""Hosts over real libp2p on loopback: links, hellos, frames, and how they end."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
import trio

from crypto.keys import new_key
from gossip.core import DialFailed, PeerFound, PeerLost
from gossip.host import Announced, FrameReceived, HostConfig, HostEvent
from gossip.libp2p_host import BadAddress, Libp2pHost, PortInUse, open_host

E = TypeVar("E", bound=Any)


def config(**changes: Any) -> HostConfig:
    return HostConfig(**{"listen": ("/ip4/127.0.0.1/tcp/0",), "mdns": False, "dht": False, **changes})


async def wait_for(host: Libp2pHost, kind: type[E]) -> E:
    """Return the next event of a kind; anything else on the way fails the test."""
    with trio.fail_after(10):
        event: HostEvent = await host.next_event()
        assert isinstance(event, kind), event
        return event


async def link(one: Libp2pHost, other: Libp2pHost) -> None:
    one.dial_nowait(other.addresses()[0])
    assert await wait_for(one, PeerFound) == PeerFound(other.me, other.addresses()[0], "direct")
    assert (await wait_for(other, PeerFound)).peer == one.me


def with_two(
    body: Callable[[Libp2pHost, Libp2pHost], Awaitable[None]], first: HostConfig, second: HostConfig
) -> None:
    async def main() -> None:
        with trio.fail_after(30):
            async with open_host(new_key(), first) as one, open_host(new_key(), second) as other:
                await body(one, other)

    trio.run(main)


@pytest.mark.parametrize("fast", [(True, True), (False, False), (True, False), (False, True)])
def test_frames_arrive_whole_and_in_order_between_fast_and_standard_hosts(fast: tuple[bool, bool]) -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        await link(one, other)
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

    with_two(body, config(fast_links=fast[0]), config(fast_links=fast[1]))


def test_a_peer_that_leaves_is_lost_once() -> None:
    async def main() -> None:
        async with open_host(new_key(), config()) as one:
            async with open_host(new_key(), config()) as other:
                await link(one, other)
            assert await wait_for(one, PeerLost) == PeerLost(other.me)
            with trio.move_on_after(0.3):
                pytest.fail(f"nothing may follow, not {await one.next_event()}")

    trio.run(main)


def test_another_swarm_is_refused_on_both_sides() -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        address = other.addresses()[0]
        one.dial_nowait(address)
        assert await wait_for(one, DialFailed) == DialFailed(address, "wrong swarm")
        assert (await wait_for(other, DialFailed)).reason == "wrong swarm"

    with_two(body, config(), config(swarm="another"))


def test_a_port_in_use_is_named_with_what_to_do() -> None:
    async def body(one: Libp2pHost, other: Libp2pHost) -> None:
        port = one.addresses()[0].split("/")[4]
        with pytest.raises(PortInUse, match=f"port {port} is in use: choose another with --port"):
            async with open_host(new_key(), config(listen=(f"/ip4/127.0.0.1/tcp/{port}",))):
                pytest.fail("two nodes on a port")

    with_two(body, config(), config())


def test_a_bad_listen_address_is_refused() -> None:
    with pytest.raises(BadAddress, match="write /ip4/0"):
        Libp2pHost(new_key(), config(listen=("/ip4/nonsense",)))


def test_an_announcement_reaches_a_peer_over_another_peer() -> None:
    async def main() -> None:
        with trio.fail_after(30):
            async with (
                open_host(new_key(), config()) as one,
                open_host(new_key(), config()) as middle,
                open_host(new_key(), config()) as far,
            ):
                await link(one, middle)
                await link(far, middle)
                await trio.sleep(2)  # the mesh of GossipSub grows with its heartbeat, once a second
                one.announce_nowait(b"hello")
                assert await wait_for(far, Announced) == Announced(middle.me, b"hello")
                assert await wait_for(middle, Announced) == Announced(one.me, b"hello")

    trio.run(main)
