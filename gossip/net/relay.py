"""Relay: carry circuits between libp2p hosts that cannot reach each other.

libp2p's circuit relay v2: a host behind a router reserves a place here, and others reach it through us. The
circuit's ends secure it between themselves, so we see ciphertext; the limits keep a stranger from using up
our line. Any libp2p program can reserve, ours or not.
https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import trio
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.tools.anyio_service import background_trio_service

from shoal.crypto.keys import PeerId, short
from shoal.gossip.addresses import Address
from shoal.gossip.net.circuit import Circuit, NoCircuit
from shoal.gossip.net.libp2p_adapters import claim
from shoal.gossip.net.libp2p_node import Network

log = logging.getLogger(__name__)

LIMITS: Final = RelayLimits(duration=3600, data=1 << 30, max_circuit_conns=16, max_reservations=64)
"""An hour and a gibibyte per circuit: enough for records, rounds of small models and hole punching."""
MAX_RELAYS: Final = 2
"""Places that a node keeps: one may vanish."""
LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the links."""
ASK_AGAIN: Final = 60.0
"""Seconds until a peer that refused is asked once more."""


class _Protocol(CircuitV2Protocol):
    """The library's, with our way of accepting: it knows of link classes, and says who comes too often."""

    def __init__(self, network: Network, *, carries: bool) -> None:
        super().__init__(network.host, limits=LIMITS, allow_hop=carries)
        self._network = network

    async def _relay_data(self, src_stream: Any, dst_stream: Any, *args: Any, **options: Any) -> None:
        claim(src_stream)  # it is read no faster than the other end takes it
        await super()._relay_data(src_stream, dst_stream, *args, **options)

    async def handle_incoming_connection(self, stream: Any, remote_peer_id: bytes) -> None:
        await self._network.accept_circuit(Circuit(stream, self._network.traffic))


class Relay:
    """The relay service of one host."""

    def __init__(self, network: Network, *, carries: bool) -> None:
        """`network`: whose links are used; `carries`: whether circuits of others are, too."""
        self._protocol = _Protocol(network, carries=carries)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with background_trio_service(self._protocol):
            await trio.sleep_forever()


class Reservations:
    """Keeps places at linked nodes, through which others reach a node that they cannot dial."""

    def __init__(self, network: Network, candidates: Callable[[], Iterable[tuple[PeerId, Address]]]) -> None:
        """`candidates`: the peers that we have dialled directly, and where."""
        self._network, self._candidates = network, candidates
        self._held: dict[PeerId, tuple[Address, float]] = {}
        """At whom, where it listens, and when to renew."""

    def addresses(self) -> list[Address]:
        """Return where we are reached through others, without our peer id."""
        return [address for address, _ in self._held.values()]

    async def run(self) -> None:
        """Reserve and renew until cancelled."""
        refused: dict[PeerId, float] = {}
        while True:
            now = trio.current_time()
            linked = dict(self._candidates())
            self._held = {relay: held for relay, held in self._held.items() if relay in linked}
            for relay, address in linked.items():
                is_due = relay not in self._held and len(self._held) < MAX_RELAYS
                is_due = is_due and now >= refused.get(relay, 0.0)
                if not is_due and not (relay in self._held and now >= self._held[relay][1]):
                    continue
                try:
                    seconds = await self._network.reserve(relay)
                except NoCircuit as error:
                    log.debug("no place at %s: %s", short(relay), error)
                    self._held.pop(relay, None)
                    refused[relay] = now + ASK_AGAIN
                else:
                    through = Address(address.kind, address.host, address.port, via=relay)
                    self._held[relay] = (through, now + seconds / 2)
            refused = {relay: until for relay, until in refused.items() if relay in linked}
            await trio.sleep(LOOK_EVERY)
