"""Flood a node as strangers can, and say what it takes: memory, and how long others wait meanwhile.

    python scripts/floods.py [--seconds S] [--json] [NAME ...]

The node is a process of its own, a helper with the DHT. Each flood comes over loopback from keys that it does
not know. While it lasts, a peer that the node's user named links and leaves again and again, and a stranger
asks the DHT. Peak memory is the node's resident set, sampled ten times a second.

    half-open    TCP connections that say nothing
    silent       links without a hello
    hello        links with a hello, of as many keys as fit
    negotiation  lines of a negotiation without end
    window       more than a window of standard yamux
    unread       streams full of what nobody reads
    idle-dht     half a message on streams of the DHT
    noise        announcements that are none
"""

import argparse
import json
import logging
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
import trio
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils.varint import encode_uvarint, read_varint_prefixed_bytes_limited

from shoal.crypto.keys import new_key
from shoal.gossip.addresses import Address, parse
from shoal.gossip.admission.admission import Admission
from shoal.gossip.events import PeerFound, PeerLost
from shoal.gossip.net.frames import BULK, CONTROL
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_host import Libp2pHost, open_host
from shoal.gossip.net.libp2p_node import Network
from shoal.gossip.net.peers import WIRE, Hello
from shoal.gossip.net.transport.records import suites_by_speed

LOOPBACK: Final = "/ip4/127.0.0.1/tcp/0"
PATIENCE: Final = 60.0
"""Seconds after which a colleague or a question counts as kept out."""
Flood = Callable[[Address, trio.Nursery], Awaitable[None]]


def stranger(*, fast: bool = True) -> Network:
    """Make a libp2p node with a fresh key."""
    suites = suites_by_speed() if fast else ()
    return Network(new_key(), suites=suites, announce=[], admission=Admission(64), local_sockets=False)


async def half_open(target: Address, nursery: trio.Nursery) -> None:
    """Open connections and say nothing."""

    async def one() -> None:
        while True:
            with suppress(OSError, trio.BrokenResourceError):
                async with await trio.open_tcp_stream(target.host, target.port) as stream:
                    await stream.receive_some(1 << 16)
                    await stream.receive_some(1 << 16)
            await trio.sleep(0.05)

    for _ in range(300):
        nursery.start_soon(one)
    await trio.sleep_forever()


async def negotiation(target: Address, nursery: trio.Nursery) -> None:
    """Announce a gigabyte for the first line, and send it."""

    async def one() -> None:
        head = encode_uvarint(20) + b"/multistream/1.0.0\n" + encode_uvarint(1 << 30)
        while True:
            with suppress(OSError, trio.BrokenResourceError):
                async with await trio.open_tcp_stream(target.host, target.port) as stream:
                    await stream.send_all(head)
                    while True:
                        await stream.send_all(bytes(1 << 16))
            await trio.sleep(0.05)

    for _ in range(32):
        nursery.start_soon(one)
    await trio.sleep_forever()


def with_links(body: Callable[[Network, Any], Awaitable[None]], *, fast: bool = True) -> Flood:
    """Do something on a link of each of many keys, again and again."""

    async def one(target: Address) -> None:
        while True:
            network = stranger(fast=fast)
            with suppress(Exception):  # whatever the library raises when a link goes
                async with background_trio_service(network.swarm):
                    with trio.move_on_after(20):
                        connection = await network.dial(target, lambda _muxed, _peer: True)
                        await body(network, connection)
                        await connection.event_closed.wait()
                    await network.close_links()
            await trio.sleep(0.2)

    async def flood(target: Address, nursery: trio.Nursery) -> None:
        for _ in range(80):
            nursery.start_soon(one, target)
            await trio.sleep(0.01)
        await trio.sleep_forever()

    return flood


async def nothing(network: Network, connection: Any) -> None:
    """Say nothing on a link."""


async def say_hello(network: Network, connection: Any) -> None:
    """Say hello, and nothing else."""
    lane = await network.open_lane(connection, CONTROL)
    if lane is not None:
        await lane.write(Hello(WIRE[0], "shoal", os.urandom(8)).frame())


async def overrun(network: Network, connection: Any) -> None:
    """Send more than a window on lanes that are not read before a hello."""
    lane = await network.open_lane(connection, BULK)
    assert lane is not None
    head = struct.pack("!BBHII", 0, 0, 0, lane._stream.muxed_stream.stream_id, 60_000)
    for _ in range(2000):
        await connection.muxed_conn._write_frame(head + bytes(60_000))


async def fill_streams(network: Network, connection: Any) -> None:
    """Fill streams whose other end has answered and reads nothing."""
    for _ in range(250):
        stream = await network.open_stream(connection, "/ipfs/id/1.0.0")
        await stream.write(bytes(256 * 1024))


