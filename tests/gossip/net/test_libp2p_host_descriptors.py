"""A thousand connections come and go, of every kind, and leave a live host as it was."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio
from hosts import LOOPBACK, config, wait_for
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from shoal.crypto.keys import new_key
from shoal.gossip.addresses import parse
from shoal.gossip.admission.admission import Admission
from shoal.gossip.events import PeerFound
from shoal.gossip.host import FrameReceived
from shoal.gossip.net.frames import CONTROL
from shoal.gossip.net.libp2p_host import open_host
from shoal.gossip.net.libp2p_node import Network
from shoal.gossip.net.transport.records import suites_by_speed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SCRIPT = Path(__file__).resolve().parents[2] / "host_process.py"
KINDS = 5
EACH = 200
"""Connections of every kind."""
WARM_UP = 10


async def says_nothing(port: int, address: str) -> None:
    """Connect, and leave."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.aclose()


async def says_half(port: int, address: str) -> None:
    """Leave in the middle of the handshake."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(b"\x13/multistream/1.0.0\n\x0a/shoal/")
    await stream.aclose()


async def says_nonsense(port: int, address: str) -> None:
    """Send what is no protocol."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(os.urandom(300))
    with trio.move_on_after(5), suppress(trio.BrokenResourceError):
        await stream.receive_some(100)
    await stream.aclose()


async def is_a_stranger(port: int, address: str) -> None:
    """Be a libp2p node that opens a control stream, and says nothing on it."""
    network = Network(
        new_key(), suites=suites_by_speed(), announce=[], admission=Admission(4), local_sockets=True
    )
    async with background_trio_service(network.swarm):
        await network.swarm.listen(Multiaddr(LOOPBACK))
        connection = await network.dial(parse(address), lambda _muxed, _peer: True)
        await network.open_lane(connection, CONTROL)
        await network.close_links()
        await network.swarm.close()


async def is_a_peer(port: int, address: str) -> None:
    """Be a node of the swarm, which says something and goes."""
    async with open_host(new_key(), config()) as host:
        host.dial_nowait(address)
        found = await wait_for(host, PeerFound)
        host.send_nowait(found.peer, b"hello")
        await wait_for(host, FrameReceived)


RUDE: tuple[Any, ...] = (says_nothing, says_half, says_nonsense)
CIVIL: tuple[Any, ...] = (is_a_stranger, is_a_peer)


async def visit(address: str, each: int) -> None:
    """Let every kind come so often: first the rude, then the civil, four at a time."""
    port = int(address.split("/")[4])

    async def come(kinds: tuple[Any, ...], times: int) -> None:
        for _ in range(times):
            for kind in kinds:
                with trio.fail_after(30):
                    await kind(port, address)

    await come(RUDE, each)
    await trio.sleep(0.5)  # or those that are still being turned away count against the civil ones
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            for kind in CIVIL:
                nursery.start_soon(come, (kind,), each // 2)


def settled(process: psutil.Process, most: int) -> int:
    """Return how many descriptors are open, when those that are closing are closed."""
    deadline = time.monotonic() + 30
    while (count := process.num_fds()) > most and time.monotonic() < deadline:
        time.sleep(0.2)
    return count


def test_a_thousand_connections_leave_no_descriptor_thread_or_memory_behind() -> None:
    command = [sys.executable, str(SCRIPT), "07" * 32, "fast"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        process = psutil.Process(server.pid)
        try:
            trio.run(visit, address, WARM_UP)
            time.sleep(1.0)
            before = process.num_fds(), process.num_threads(), process.memory_info().rss
            began, cpu = time.monotonic(), sum(process.cpu_times()[:2])
            trio.run(visit, address, EACH)
            descriptors = settled(process, before[0])
            after = descriptors, process.num_threads(), process.memory_info().rss
            spent = sum(process.cpu_times()[:2]) - cpu
            seconds, megabytes = time.monotonic() - began, [each[2] / 1e6 for each in (before, after)]
            print(f"{KINDS * EACH} connections in {seconds:.0f} s, {spent:.1f} s of its CPU")
            print(
                f"descriptors {before[0]} to {after[0]}, memory {megabytes[0]:.1f} to {megabytes[1]:.1f} MB"
            )
            assert after[0] <= before[0]
            assert after[1] <= before[1] + 1
            assert after[2] - before[2] < 10e6
        finally:
            server.kill()
