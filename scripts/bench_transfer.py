"""Measure one stream between two processes on loopback, all systems side by side in one run.

    python scripts/bench_transfer.py                      # table
    python scripts/bench_transfer.py --json               # a line per system: system, gigabytes_per_second, …
    python scripts/bench_transfer.py --megabytes 2000 --repeats 7 --systems aes,stock
    python scripts/bench_transfer.py --megabytes 64 --rtt-ms 40 --mbit 100    # through scripts/slow_link.py

Systems: `raw` is AES-GCM records on a bare socket, the bound of anything that encrypts; `aes` and
`chacha` are our records and muxer under libp2p; `host` are whole frames through the node's host, as a
round sends them; `stock` is py-libp2p's Noise and yamux. A system's runs take turns with the others',
so that a busy machine is equally busy for all. Latency is a control frame there and back.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from shoal.crypto.keys import new_key
from shoal.gossip.addresses import parse
from shoal.gossip.admission.admission import Admission
from shoal.gossip.events import PeerFound
from shoal.gossip.host import FrameReceived
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_adapters import LaneStream
from shoal.gossip.net.libp2p_host import Libp2pHost, open_host
from shoal.gossip.net.libp2p_node import Network
from shoal.gossip.net.transport.records import AES, CHACHA, CHUNK, TAG, Suite

PIECE = 1 << 20
PINGS = 100
SLOW_LINK = Path(__file__).with_name("slow_link.py")
LANE = "/shoal/bench/1"
SUITES: dict[str, tuple[Suite, ...]] = {"aes": (AES,), "chacha": (CHACHA,), "stock": ()}
SYSTEMS = ("raw", "aes", "chacha", "host", "stock")
CONFIG = HostConfig(listen=("/ip4/127.0.0.1/tcp/0",), mdns=False, dht=False)


@dataclass(frozen=True, slots=True)
class Run:
    """One transfer."""

    seconds: float
    cpu_seconds: float
    """Of both processes."""
    round_trip_ms: float = 0.0
    """Median; only `host` has control frames."""


def serve_raw(n_bytes: int) -> None:
    """Receive AES-GCM records on a socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(f"127.0.0.1:{server.getsockname()[1]}", flush=True)
        connection, _ = server.accept()
        with connection:
            aead, sealed, plain = AESGCM(bytes(32)), bytearray(CHUNK + TAG), bytearray(CHUNK)
            before = time.process_time()
            for number in range(n_bytes // CHUNK):
                view = memoryview(sealed)
                while view:
                    view = view[connection.recv_into(view) :]
                aead.decrypt_into(number.to_bytes(12, "big"), sealed, None, plain)
            connection.sendall(json.dumps(time.process_time() - before).encode())


def send_raw(address: str, n_bytes: int) -> Run:
    """Send AES-GCM records on a socket."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        aead, sealed, plain = AESGCM(bytes(32)), bytearray(CHUNK + TAG), bytes(CHUNK)
        began, before = time.perf_counter(), time.process_time()
        for number in range(n_bytes // CHUNK):
            aead.encrypt_into(number.to_bytes(12, "big"), plain, None, sealed)
            connection.sendall(sealed)
        cpu = float(connection.recv(100)) + time.process_time() - before
        return Run(time.perf_counter() - began, cpu)


@asynccontextmanager
async def running(suites: tuple[Suite, ...]) -> AsyncIterator[Network]:
    """Run a libp2p node that listens on loopback."""
    network = Network(new_key(), suites=suites, announce=[], admission=Admission(8), local_sockets=False)
    async with background_trio_service(network.swarm):
        await network.swarm.listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))
        yield network
        await network.close_links()
        await network.swarm.close()


async def serve_stream(suites: tuple[Suite, ...], n_bytes: int) -> None:
    """Receive on one libp2p stream."""
    done = trio.Event()

    async def receive(stream: LaneStream) -> None:
        piece, before = memoryview(bytearray(PIECE)), time.process_time()
        for _ in range(n_bytes // PIECE):
            await stream.read_into(piece)
        await stream.write(json.dumps(time.process_time() - before).encode().ljust(32))
        done.set()
        await trio.sleep_forever()

    async with running(suites) as network:
        network.serve_lane(LANE, receive)
        print(f"{network.addresses()[0]}/p2p/{network.id}", flush=True)
        await done.wait()
        await trio.sleep(0.5)  # the answer is on its way


async def send_stream(suites: tuple[Suite, ...], address: str, n_bytes: int) -> Run:
    """Send on one libp2p stream."""
    async with running(suites) as network:
        connection = await network.dial(parse(address), lambda _muxed, _peer: True)
        stream = await network.open_lane(connection, LANE)
        assert stream is not None
        data, answer = memoryview(bytes(PIECE)), bytearray(32)
        began, before = time.perf_counter(), time.process_time()
        for _ in range(n_bytes // PIECE):
            await stream.write(data)
        await stream.read_into(memoryview(answer))
        cpu = float(answer) + time.process_time() - before
        return Run(time.perf_counter() - began, cpu)


async def next_frame(host: Libp2pHost) -> FrameReceived:
    """Return the next frame."""
    while True:
        event = await host.next_event()
        if isinstance(event, FrameReceived):
            return event


async def serve_host(n_bytes: int) -> None:
    """Answer control frames, and say when all bulk has arrived."""
    async with open_host(new_key(), CONFIG) as host:
        print(host.addresses()[0], flush=True)
        left, before = n_bytes, 0.0
        while left:
            event = await next_frame(host)
            left -= len(event.data)
            if not event.data:
                host.send_nowait(event.peer, event.head)
                before = time.process_time()
        host.send_nowait(event.peer, json.dumps(time.process_time() - before).encode())
        await trio.sleep(0.5)  # the answer is on its way


async def send_host(address: str, n_bytes: int) -> Run:
    """Measure control frames, then bulk frames."""
    async with open_host(new_key(), CONFIG) as host:
        host.dial_nowait(address)
        found = await host.next_event()
        assert isinstance(found, PeerFound), found
        trips = []
        for _ in range(PINGS):
            began = time.perf_counter()
            host.send_nowait(found.peer, b"ping")
            await next_frame(host)
            trips.append(time.perf_counter() - began)
        data = memoryview(bytes(PIECE))
        began, before = time.perf_counter(), time.process_time()
        for _ in range(n_bytes // PIECE):
            host.send_nowait(found.peer, b"chunk", data)
        cpu = float((await next_frame(host)).head) + time.process_time() - before
        return Run(time.perf_counter() - began, cpu, statistics.median(trips) * 1e3)


def serve(system: str, n_bytes: int) -> None:
    """Be the receiving process."""
    if system == "raw":
        serve_raw(n_bytes)
    elif system == "host":
        trio.run(serve_host, n_bytes)
    else:
        trio.run(serve_stream, SUITES[system], n_bytes)


@contextmanager
def through(address: str, rtt_ms: float, mbit: float) -> Iterator[str]:
    """Yield an address that leads to this one over a slower way, if one is asked for."""
    if not rtt_ms and mbit == float("inf"):
        yield address
        return
    port = address.replace("/", ":").split(":")[4 if address.startswith("/") else 1]
    command = [sys.executable, str(SLOW_LINK), port, "--rtt-ms", str(rtt_ms), "--mbit", str(mbit)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        slow_port = proxy.stdout.readline().strip()
        if not slow_port:
            raise SystemExit(f"{SLOW_LINK.name} did not start")
        yield address.replace(port, slow_port, 1)
        proxy.terminate()


def measure(system: str, n_bytes: int, rtt_ms: float, mbit: float) -> Run:
    """Run one transfer with a receiver of its own."""
    command = [sys.executable, __file__, "--serve", system, "--megabytes", str(n_bytes // PIECE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        with through(receiver.stdout.readline().strip(), rtt_ms, mbit) as address:
            if system == "raw":
                return send_raw(address, n_bytes)
            if system == "host":
                return trio.run(send_host, address, n_bytes)
            return trio.run(send_stream, SUITES[system], address, n_bytes)


def row(system: str, runs: list[Run], n_bytes: int, stock: float) -> dict[str, Any]:
    """Return what is reported of a system."""
    seconds = statistics.median(run.seconds for run in runs)
    return {
        "system": system,
        "gigabytes_per_second": round(n_bytes / seconds / 1e9, 4),
        "cpu_seconds_per_gigabyte": round(
            statistics.median(run.cpu_seconds for run in runs) / n_bytes * 1e9, 3
        ),
        "times_stock": round(stock / seconds, 2) if stock else None,
        "round_trip_ms": round(statistics.median(run.round_trip_ms for run in runs), 3) or None,
        "runs": [asdict(run) for run in runs],
    }


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """Print the rows for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for heading in ("system", "GB/s", "CPU s/GB, both ends", "times stock", "control frame, there and back"):
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for each in rows:
        trip = f"{each['round_trip_ms']:.2f} ms" if each["round_trip_ms"] else ""
        times = f"{each['times_stock']:.1f}" if each["times_stock"] else ""
        rate, cpu = each["gigabytes_per_second"], each["cpu_seconds_per_gigabyte"]
        table.add_row(each["system"], f"{rate:.3g}", f"{cpu:.2f}", times, trip)
    Console().print(table)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=512, help="per transfer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--rtt-ms", type=float, default=0.0, help="there and back, by a proxy in user space")
    parser.add_argument("--mbit", type=float, default=float("inf"), help="per second, by the same proxy")
    parser.add_argument("--json", action="store_true", help="a line per system instead of a table")
    parser.add_argument("--serve", choices=SYSTEMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    n_bytes = options.megabytes * PIECE
    if options.serve:
        serve(options.serve, n_bytes)
        return
    systems = options.systems.split(",")
    if unknown := set(systems) - set(SYSTEMS):
        parser.error(f"unknown systems {', '.join(sorted(unknown))}: choose from {', '.join(SYSTEMS)}")
    runs: dict[str, list[Run]] = {system: [] for system in systems}
    for _ in range(options.repeats):
        for system in systems:
            runs[system].append(measure(system, n_bytes, options.rtt_ms, options.mbit))
    slow = options.rtt_ms or options.mbit < float("inf")
    stock = statistics.median(run.seconds for run in runs["stock"]) if "stock" in runs else 0.0
    rows = [row(system, runs[system], n_bytes, stock) for system in systems]
    if options.json:
        for each in rows:
            print(json.dumps(each))
    else:
        way = f"{options.rtt_ms:g} ms and {options.mbit:g} Mbit/s by a proxy" if slow else "loopback"
        print_table(rows, f"one stream, two processes, {way}, {options.megabytes} MiB, median")


if __name__ == "__main__":
    main()
