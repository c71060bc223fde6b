"""Two ends of a record session or muxer in one process, with a wire that tests can cut and bend."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID

from shoal.gossip.net.transport.muxer import FastMuxer
from shoal.gossip.net.transport.records import AES, FastNoise, RecordSession, Suite
from shoal.gossip.net.transport.tcp import TcpStream, Traffic


class Wire:
    """One end of a connection without a socket: what is written passes through `bend`."""

    def __init__(self, stream: Any, *, initiator: bool) -> None:
        self.stream = stream
        self.is_initiator = initiator
        self.bend: Callable[[bytes], bytes] = lambda data: data
        self.blocked = False
        self._closed = trio.Event()

    async def write(self, data: bytes) -> None:
        if self.blocked:
            await self._closed.wait()
            raise ConnectionClosedError("closed")
        try:
            await self.stream.send_all(self.bend(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("closed") from error

    async def read(self, n: int | None = None) -> bytes:
        try:
            return bytes(await self.stream.receive_some(n))
        except trio.ClosedResourceError:
            return b""

    async def close(self) -> None:
        self._closed.set()
        await self.stream.aclose()

    def get_remote_address(self) -> tuple[str, int]:
        return ("192.0.2.1", 4710)

    def get_transport_addresses(self) -> list[Any]:
        return []


def noise(suite: Suite) -> FastNoise:
    return FastNoise(create_new_key_pair(), create_noise_key().private_key, suite)


async def handshake(one: Any, other: Any, suite: Suite = AES) -> tuple[RecordSession, RecordSession]:
    """Return the sessions of who dialled and who was dialled."""
    dialler, listener = noise(suite), noise(suite)
    sessions: dict[str, Any] = {}

    async def outbound() -> None:
        sessions["one"] = await dialler.secure_outbound(one, listener.local_peer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbound)
        sessions["other"] = await listener.secure_inbound(other)
    return sessions["one"], sessions["other"]


async def wired(suite: Suite = AES) -> tuple[RecordSession, RecordSession, Wire, Wire]:
    """Return two sessions and their wires."""
    left, right = trio.testing.memory_stream_pair()
    one, other = Wire(left, initiator=True), Wire(right, initiator=False)
    return *await handshake(one, other, suite), one, other


async def over_tcp(suite: Suite = AES) -> tuple[RecordSession, RecordSession]:
    """Return two sessions over a real socket."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        left = await trio.open_tcp_stream(*listener.socket.getsockname())
        right = await listener.accept()
    one = RawConnection(TcpStream(left, Traffic()), True)
    return await handshake(one, RawConnection(TcpStream(right, Traffic()), False), suite)


@asynccontextmanager
async def muxers(tcp: bool = True) -> AsyncIterator[tuple[FastMuxer, FastMuxer]]:
    """Run two muxers on one link."""
    one, other = await over_tcp() if tcp else (await wired())[:2]
    pair = FastMuxer(one, ID(b"other")), FastMuxer(other, ID(b"one"))
    async with trio.open_nursery() as nursery:
        for muxer in pair:
            nursery.start_soon(muxer.start)
            await muxer.event_started.wait()
        yield pair
        for muxer in pair:
            await muxer.close()
