"""Unix sockets between nodes of one machine: taken where they are safe, and TCP everywhere else."""

import os
import socket
import sys
from collections.abc import Iterator

import pytest
import trio
from fast_pairs import over_tcp
from hosts import config, link, wait_for
from libp2p.network.exceptions import SwarmException

from shoal.crypto.keys import new_key
from shoal.gossip.events import DialFailed, PeerLost
from shoal.gossip.host import FrameReceived
from shoal.gossip.net.libp2p_host import Libp2pHost, open_host
from shoal.gossip.net.transport.tcp import TcpStream, Traffic
from shoal.gossip.net.transport.unix_sockets import listen_local, open_local, own_name, peer_name

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names without files are a thing of Linux")


with socket.socket(socket.AF_UNIX) as fresh:
    SYSTEM_BUFFER = fresh.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


@pytest.fixture
def port() -> Iterator[int]:
    """Keep a port for the test: nobody else listens on it meanwhile, so nobody takes its name either."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield int(kept.getsockname()[1])


async def received(stream: trio.SocketStream, count: int) -> bytes:
    """Return so many bytes, in whatever pieces they come."""
    data = b""
    while len(data) < count:
        data += await stream.receive_some(count - len(data))
    return data


@pytest.mark.parametrize("listened", ["127.0.0.1", "0.0.0.0"])
def test_bytes_go_both_ways_and_each_end_knows_the_other_by_one_name(listened: str, port: int) -> None:
    async def main() -> None:
        listener = listen_local(listened, port)
        assert listener is not None
        names = set()
        async with listener:
            for _ in range(2):
                near = open_local("127.0.0.1", port)
                assert near is not None
                async with near, await listener.accept() as far:
                    await near.send_all(b"there")
                    assert await received(far, 5) == b"there"
                    await far.send_all(b"back")
                    assert await received(near, 4) == b"back"
                    assert own_name(near.socket) == peer_name(far.socket)
                    assert TcpStream(far, Traffic()).get_remote_address() == own_name(near.socket)
                    assert far.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > SYSTEM_BUFFER
                    names.add(own_name(near.socket))
        assert len(names) == 2

    trio.run(main)


def test_where_nobody_listens_and_on_other_machines_it_takes_tcp(port: int) -> None:
    async def main() -> None:
        assert open_local("127.0.0.1", port) is None
        assert open_local("::1", port) is None
        assert open_local("192.0.2.1", port) is None
        assert open_local("a-name.example", port) is None
        assert listen_local("192.0.2.1", port) is None
        listener = listen_local("127.0.0.2", port)
        assert listener is not None
        async with listener:
            assert open_local("127.0.0.1", port) is None

    trio.run(main)


def test_a_name_that_another_user_has_taken_is_not_gone_by(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    async def main() -> None:
        me = os.getuid()
        listener = listen_local("127.0.0.1", port)
        assert listener is not None
        async with listener:
            assert listen_local("127.0.0.1", port) is None
            monkeypatch.setattr("shoal.gossip.net.transport.unix_sockets._user", lambda _: me + 1)
            assert open_local("127.0.0.1", port) is None

    trio.run(main)


def test_over_tcp_a_name_is_an_address() -> None:
    async def main() -> None:
        one, other = await over_tcp()
        for session in (one, other):
            tcp = session._tcp
            assert tcp is not None
            assert peer_name(tcp.stream.socket) is None
            assert own_name(tcp.stream.socket) == tcp.stream.socket.getsockname()
            await session.close()

    trio.run(main)


def family(host: Libp2pHost) -> int:
    """Return what kind of socket the only link of a host has."""
    (connection,) = host.network.swarm.get_connections()
    return int(connection.muxed_conn.secured_conn._tcp.stream.socket.family)


@pytest.mark.parametrize("listens", [True, False])
@pytest.mark.parametrize("dials", [True, False])
def test_nodes_of_one_machine_talk_over_a_unix_socket_where_both_may(listens: bool, dials: bool) -> None:
    async def main() -> None:
        async with open_host(new_key(), config(local_sockets=dials)) as one:
            async with open_host(new_key(), config(local_sockets=listens)) as other:
                await link(one, other)
                wanted = socket.AF_UNIX if listens and dials else socket.AF_INET
                assert (family(one), family(other)) == (wanted, wanted)
                one.send_nowait(other.me, b"head", memoryview(bytes(5 << 20))[: 3 << 20])
                assert len((await wait_for(other, FrameReceived)).data) == 3 << 20
                assert 3 << 20 < one.statistics().bytes_sent < 4 << 20
                assert one.statistics().links[other.me][0] == other.addresses()[0]
            assert await wait_for(one, PeerLost) == PeerLost(other.me)

    trio.run(main)


def test_who_dials_itself_over_a_unix_socket_is_told_and_takes_it_for_no_twin() -> None:
    async def main() -> None:
        async with open_host(new_key(), config()) as host:
            address = host.addresses()[0].rpartition("/p2p/")[0]
            host.dial_nowait(address)
            assert await wait_for(host, DialFailed) == DialFailed(address, "own address")
            with trio.move_on_after(0.3):
                raise AssertionError(await host.next_event())

    trio.run(main)


def test_a_connection_that_fails_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_host(new_key(), config()) as one, open_host(new_key(), config()) as other:
            accept = other.network._accept

            async def fail(_: object) -> None:
                monkeypatch.setattr(other.network, "_accept", accept)
                raise SwarmException("Connection closed while starting")

            monkeypatch.setattr(other.network, "_accept", fail)
            address = other.addresses()[0]
            one.dial_nowait(address)
            assert await wait_for(one, DialFailed) == DialFailed(address, "refused")
            await link(one, other)

    trio.run(main)
