"""One shoal peer of scripts/bench_averaging.py: a whole node without trainer and disk.

Reads one JSON line of options, prints its address, reads the addresses to join, then prints one JSON
line per round.
"""

import json
import logging
import os
import random
import resource
import sys
import time
from hashlib import blake2b
from typing import Any

import numpy as np
import trio

from scripts.bench_memory import forget_peak, huge_mb, memory
from shoal.crypto.keys import new_key
from shoal.gossip.events import Vector
from shoal.gossip.member.commands import (
    AddAddress,
    Attach,
    Averaged,
    Contribute,
    Failed,
    NewState,
    PeerAddresses,
    SetAddresses,
)
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.net.driver import Driver
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_host import open_host
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id
from shoal.gossip.wire import Codec


def contribution(index: int, numel: int, round_: int) -> Vector:
    """Return what peer `index` contributes: cheap to make, of equal norms, and its mean is known."""
    vector = np.linspace(-1, 1, numel, dtype=np.float32) + np.float32(round_ + 1)
    return vector if index else -vector


def error_of(mean: Vector, peers: int, round_: int) -> float:
    """Return the largest difference from the mean of what all peers contributed."""
    # What this takes is given back before the next round, whose memory is measured.
    expected = contribution(1, mean.size, round_) * np.float32((peers - 2) / peers)
    return float(np.abs(mean - expected).max())


class Peer:
    """Runs the rounds."""

    def __init__(self, options: dict[str, Any]) -> None:
        """`options`: index, peers, numel, rounds, codec, fast, local."""
        self.options = options
        self.notices_in, self.notices = trio.open_memory_channel[Any](100)

    async def run(self) -> None:
        """Join, and average."""
        options = self.options
        key = new_key()
        sequence = time.time_ns() // 1000
        config = HostConfig(
            swarm="bench",
            listen=("/ip4/127.0.0.1/tcp/0",),
            mdns=False,
            dht=False,
            fast_links=options["fast"],
            local_sockets=options["local"],
        )
        async with open_host(key, config) as host, trio.open_nursery() as nursery:
            member = Member(host.me, MemberConfig(wait_for=options["peers"]), random.Random(), sequence)
            codec = Codec(key, "bench", sequence)
            driver = Driver(host, member, codec, self.notices_in.send_nowait)
            await nursery.start(driver.run)
            driver.command(SetAddresses(tuple(host.addresses())))
            print(json.dumps({"address": host.addresses()[0]}), flush=True)
            for address in json.loads(await trio.to_thread.run_sync(sys.stdin.readline)):
                driver.command(AddAddress(address, "bootstrap"))
            spec = RunSpec(
                method="bench",
                task="bench",
                tensors=(TensorSpec("vector", "float32", (options["numel"],)),),
                quorum=options["peers"],
                codec=options["codec"],
            )
            codec.run = run_id(spec)
            driver.command(Attach(codec.run, spec, True))
            await self._rounds(driver, host)
            print(json.dumps({"done": True}), flush=True)
            # The others may need our part once more.
            await trio.to_thread.run_sync(sys.stdin.readline)
            nursery.cancel_scope.cancel()

    async def _barrier(self) -> None:
        """Wait until all peers are here."""
        print(json.dumps({"barrier": True}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)

    async def _rounds(self, driver: Driver, host: Any) -> None:
        options = self.options
        numel, previous = options["numel"], b""
        # What all start from, as a trainer's state is: contributions are measured from it.
        base = np.zeros(numel, dtype=np.float32)
        base += np.float32(0.0)
        without = memory("VmRSS")
        vector = np.empty(numel, dtype=np.float32)
        for round_ in range(options["rounds"]):
            state = blake2b(str(round_).encode(), digest_size=32).digest()
            driver.command(NewState(round_, state, previous, base.data))
            previous = state
            vector[:] = contribution(options["index"], numel, round_)
            forget_peak()
            await self._barrier()
            usage, before = resource.getrusage(resource.RUSAGE_SELF), host.statistics()
            driver.command(Contribute(0, vector, 1.0, "params"))
            while isinstance(notice := await self.notices.receive(), PeerAddresses):
                pass  # a word about addresses
            if not isinstance(notice, Averaged):
                raise SystemExit(f"round failed: {notice.text if isinstance(notice, Failed) else notice}")
            # A node's trainer computes in another process: here nobody may, before all are done.
            await self._barrier()
            peak = memory("VmHWM")
            after, used = host.statistics(), resource.getrusage(resource.RUSAGE_SELF)
            row = {
                "round": round_,
                "seconds": notice.exchange_seconds,
                "matchmaking_seconds": notice.matchmaking_seconds,
                "bytes": after.bytes_sent - before.bytes_sent,
                "cpu_seconds": used.ru_utime + used.ru_stime - usage.ru_utime - usage.ru_stime,
                "error": error_of(vector, options["peers"], round_),
                "peak_rss_mb": peak / 1e6 if peak else used.ru_maxrss / 1024,
                "page_faults": used.ru_minflt - usage.ru_minflt,
                "huge_mb": huge_mb(),
                "vectors": (peak - without) / vector.nbytes if peak else None,
                "digest": blake2b(vector.data, digest_size=8).hexdigest(),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.basicConfig(level=os.environ.get("BENCH_LOG", "WARNING"))
    logging.getLogger("libp2p").setLevel(logging.ERROR)
    logging.getLogger("multiaddr").setLevel(logging.WARNING)
    trio.run(Peer(json.loads(sys.stdin.readline())).run)
