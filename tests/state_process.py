"""A node without a trainer in a process of its own: holds a state for others, or fetches it from them.

usage: python tests/state_process.py hold MEGABYTES MBIT [flip]        prints its address, runs until killed
       python tests/state_process.py fetch MEGABYTES ADDRESS...        prints lines of JSON, ends when done

The member, the driver and the host are those that ship; the state is the same in every process. `flip` bends
one byte of the third chunk that leaves.
"""

import json
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import numpy as np
import trio

from shoal.crypto.keys import new_key
from shoal.gossip.events import Effect, Send, Vector
from shoal.gossip.member.commands import Attach, ChunksVerified, NewState, Refused, Synced
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.messages import Chunk
from shoal.gossip.net.driver import Driver
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_host import Libp2pHost, open_host
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id
from shoal.gossip.state.serve import ServingConfig
from shoal.gossip.state.tree_hash import leaves, root
from shoal.gossip.wire import Codec

ROUND = 5


def make_state(megabytes: int) -> Vector:
    """Return the state that all processes mean."""
    return np.random.default_rng(3).standard_normal(megabytes * 250_000, dtype=np.float32)


class Node:
    """A member over a real host."""

    def __init__(self, host: Libp2pHost, key: Any, megabytes: int, rate: float = float("inf")) -> None:
        """`rate`: bytes of chunks per second that it gives."""
        tensors = (TensorSpec("w", "float32", (megabytes * 250_000,)),)
        self.spec = RunSpec(method="fedavg", task="none", tensors=tensors)
        codec = Codec(key, "shoal", time.time_ns())
        codec.run = run_id(self.spec)
        config = MemberConfig(serving=ServingConfig(rate=rate))
        self.member = Member(host.me, config, Random(1), time.time_ns() // 1000)
        self.notices: list[Any] = []
        self.driver = Driver(host, self.member, codec, self.take)
        self.changed = trio.Event()

    def take(self, notice: Any) -> None:
        """Take note of what the member says."""
        self.notices.append(notice)
        self.changed.set()
        self.changed = trio.Event()

    def attach(self, vector: Vector, round_: int) -> None:
        """Be a trainer at this state."""
        hashes = leaves(vector.data)
        state = root(hashes, vector.nbytes)
        self.driver.command(Attach(run_id(self.spec), self.spec, True))
        self.driver.command(NewState(round_, state, bytes(32), vector.data, hashes))


def flip(host: Libp2pHost, driver: Driver) -> None:
    """Bend one byte of the third chunk that leaves."""
    honest, codec = host.send_nowait, driver.codec
    bent: set[bytes] = set()
    seen = [0]

    def look(effect: Effect) -> None:
        if isinstance(effect, Send) and isinstance(effect.message, Chunk):
            seen[0] += 1
            if seen[0] == 3:
                bent.add(codec.encode(effect.message))

    def send(peer: Any, head: bytes, data: Any = b"") -> None:
        if head in bent:
            data = bytearray(data)
            data[12345] ^= 1
        honest(peer, head, bytes(data) if head in bent else data)

    driver.on_effect = look
    host.send_nowait = send  # type: ignore[method-assign]


async def hold(megabytes: int, mbit: float, is_liar: bool) -> None:
    """Serve until killed."""
    key = new_key()
    config = HostConfig(listen=("/ip4/127.0.0.1/tcp/0",), mdns=False, dht=False)
    async with open_host(key, config) as host, trio.open_nursery() as nursery:
        node = Node(host, key, megabytes, mbit * 125_000)
        await nursery.start(node.driver.run)
        # It tells nobody where it is: who fetches from one is not to find the others through it.
        node.attach(make_state(megabytes), ROUND)
        if is_liar:
            flip(host, node.driver)
        print(host.addresses()[0], flush=True)


async def fetch(megabytes: int, addresses: list[str]) -> None:
    """Link with all, then fall behind, and tell how it goes."""
    key = new_key()
    config = HostConfig(listen=("/ip4/127.0.0.1/tcp/0",), mdns=False, dht=False)
    async with open_host(key, config) as host, trio.open_nursery() as nursery:
        node = Node(host, key, megabytes)
        await nursery.start(node.driver.run)
        for address in addresses:
            host.dial_nowait(address)
        while sum(1 for _ in node.member.table) < len(addresses):
            await trio.sleep(0.02)
        began, cpu = time.perf_counter(), time.process_time()
        node.attach(np.zeros(megabytes * 250_000, np.float32), 0)
        n_told = 0
        while True:
            for notice in node.notices[n_told:]:
                n_told += 1
                match notice:
                    case ChunksVerified():
                        print(json.dumps({"arrived": len(notice.chunks)}), flush=True)
                    case Refused():
                        print(json.dumps({"refused": notice.peer, "reason": notice.reason}), flush=True)
                    case Synced():
                        seconds = time.perf_counter() - began
                        told = {
                            "seconds": seconds,
                            "cpu_seconds": time.process_time() - cpu,
                            "round": notice.round,
                            "donors": notice.donors,
                            "is_right": bool(np.array_equal(notice.vector, make_state(megabytes))),
                            "drops": dict(node.driver.admission.counts),
                        }
                        print(json.dumps(told), flush=True)
                        nursery.cancel_scope.cancel()
            await node.changed.wait()


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        trio.run(hold, int(sys.argv[2]), float(sys.argv[3]), "flip" in sys.argv)
    else:
        trio.run(fetch, int(sys.argv[2]), sys.argv[3:])
