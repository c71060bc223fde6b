"""An outsider as a process: a fresh key and the address of one node, over the real wire protocol.

    python -m shoal.node.testnet.lies.outsider convene /ip4/127.0.0.1/tcp/4710/p2p/12D3KooW… --seconds 20

It links with every node whose address it is told, and runs one program of lies. Every second it prints a line
of JSON: what it did, and what it achieved.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec
import trio
from nacl.signing import SigningKey

from shoal.crypto.keys import peer_id_of
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import DialFailed, Effects, PeerFound, PeerLost, Send
from shoal.gossip.host import Announced, FrameReceived, Host, HostEvent
from shoal.gossip.messages import Records
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_host import open_host
from shoal.gossip.wire import Codec
from shoal.node.testnet.lies.conveners import Convene, FakeQuorum, SilentProposals
from shoal.node.testnet.lies.made_up import HeavyPush, NanState, SybilLineage
from shoal.node.testnet.lies.sight import Program, Sight

TICK: Final = 0.05
DIAL_AGAIN: Final = 1.0
PROGRAMS: Final[dict[str, Callable[[Sight, str], Program]]] = {
    "convene": lambda sight, _: Convene(sight),
    "fake-quorum": lambda sight, _: FakeQuorum(sight),
    "silent-proposals": lambda sight, _: SilentProposals(sight),
    "sybil-lineage": SybilLineage,
    "nan-state": NanState,
    "heavy-push": lambda sight, _: HeavyPush(sight),
}


class Outsider:
    """Runs one program over one host."""

    def __init__(self, host: Host, sight: Sight, program: Program) -> None:
        """Nothing is dialled yet."""
        self.host, self.sight, self.program = host, sight, program
        self._dialled: dict[str, float] = {}

    async def run(self, address: str) -> None:
        """Attack until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick, address)
            while True:
                self._happened(await self.host.next_event())

    async def _tick(self, address: str) -> None:
        while True:
            if not self.sight.linked:
                self._dial(address)
            self._carry_out(self.program.tick(trio.current_time()))
            await trio.sleep(TICK)

    def _dial(self, address: str) -> None:
        now = trio.current_time()
        if now >= self._dialled.get(address, 0.0):
            self._dialled[address] = now + DIAL_AGAIN
            self.host.dial_nowait(address)

    def _happened(self, event: HostEvent) -> None:
        match event:
            case PeerFound():
                self.sight.linked.add(event.peer)
            case PeerLost():
                self.sight.linked.discard(event.peer)
                self.sight.note("links lost")
            case DialFailed():
                self.sight.note("dials failed")
            case FrameReceived():
                self._heard(event)
            case Announced():
                pass

    def _heard(self, event: FrameReceived) -> None:
        try:
            message = self.sight.codec.decode(event.peer, event.head, len(event.data))
        except RemoteViolation:
            return
        if isinstance(message, Records):
            for address in self.sight.take(message):
                self._dial(address)
            self.sight.codec.run = self.sight.run
            return
        self._carry_out(self.program.handle(event.peer, message, event.data, trio.current_time()))

    def _carry_out(self, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, Send) and effect.peer in self.sight.linked:
                self.host.send_nowait(effect.peer, self.sight.codec.encode(effect.message), effect.data)


async def attack(
    name: str, address: str, *, swarm: str, seconds: float, say: Callable[[dict[str, int | str]], None]
) -> None:
    """Lie to a swarm for a while; `say` is told every second what came of it."""
    key = SigningKey.generate()
    sequence = time.time_ns() // 1000
    codec = Codec(key, swarm, sequence)
    sight = Sight(codec, peer_id_of(bytes(key.verify_key)), sequence)
    config = HostConfig(swarm=swarm, listen=(), mdns=False, dht=False, relay=False)
    with trio.move_on_after(seconds):
        async with open_host(key, config) as host, trio.open_nursery() as nursery:
            nursery.start_soon(Outsider(host, sight, PROGRAMS[name](sight, swarm)).run, address)
            while True:
                await trio.sleep(1.0)
                say({**sight.count, "links": len(sight.linked), "peer": sight.me})
    say({**sight.count, "links": len(sight.linked), "peer": sight.me})


def main(arguments: list[str] | None = None) -> int:
    """Run an outsider; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m shoal.node.testnet.lies.outsider", description=__doc__)
    parser.add_argument("name", choices=sorted(PROGRAMS))
    parser.add_argument("address", help="a multiaddr of one node")
    parser.add_argument("--swarm", default="shoal")
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args(arguments)
    random.seed()

    def say(count: dict[str, int | str]) -> None:
        sys.stdout.write(msgspec.json.encode(count).decode() + "\n")
        sys.stdout.flush()

    async def run() -> None:
        await attack(given.name, given.address, swarm=given.swarm, seconds=given.seconds, say=say)

    trio.run(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
