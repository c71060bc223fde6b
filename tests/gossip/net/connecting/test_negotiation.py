"""Negotiation: bounded in size and time, flow control that is kept, and no way down to a weaker link."""

import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from hosts import LOOPBACK, config, link, stranger, until, wait_for
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    FLAG_SYN,
    TYPE_DATA,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
)
from libp2p.utils.varint import encode_uvarint

from shoal.crypto.keys import new_key
from shoal.gossip.addresses import parse
from shoal.gossip.events import FAST_LINK_DENIED, DialFailed, PeerFound
from shoal.gossip.net.connecting.negotiation import MAX_LINE, MAX_LINES, MAX_YAMUX_WINDOW
from shoal.gossip.net.frames import BULK, CONTROL, PREFIX
from shoal.gossip.net.libp2p_host import Libp2pHost, open_host
from shoal.gossip.net.libp2p_node import Network
from shoal.gossip.net.peers import WIRE, Hello
from shoal.gossip.net.transport.stream import MAX_STREAMS, MAX_UNCLAIMED

MULTISTREAM = b"/multistream/1.0.0\n"


def line(text: bytes) -> bytes:
    return bytes(encode_uvarint(len(text))) + text


def on_a_raw_connection(body: Callable[[Libp2pHost, trio.SocketStream], Awaitable[None]]) -> None:
    """Connect to a host by TCP, without a handshake."""

    async def main() -> None:
        with trio.fail_after(250):
            async with open_host(new_key(), config(local_sockets=False)) as host:
                target = parse(host.addresses()[0])
                async with await trio.open_tcp_stream(target.host, target.port) as tcp:
                    await body(host, tcp)

    trio.run(main)


async def sent_until_closed(tcp: trio.SocketStream, piece: bytes, most: int) -> int:
    """Send a piece again and again until the other end closes; return how much it took, at most `most`."""
    sent = 0
    with suppress(trio.BrokenResourceError):
        while sent < most:
            await tcp.send_all(piece)
            sent += len(piece)
    return sent


def test_a_line_without_end_is_not_read() -> None:
    async def body(host: Libp2pHost, tcp: trio.SocketStream) -> None:
        await tcp.send_all(line(MULTISTREAM) + encode_uvarint(1 << 30))
        assert await sent_until_closed(tcp, bytes(65536), 64 << 20) < 32 << 20
        await until(lambda: host.admission.counts["handshake"] == 1)

    on_a_raw_connection(body)


def test_a_negotiation_without_end_is_ended() -> None:
    async def body(host: Libp2pHost, tcp: trio.SocketStream) -> None:
        await tcp.send_all(line(MULTISTREAM) + (MAX_LINES + 1) * line(b"/no/such\n"))
        with suppress(trio.BrokenResourceError):  # it is closed before all lines are read
            while await tcp.receive_some():
                pass
        await until(lambda: host.admission.counts["handshake"] == 1)

    on_a_raw_connection(body)


def test_the_longest_name_is_still_refused_in_peace() -> None:
    async def body(host: Libp2pHost, tcp: trio.SocketStream) -> None:
        await tcp.send_all(line(MULTISTREAM) + line(b"x" * (MAX_LINE - 1) + b"\n"))
        answers = b""
        while b"na\n" not in answers:
            answers += await tcp.receive_some()

    on_a_raw_connection(body)


def against_standard_yamux(attack: Callable[[Network, Any], Awaitable[None]]) -> None:
    """Let a stranger attack over standard Noise and yamux; it has to lose its link, and nobody else."""

    async def main() -> None:
        with trio.fail_after(250):
            async with (
                open_host(new_key(), config()) as host,
                open_host(new_key(), config()) as peer,
                stranger(fast=False) as network,
            ):
                await link(peer, host)
                connection = await network.dial(parse(host.addresses()[0]), lambda _muxed, _peer: True)
                with suppress(Exception):  # whatever the library raises when its link goes
                    await attack(network, connection)
                await connection.event_closed.wait()
                await until(lambda: list(host.statistics().links) == [peer.me])

    trio.run(main)


def frame(kind: int, flags: int, stream: int, length: int) -> bytes:
    return struct.pack(YAMUX_HEADER_FORMAT, 0, kind, flags, stream, length)


