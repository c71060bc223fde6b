"""Hosts in processes of their own: killed, frozen, restarted, measured."""

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from hosts import config, run_with_time_to_stop, time_stands_still, until, wait_for

from shoal.crypto.keys import key_from_seed, new_key, peer_id_of
from shoal.gossip.events import PeerFound, PeerLost
from shoal.gossip.host import FrameReceived
from shoal.gossip.net.libp2p_host import Libp2pHost, open_host

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).resolve().parents[2] / "host_process.py"


@contextmanager
def process(*, seed: bytes | None = None, links: str = "fast", port: int = 0) -> Iterator[tuple[int, str]]:
    """Run a host; yields its process id and address."""
    command = [sys.executable, str(PROGRAM), (seed or os.urandom(32)).hex(), links, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            address = running.stdout.readline().strip()
            assert address, "the host did not start"
            yield running.pid, address
        finally:
            running.kill()


async def found(host: Libp2pHost, address: str) -> PeerFound:
    """Dial, and wait for the link."""
    host.dial_nowait(address)
    return await wait_for(host, PeerFound)


async def answer(host: Libp2pHost, peer: PeerFound, head: bytes) -> bytes:
    """Send a control frame and return the one that comes back."""
    host.send_nowait(peer.peer, head)
    return (await wait_for(host, FrameReceived)).head


@pytest.mark.parametrize("links", ["fast", "standard"])
def test_a_killed_peer_is_lost_at_once(links: str) -> None:
    async def main() -> None:
        with process(links=links) as (pid, address):
            async with open_host(new_key(), config()) as host:
                peer = await found(host, address)
                assert await answer(host, peer, b"ping") == b"ping"
                with time_stands_still():
                    os.kill(pid, signal.SIGKILL)
                    assert await wait_for(host, PeerLost) == PeerLost(peer.peer)

    run_with_time_to_stop(main)


def test_a_peer_killed_in_the_middle_of_bulk_is_lost() -> None:
    async def main() -> None:
        with process() as (pid, address):
            async with open_host(new_key(), config()) as host:
                peer = await found(host, address)
                data = memoryview(bytes(4 << 20))
                for _ in range(200):
                    host.send_nowait(peer.peer, b"bulk", data)
                await until(lambda: host.statistics().bytes_sent > 8 << 20)
                os.kill(pid, signal.SIGKILL)
                assert await wait_for(host, PeerLost) == PeerLost(peer.peer)

    trio.run(main)


def test_a_killed_peer_that_starts_again_is_found_again() -> None:
    async def main() -> None:
        seed = bytes(31) + b"\x07"
        key = key_from_seed(seed)
        async with open_host(new_key(), config()) as host:
            port = 0
            for _ in range(2):
                with process(seed=seed, port=port) as (pid, address):
                    port = int(address.split("/")[4])
                    peer = await found(host, address)
                    assert peer.peer == peer_id_of(bytes(key.verify_key))
                    assert await answer(host, peer, b"ping") == b"ping"
                    os.kill(pid, signal.SIGKILL)
                    await wait_for(host, PeerLost)

    trio.run(main)


def test_a_frozen_peer_holds_up_nothing_and_goes_on_where_it_was() -> None:
    async def main() -> None:
        with process() as (pid, address), process() as (_, other):
            async with open_host(new_key(), config()) as host:
                frozen, lively = await found(host, address), await found(host, other)
                os.kill(pid, signal.SIGSTOP)
                for _ in range(50):
                    host.send_nowait(frozen.peer, b"bulk", memoryview(bytes(1 << 20)))
                    host.send_nowait(frozen.peer, b"control")
                    assert await answer(host, lively, b"ping") == b"ping"
                os.kill(pid, signal.SIGCONT)
                for _ in range(50):
                    assert await wait_for(host, FrameReceived) == FrameReceived(frozen.peer, b"control")

    trio.run(main)


def test_a_node_is_small_imports_nothing_heavy_and_answers_at_once(record_property: object) -> None:
    async def main() -> None:
        with process() as (_, address):
            async with open_host(new_key(), config()) as host:
                peer = await found(host, address)
                trips = []
                for _ in range(200):
                    began = trio.current_time()
                    await answer(host, peer, b"ping")
                    trips.append(trio.current_time() - began)
                for _ in range(100):
                    host.send_nowait(peer.peer, b"bulk", memoryview(bytes(1 << 20)))
                status = json.loads(await answer(host, peer, b"status"))
                print(
                    f"\ncontrol frame there and back: {statistics.median(trips) * 1e3:.2f} ms;"
                    f" resident memory with GossipSub and DHT: {status['rss'] / 1e6:.0f} MB"
                )
                assert statistics.median(trips) < 0.01
                assert status["heavy"] == []
                assert status["rss"] < 130e6

    trio.run(main)


def test_a_host_with_five_links_closes_quickly() -> None:
    async def main() -> None:
        seconds: list[float] = []

        async def run(addresses: list[str]) -> None:
            async with open_host(new_key(), config()) as host:
                for address in addresses:
                    await found(host, address)
                for address in addresses:
                    peer = address.rpartition("/")[2]
                    host.send_nowait(peer, b"bulk", memoryview(bytes(4 << 20)))  # type: ignore[arg-type]
                began = trio.current_time()
            seconds.append(trio.current_time() - began)

        with process() as one, process() as two, process() as three, process() as four, process() as five:
            await run([address for _, address in (one, two, three, four, five)])
        assert seconds[0] < 1.5

    trio.run(main)