async def idle_dht(network: Network, connection: Any) -> None:
    """Say half of something on streams of the DHT."""
    for _ in range(12):
        stream = await network.open_stream(connection, PROTOCOL_ID)
        await stream.write(b"\x80")


async def noise(target: Address, nursery: trio.Nursery) -> None:
    """Announce what is no record."""
    async with open_host(new_key(), config()) as host:
        host.dial_nowait(str(target))
        while True:
            host.announce_nowait(os.urandom(2000))
            await trio.sleep(0.005)


FLOODS: Final[dict[str, Flood]] = {
    "half-open": half_open,
    "negotiation": negotiation,
    "silent": with_links(nothing),
    "hello": with_links(say_hello),
    "window": with_links(overrun, fast=False),
    "unread": with_links(fill_streams),
    "idle-dht": with_links(idle_dht),
    "noise": noise,
}


def config() -> HostConfig:
    """Return the config of a host of ours on loopback."""
    return HostConfig(listen=(LOOPBACK,), mdns=False, dht=False, local_sockets=False)


async def colleague_comes(host: Libp2pHost, address: str) -> float:
    """Link to the node, and leave; return the seconds that the link took."""
    began = trio.current_time()
    with trio.move_on_after(PATIENCE):
        while True:
            host.dial_nowait(address)
            event = await host.next_event()
            if isinstance(event, PeerFound):
                host.drop_nowait(event.peer, "seen")
                while not isinstance(await host.next_event(), PeerLost):
                    pass
                return trio.current_time() - began
            await trio.sleep(0.1)
    return PATIENCE


async def dht_answers(address: str) -> float:
    """Ask the node's DHT as a stranger; return the seconds until it answers."""
    began = trio.current_time()
    with trio.move_on_after(PATIENCE):
        while True:
            network = stranger()
            with suppress(Exception):  # refused, for now
                async with background_trio_service(network.swarm):
                    connection = await network.dial(parse(address), lambda _muxed, _peer: True)
                    stream = await network.open_stream(connection, PROTOCOL_ID)
                    data = Message(type=Message.MessageType.PING).SerializeToString()
                    await stream.write(encode_uvarint(len(data)) + data)
                    await read_varint_prefixed_bytes_limited(stream, 1 << 20)
                    await network.close_links()
                    return trio.current_time() - began
            await trio.sleep(0.1)
    return PATIENCE


async def measure(
    name: str, seconds: float, process: psutil.Process, colleague: Libp2pHost, address: str
) -> Any:
    """Let one flood come, and return what the node took."""
    found: dict[str, Any] = {"flood": name, "rss_before_mb": round(process.memory_info().rss / 1e6, 1)}
    peak, comes, answers = 0, [], []

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, process.memory_info().rss)
            await trio.sleep(0.1)

    async def visit() -> None:
        while True:
            comes.append(await colleague_comes(colleague, address))
            await trio.sleep(0.5)

    async def ask() -> None:
        while True:
            answers.append(await dht_answers(address))
            await trio.sleep(0.5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        nursery.start_soon(FLOODS[name], parse(address), nursery)
        await trio.sleep(min(2.0, seconds / 2))
        nursery.start_soon(visit)
        nursery.start_soon(ask)
        with trio.move_on_after(max(seconds, 2 * PATIENCE)):
            await trio.sleep(seconds)
            while not comes or not answers:
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    found["rss_peak_mb"] = round(peak / 1e6, 1)
    found["colleague_seconds"] = round(max(comes, default=PATIENCE), 2)
    found["dht_seconds"] = round(max(answers, default=PATIENCE), 2)
    return found


async def run(names: list[str], seconds: float, *, as_json: bool) -> None:
    """Start the node, and let the floods come one after the other."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        colleague = await stack.enter_async_context(open_host(new_key(), config()))
        command = [sys.executable, "-P", "-m", "shoal.node", "start", "--home", str(directory / "home")]
        command += ["--no-mdns", "--no-http", "--listen", LOOPBACK, "--log-format", "json"]
        command += ["--join", colleague.addresses()[0]]
        node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert node.stdout is not None
            line = await trio.to_thread.run_sync(node.stdout.readline)
            address = json.loads(line)["addresses"].split()[0]
            drain: Any = partial(trio.to_thread.run_sync, abandon_on_cancel=True)  # type: ignore[call-arg]  # old stubs
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(drain, node.stdout.read))
                for name in names:
                    found = await measure(name, seconds, psutil.Process(node.pid), colleague, address)
                    print(json.dumps(found) if as_json else "  ".join(f"{k} {v}" for k, v in found.items()))
                    sys.stdout.flush()
                nursery.cancel_scope.cancel()
        finally:
            node.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                node.wait(10)
            node.kill()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Flood a node, and measure what it takes.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FLOODS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each flood")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    trio.run(lambda: run(given.names or list(FLOODS), given.seconds, as_json=given.json))


if __name__ == "__main__":
    main()
