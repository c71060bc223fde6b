"""Real hosts on loopback for tests: made, linked, and read without surprises."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import trio
import trio.testing
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from shoal.crypto.keys import new_key
from shoal.gossip.addresses import parse
from shoal.gossip.admission.admission import Admission
from shoal.gossip.events import Arriving, PeerFound
from shoal.gossip.host import HostEvent
from shoal.gossip.net.frames import CONTROL, LinkBroken
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_adapters import LaneStream
from shoal.gossip.net.libp2p_host import Libp2pHost
from shoal.gossip.net.libp2p_node import Network
from shoal.gossip.net.peers import WIRE, Hello
from shoal.gossip.net.transport.records import suites_by_speed

E = TypeVar("E", bound=Any)
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


def config(**changes: Any) -> HostConfig:
    """Return a config for loopback, without mDNS and DHT."""
    return HostConfig(**{"listen": (LOOPBACK,), "mdns": False, "dht": False, **changes})


async def wait_for(host: Libp2pHost, kind: type[E]) -> E:
    """Return the next event, which has to be of this kind; a busy machine may be told of bulk on its way."""
    with trio.fail_after(60):
        event: HostEvent = await host.next_event()
        while isinstance(event, Arriving) and kind is not Arriving:
            event = await host.next_event()
        assert isinstance(event, kind), event
        return event


async def until(is_so: Callable[[], object]) -> None:
    """Look again until it is so, however long a busy machine takes."""
    with trio.fail_after(60):
        while not is_so():
            await trio.sleep(0.01)


def run_with_time_to_stop(main: Callable[[], Awaitable[None]]) -> None:
    """Run over real sockets and in real time, but for where `time_stands_still`."""
    trio.run(main, clock=trio.testing.MockClock(rate=1.0))


@contextmanager
def time_stands_still() -> Iterator[None]:
    """Let no timer end: what waits for one, waits for ever. Hosts need timers to close."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    clock.rate = 0.0
    try:
        yield
    finally:
        clock.rate = 1.0


async def nothing_follows(host: Libp2pHost, seconds: float = 0.3) -> None:
    """Check that nothing happens for a while, but that bulk is on its way (`wait_for`)."""
    with trio.move_on_after(seconds):
        while isinstance(event := await host.next_event(), Arriving):
            pass
        raise AssertionError(event)


async def link(one: Libp2pHost, other: Libp2pHost) -> None:
    """Dial, and take the events of both sides."""
    address = other.addresses()[0]
    one.dial_nowait(address)
    assert await wait_for(one, PeerFound) == PeerFound(other.me, address, "direct")
    assert await wait_for(other, PeerFound) == PeerFound(one.me, "", "direct")


@asynccontextmanager
async def stranger(fast: bool = True) -> AsyncIterator[Network]:
    """Run a libp2p node that speaks none of our protocols unless the test does."""
    suites = suites_by_speed() if fast else ()
    network = Network(new_key(), suites=suites, announce=[], admission=Admission(64), local_sockets=True)
    async with background_trio_service(network.swarm):
        await network.swarm.listen(Multiaddr(LOOPBACK))
        yield network
        await network.close_links()
        await network.swarm.close()


async def attack(network: Network, victim: Libp2pHost, hello: bytes | None = None) -> tuple[Any, LaneStream]:
    """Open a control stream by hand, and say hello; return the connection and the stream."""
    connection = await network.dial(parse(victim.addresses()[0]), lambda _muxed, _peer: True)
    stream = await network.open_lane(connection, CONTROL)
    assert stream is not None
    with suppress(LinkBroken):  # it may be refused by its first bytes, before all are written
        await stream.write(Hello(WIRE[0], "shoal", b"attacker").frame() if hello is None else hello)
    return connection, stream
