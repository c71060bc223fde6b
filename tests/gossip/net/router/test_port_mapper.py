"""A router over loopback sockets: it is asked, renewed and closed, and nobody else is listened to."""

import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from fake_router import Router, Served, serve
from hosts import until

from shoal.gossip.addresses import Address
from shoal.gossip.net.router import asking
from shoal.gossip.net.router.asking import MAX_BODY, Places, run_steps
from shoal.gossip.net.router.port_mapper import PortMapper, look_at_router
from shoal.gossip.net.router.routes import Route, default_route, gateway_in, gateway_of, local_towards
from shoal.gossip.reachability.port_mapping import LOOPBACK, PUBLIC
from shoal.gossip.reachability.steps import Datagram, Request, Response, Step, Steps
from shoal.gossip.scope import Here

OUTER = "8.9.10.11"
HERE = "127.0.0.1"
ROUTE = Route(HERE, HERE)


@dataclass
class FakeNetwork:
    """Where a node listens, and what is around it."""

    addresses: list[Address] = field(default_factory=lambda: [Address("ip4", "0.0.0.0", 4710)])
    around: Here = field(default_factory=Here)

    def listening(self) -> list[Address]:
        return self.addresses

    def here(self) -> Here:
        return self.around


@asynccontextmanager
async def running(router: Router) -> AsyncIterator[Places]:
    """Run a router on free ports of the loopback."""
    async with trio.open_nursery() as nursery:
        served: Served = await nursery.start(serve, router, HERE, 0, 0)
        yield Places(served.pmp, ((HERE, served.ssdp),))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("by", ["NAT-PMP", "UPnP"])
def test_a_port_is_open_while_the_node_runs_and_closed_after_it(by: str) -> None:
    router = Router(OUTER, speaks_pmp=by == "NAT-PMP")

    async def main() -> None:
        async with running(router) as places:
            mapper = PortMapper(FakeNetwork(), is_wanted=True, places=places, route=ROUTE)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mapper.run)
                await until(lambda: mapper.outcome.state != "looking")
                assert mapper.outcome.text == f"the router leads {OUTER}:4710 here, by {by}"
                assert [str(each) for each in mapper.addresses()] == [f"/ip4/{OUTER}/tcp/4710"]
                assert router.ports == {4710: (HERE, 4710)}
                nursery.cancel_scope.cancel()
            assert router.ports == {}

    trio.run(main)


def look(
    router: Router, network: FakeNetwork, then: Callable[[PortMapper], None] | None = None
) -> PortMapper:
    """Return a mapper that has looked once, and once more after `then`."""
    found: list[PortMapper] = []

    async def main() -> None:
        async with running(router) as places:
            mapper = PortMapper(network, is_wanted=True, places=places, route=ROUTE)
            found.append(mapper)
            await mapper.look()
            if then is not None:
                then(mapper)
                await mapper.look()

    trio.run(main)
    return found[0]


def test_a_carriers_address_is_in_vain_and_nothing_is_opened() -> None:
    router = Router("100.71.3.9")
    mapper = look(router, FakeNetwork())
    assert mapper.outcome.state == "in vain"
    assert (mapper.addresses(), router.ports) == ([], {})


def test_a_port_is_closed_again_once_peers_see_this_node_elsewhere() -> None:
    router, network = Router(OUTER), FakeNetwork()

    def observe(mapper: PortMapper) -> None:
        assert mapper.addresses()
        network.around = Here(observed=frozenset({"8.8.4.4"}))

    mapper = look(router, network, observe)
    assert (mapper.outcome.state, mapper.addresses(), router.ports) == ("in vain", [], {})


def test_a_router_that_changes_its_address_is_announced_anew() -> None:
    router = Router(OUTER)

    def change(_: PortMapper) -> None:
        router.outer = "8.9.10.12"

    mapper = look(router, FakeNetwork(), change)
    assert [each.host for each in mapper.addresses()] == ["8.9.10.12"]


def test_a_node_for_its_own_machine_or_with_a_public_address_asks_no_router() -> None:
    router = Router(OUTER)
    alone = FakeNetwork([Address("ip4", "127.0.0.9", 4710)])
    assert look(router, alone).outcome == LOOPBACK
    public = FakeNetwork(around=Here(internet=(ipaddress.ip_network("127.0.0.0/8"),)))
    assert look(router, public).outcome == PUBLIC
    assert look(router, FakeNetwork([Address("ip6", "::", 4710)])).outcome == LOOPBACK
    assert router.heard == []


