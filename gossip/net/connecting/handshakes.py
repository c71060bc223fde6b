"""Handshakes: who offers what on a new connection, and what happens where our own code fails in one.

Only Noise is offered, under the names of `shoal.gossip.net.transport.records` first; never plaintext.
"""

import logging
from typing import Any, Final

from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport

from shoal.gossip.net.connecting.negotiation import Upgrader
from shoal.gossip.net.own_faults import own_fault, tell
from shoal.gossip.net.transport.records import FastNoise, Suite

log = logging.getLogger(__name__)

HANDSHAKE_PATIENCE: Final = 10.0
"""Seconds for all steps from a connection to its streams."""
OWN_FAULT: Final = "own fault"
"""What a dial ends with, and what is counted, where our own code failed in a handshake."""


class DialFault(Exception):
    """A dial ended without a link; `reason` is one of those of `shoal.gossip.events.DialFailed`."""

    def __init__(self, reason: str) -> None:
        """`reason`: for the person who gave the address."""
        super().__init__(reason)
        self.reason = reason


class Handshakes:
    """The security and the muxers of one node."""

    def __init__(self, keys: KeyPair, suites: tuple[Suite, ...]) -> None:
        """Without `suites` only the standard is spoken."""
        noise_key = create_noise_key().private_key
        standard: dict[Any, Any] = {NOISE: NoiseTransport(keys, noise_key)}
        fast = {each.protocol: FastNoise(keys, noise_key, each) for each in suites}
        self._standard = Upgrader(standard, is_fast=False)
        self.is_standard = not suites
        self.first = self._standard if self.is_standard else Upgrader(fast | standard, is_fast=True)
        """What is spoken at the start."""
        self._swarm: Swarm | None = None

    def serve(self, swarm: Swarm) -> None:
        """Decide for this swarm, which was made with `first`."""
        self._swarm = swarm

    @property
    def _upgrader(self) -> Any:
        assert self._swarm is not None
        return self._swarm.upgrader

    async def secure_outbound(self, raw: RawConnection, expected: ID | None) -> ISecureConn:
        """Prove the identities of a connection that we opened."""
        secured: ISecureConn = await self._upgrader.security_multistream.secure_outbound(raw, expected)
        return secured

    async def secure_inbound(self, raw: RawConnection) -> ISecureConn:
        """Prove the identities of a connection that somebody opened to us."""
        secured: ISecureConn = await self._upgrader.upgrade_security(raw, False)
        return secured

    async def mux(self, secured: ISecureConn, peer: ID) -> IMuxedConn:
        """Put streams on a secured connection."""
        muxed: IMuxedConn = await self._upgrader.upgrade_connection(secured, peer)
        return muxed

    def note_own_fault(self, what: str, error: Exception) -> bool:
        """Tell whether a handshake failed by our own fault; from then on only the standard is spoken."""
        fault = own_fault(error)
        if fault is None:
            return False
        tell(what, fault)
        if not self.is_standard:
            log.error("links use standard Noise and yamux from now on, which are slower")
            self.is_standard = True
            assert self._swarm is not None
            self._swarm.upgrader = self._standard
        return True
