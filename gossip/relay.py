"""Relay: carry circuits between libp2p hosts that cannot reach each other.

libp2p's circuit relay v2: a host behind a router reserves a place here, and others reach it through us. The
circuit's ends secure it between themselves, so we see ciphertext; the limits keep a stranger from using up
our line. Any libp2p program can reserve, ours or not.
https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

from typing import Final

import trio
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.tools.anyio_service import background_trio_service

from gossip.libp2p_net import Network

LIMITS: Final = RelayLimits(duration=3600, data=1 << 30, max_circuit_conns=16, max_reservations=64)
"""An hour and a gibibyte per circuit: enough for records, rounds of small models and hole punching."""


class Relay:
    """The relay service of one host."""

    def __init__(self, network: Network) -> None:
        """`network`: whose links are used."""
        self._protocol = CircuitV2Protocol(network.host, limits=LIMITS, allow_hop=True)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with background_trio_service(self._protocol):
            await trio.sleep_forever()