@pytest.mark.parametrize(
    ("router", "state", "words"),
    [
        (Router(OUTER), "ready", f"answers, at {OUTER}"),
        (Router(OUTER, speaks_pmp=False), "ready", f"answers, at {OUTER}"),
        (Router("10.0.0.7"), "in vain", "own address is 10.0.0.7"),
    ],
)
def test_a_router_can_be_looked_at_and_nothing_is_changed(router: Router, state: str, words: str) -> None:
    async def main() -> None:
        async with running(router) as places:
            found = await look_at_router(4710, ROUTE, places)
            assert found.state == state
            assert words in found.text
            assert router.ports == {}
            assert not any("AddPort" in each or each == "pmp 2" for each in router.heard)

    trio.run(main)


# --- what carries the steps -----------------------------------------------------------------------


def one(step: Step) -> Steps[bytes | Response | None]:
    """Ask one thing."""
    said: bytes | Response | None = yield step
    return said


def answered_by(answer: Callable[[trio.SocketStream], Awaitable[None]]) -> Response | None:
    """Return what is made of what an HTTP server says."""
    found: list[Response | None] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, answer, 0)
            port = listeners[0].socket.getsockname()[1]
            said = await run_steps(one(Request("GET", port, "/")), ROUTE, Places())
            assert not isinstance(said, bytes)
            found.append(said)
            nursery.cancel_scope.cancel()

    trio.run(main)
    return found[0]


def saying(*pieces: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        try:
            for piece in pieces:
                await stream.send_all(piece)
        except trio.BrokenResourceError:
            pass  # the other side has enough
        await stream.aclose()

    return answer


def test_a_whole_answer_is_taken() -> None:
    assert answered_by(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")) == Response(200, b"hi")
    assert answered_by(saying(b"HTTP/1.0 500 No\r\n\r\nhi")) == Response(500, b"hi")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\0" * 100,
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 9000,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BODY + 1),
    ],
)
def test_what_is_no_whole_answer_of_a_fair_size_is_none(said: bytes) -> None:
    assert answered_by(saying(said)) is None


def test_a_trickle_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "HTTP_SECONDS", 0.05)

    async def trickle(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    assert answered_by(trickle) is None


def test_a_port_where_nobody_listens_is_silence() -> None:
    async def main() -> None:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_STREAM) as held:
            await held.bind((HERE, 0))
            port = held.getsockname()[1]
            assert await run_steps(one(Request("GET", port, "/")), ROUTE, Places()) is None
            nobody = Places(port, ((HERE, port),))
            assert await run_steps(one(Datagram("nat-pmp", b"x", 1.0, bool)), ROUTE, nobody) is None

    trio.run(main)


def test_a_packet_from_anywhere_but_the_router_is_not_looked_at() -> None:
    async def main() -> None:
        with (
            trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as router,
            trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as liar,
        ):
            await router.bind((HERE, 0))
            await liar.bind(("127.0.0.2", 0))
            places = Places(ssdp=((HERE, router.getsockname()[1]),))
            found: list[object] = []

            async def ask() -> None:
                found.append(await run_steps(one(Datagram("ssdp", b"x", 60.0, bool)), ROUTE, places))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                _, asker = await router.recvfrom(100)
                await liar.sendto(b"a lie", asker)
                await router.sendto(b"the truth", asker)
            assert found == [b"the truth"]

    trio.run(main)


def test_the_default_route_with_the_lowest_metric_is_taken() -> None:
    table = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
        "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        "tun0\t00000000\t00000000\t0001\t0\t0\t5\t00000000\t0\t0\t0\n"
        "eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
        "nonsense\n"
    )
    assert gateway_in(table) == "192.168.1.1"
    assert gateway_in("") == ""


def test_the_route_of_macos_is_read() -> None:
    text = "   route to: default\ndestination: default\n    gateway: 192.168.1.1\n  interface: en0\n"
    assert gateway_of(text) == "192.168.1.1"
    assert gateway_of("    gateway: utun3\n") == gateway_of("") == ""


def test_this_machines_own_route_can_be_asked_for() -> None:
    route = default_route()
    assert route is None or local_towards(route.gateway) == route.local
