"""A node that nobody can dial is reached through one that it is linked with."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from hosts import config, link, wait_for

from shoal.crypto.keys import new_key
from shoal.gossip.events import DialFailed, PeerFound, PeerLost
from shoal.gossip.host import FrameReceived
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_host import Libp2pHost, open_host

HIDDEN = {"hidden": True}


def with_three(
    body: Callable[[Libp2pHost, Libp2pHost, Libp2pHost], Awaitable[None]],
    hidden: HostConfig | None = None,
    caller: HostConfig | None = None,
) -> None:
    """Run a relay, a hidden host that is linked with it, and a caller that is linked with nobody."""

    async def main() -> None:
        with trio.fail_after(250):
            async with (
                open_host(new_key(), config()) as relay,
                open_host(new_key(), hidden or config(**HIDDEN)) as hidden_,
                open_host(new_key(), caller or config()) as caller_,
            ):
                await link(hidden_, relay)
                await body(relay, hidden_, caller_)

    trio.run(main)


async def circuit_of(hidden: Libp2pHost) -> str:
    """Wait until a host has a place at its relay."""
    while not hidden.addresses():
        await trio.sleep(0.02)
    return hidden.addresses()[0]


@pytest.mark.parametrize("fast", [True, False])
def test_frames_go_both_ways_over_a_relayed_link(fast: bool) -> None:
    async def body(relay: Libp2pHost, hidden: Libp2pHost, caller: Libp2pHost) -> None:
        address = await circuit_of(hidden)
        assert address == f"{relay.addresses()[0]}/p2p-circuit/p2p/{hidden.me}"
        caller.dial_nowait(address)
        assert await wait_for(caller, PeerFound) == PeerFound(relay.me, "", "direct")
        assert await wait_for(caller, PeerFound) == PeerFound(hidden.me, address, "relayed")
        assert await wait_for(hidden, PeerFound) == PeerFound(caller.me, "", "relayed")
        (connection,) = (
            each
            for each in caller.network.swarm.get_connections()
            if str(each.muxed_conn.peer_id) == hidden.me
        )
        assert ("shoal" in connection.get_negotiated_security_protocol()) == fast
        assert ("shoal" in connection.get_negotiated_muxer_protocol()) == fast
        data = bytes(range(256)) * 8192
        for one, other in ((caller, hidden), (hidden, caller)):
            one.send_nowait(other.me, b"control")
            assert await wait_for(other, FrameReceived) == FrameReceived(one.me, b"control")
            one.send_nowait(other.me, b"bulk", memoryview(data))
            event = await wait_for(other, FrameReceived)
            assert (event.peer, event.head, bytes(event.data)) == (one.me, b"bulk", data)
        assert caller.statistics().links[hidden.me][1] == "relayed"

    with_three(body, config(**HIDDEN, fast_links=fast))


def test_a_relayed_link_ends_with_its_relay() -> None:
    async def body(relay: Libp2pHost, hidden: Libp2pHost, caller: Libp2pHost) -> None:
        caller.dial_nowait(await circuit_of(hidden))
        await wait_for(caller, PeerFound)
        await wait_for(caller, PeerFound)
        await relay.network.close_links()
        assert {(await wait_for(caller, PeerLost)).peer for _ in range(2)} == {relay.me, hidden.me}
        while hidden.addresses():
            await trio.sleep(0.02)  # its place was there

    with_three(body)


def test_who_has_no_place_at_the_relay_is_not_reached_and_the_dial_says_so() -> None:
    async def body(relay: Libp2pHost, hidden: Libp2pHost, caller: Libp2pHost) -> None:
        address = f"{relay.addresses()[0]}/p2p-circuit/p2p/{hidden.me}"
        caller.dial_nowait(address)
        assert await wait_for(caller, PeerFound) == PeerFound(relay.me, "", "direct")
        assert await wait_for(caller, DialFailed) == DialFailed(address, "unreachable")

    with_three(body, config(listen=(), hidden=False))