def test_more_than_the_window_ends_a_standard_link() -> None:
    async def attack(network: Network, connection: Any) -> None:
        lane = await network.open_lane(connection, BULK)  # which nobody reads before a hello
        assert lane is not None
        number, size = lane._stream.muxed_stream.stream_id, 60_000
        for _ in range(2 * MAX_YAMUX_WINDOW // size):  # wherever the window may stand by now
            await connection.muxed_conn._write_frame(frame(TYPE_DATA, 0, number, size) + bytes(size))

    against_standard_yamux(attack)


def test_more_than_the_window_of_a_lane_ends_a_standard_link() -> None:
    async def attack(network: Network, connection: Any) -> None:
        for _ in range(2):  # the second is not read before the first has ended
            lane = await network.open_lane(connection, CONTROL)
            assert lane is not None
            await lane.write(Hello(WIRE[0], "shoal", b"attacker").frame() + PREFIX.pack(1, 0) + b"x")
        assert lane is not None
        number, size = lane._stream.muxed_stream.stream_id, 60_000
        for _ in range(2 * MAX_YAMUX_WINDOW // size):
            await connection.muxed_conn._write_frame(frame(TYPE_DATA, 0, number, size) + bytes(size))

    against_standard_yamux(attack)


def test_a_first_frame_larger_than_the_window_ends_a_standard_link_before_it_is_read() -> None:
    async def attack(network: Network, connection: Any) -> None:
        await connection.muxed_conn._write_frame(frame(TYPE_DATA, FLAG_SYN, 99, DEFAULT_WINDOW_SIZE + 1))

    against_standard_yamux(attack)


def test_windows_full_of_what_nobody_reads_end_a_standard_link() -> None:
    async def attack(network: Network, connection: Any) -> None:
        for _ in range(MAX_UNCLAIMED // DEFAULT_WINDOW_SIZE + 1):
            stream = await network.open_stream(connection, "/ipfs/id/1.0.0")  # who answers it reads nothing
            await stream.write(bytes(DEFAULT_WINDOW_SIZE))

    against_standard_yamux(attack)


def test_streams_without_number_end_a_standard_link() -> None:
    async def attack(network: Network, connection: Any) -> None:
        for number in range(MAX_STREAMS + 8):
            head = frame(TYPE_WINDOW_UPDATE, FLAG_SYN, 99 + 2 * number, 0)
            await connection.muxed_conn._write_frame(head)

    against_standard_yamux(attack)


async def deny_fast_links(client: trio.SocketStream, server: trio.SocketStream) -> None:
    """Answer for the server that it has no fast security; hand on all the rest."""

    async def read_line(stream: trio.SocketStream) -> bytes:
        (size,) = await stream.receive_some(1)
        text = b""
        while len(text) < size:
            text += await stream.receive_some(size - len(text))
        return line(text)

    async def pipe(source: trio.SocketStream, target: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while piece := await source.receive_some():
                await target.send_all(piece)
            await target.send_eof()

    async with client, server:
        await client.send_all(await read_line(server))
        await server.send_all(await read_line(client))
        while b"/shoal/" in (asked := await read_line(client)):
            await client.send_all(line(b"na\n"))
        await server.send_all(asked)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe, client, server)
            nursery.start_soon(pipe, server, client)


@pytest.mark.parametrize("fast", [True, False])
def test_denying_the_fast_link_ends_the_dial_and_weakens_nothing(fast: bool) -> None:
    async def main() -> None:
        with trio.fail_after(250):
            async with (
                open_host(new_key(), config(local_sockets=False)) as one,
                open_host(new_key(), config(local_sockets=False, fast_links=fast)) as other,
                trio.open_nursery() as nursery,
            ):
                target = parse(other.addresses()[0])

                async def between(client: trio.SocketStream) -> None:
                    await deny_fast_links(client, await trio.open_tcp_stream(target.host, target.port))

                (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
                port = listener.socket.getsockname()[1]
                nursery.start_soon(trio.serve_listeners, between, [listener])
                address = f"{LOOPBACK.removesuffix('0')}{port}/p2p/{other.me}"
                one.dial_nowait(address)
                if fast:
                    assert await wait_for(one, DialFailed) == DialFailed(address, FAST_LINK_DENIED)
                    assert not one.statistics().links
                else:  # to whom nothing was denied
                    await wait_for(one, PeerFound)
                    assert list(one.statistics().links) == [other.me]
                nursery.cancel_scope.cancel()

    trio.run(main)
