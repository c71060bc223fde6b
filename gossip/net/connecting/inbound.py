"""Inbound: connections that others open, until they are links.

py-libp2p accepts by itself as well; there an accepted connection keeps its place in the inbound limit after
it has ended, until nobody gets in.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Container
from typing import Any, Final

import trio
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm

from shoal.gossip.addresses import Address, from_socket
from shoal.gossip.admission.admission import Admission
from shoal.gossip.admission.doors import block_of, youngest_of_the_fullest
from shoal.gossip.net.circuit import Circuit
from shoal.gossip.net.connecting.handshakes import HANDSHAKE_PATIENCE, OWN_FAULT, Handshakes
from shoal.gossip.net.connecting.outbound import Home
from shoal.gossip.net.transport.tcp import TcpStream

log = logging.getLogger(__name__)

MAX_HALF_OPEN: Final = 64
"""Connections that have not said who they are."""
MAX_HALF_OPEN_PER_BLOCK: Final = 32
"""The same of one /24, or /48 for IPv6."""

SAFE_SECONDS: Final = 1.0
"""For a handshake, in which no other connection of the same prefix takes its place."""

Entry = tuple[trio.CancelScope, str, float]
"""A connection that has not said who it is: what ends it, its prefix, and since when."""


class Inbound:
    """What one node does with those who connect to it."""

    def __init__(
        self,
        handshakes: Handshakes,
        admission: Admission,
        own_ends: Container[tuple[str, int]],
        home: Home,
    ) -> None:
        """`own_ends`: of our own dials, one of which may have reached ourselves."""
        self._handshakes, self._admission = handshakes, admission
        self._own_ends, self._home = own_ends, home
        self.on_own_identity: Callable[[Address | None], None] = lambda _: None
        self.half_open: list[Entry] = []
        self.add: Callable[[Any], Awaitable[Any]]
        """Makes a link of a connection with streams."""

    def serve(self, swarm: Swarm) -> None:
        """Hand what has said who it is to this swarm."""

        async def add(muxed: Any) -> Any:
            return await swarm.add_conn(muxed, direction="inbound")

        self.add = add
        self._me = swarm.self_id

    async def accept(self, stream: TcpStream | Circuit) -> None:
        """Secure an inbound connection and stay until it ends."""
        remote = stream.get_remote_address()
        with trio.CancelScope() as scope:
            entry = (scope, block_of(str(remote[0])) if remote else "", trio.current_time())
            if not self._has_room(entry):
                self._admission.count("too many half-open")
                return
            try:
                muxed = await self._secure(stream, remote)
            finally:
                if entry in self.half_open:
                    self.half_open.remove(entry)
            if muxed is None:
                return
        if scope.cancelled_caught:
            self._admission.count("too many half-open")
            return
        connection = await self.add(muxed)
        await connection.event_closed.wait()

    def _has_room(self, entry: Entry) -> bool:
        """Take a connection in; another goes for it where too many are half open, or it does itself."""
        self.half_open.append(entry)
        sizes = Counter(block for _, block, _ in self.half_open)
        if len(self.half_open) <= MAX_HALF_OPEN and sizes[entry[1]] <= MAX_HALF_OPEN_PER_BLOCK:
            return True
        same = [each for each in self.half_open if each[1] == entry[1]]
        if sizes[entry[1]] == max(sizes.values()):
            # Of its own prefix the one that has had its time goes, or else itself.
            chosen = same[0][0] if entry[2] - same[0][2] >= SAFE_SECONDS else entry[0]
        else:
            chosen = youngest_of_the_fullest(self.half_open) or entry[0]
        if chosen is entry[0]:
            self.half_open.remove(entry)
            return False
        self.half_open = [each for each in self.half_open if each[0] is not chosen]
        chosen.cancel()
        return True

    async def _secure(self, stream: TcpStream | Circuit, remote: tuple[str, int] | None) -> Any:
        """Return the connection with streams on it; None where nobody is let in."""
        try:
            with trio.fail_after(HANDSHAKE_PATIENCE):
                secured = await self._handshakes.secure_inbound(RawConnection(stream, False))
                peer = secured.get_remote_peer()
                if peer == self._me:
                    if remote not in self._own_ends:  # else it is we who dialled us, and know
                        self.on_own_identity(from_socket(*remote) if remote else None)
                    return None
                muxed = await self._handshakes.mux(secured, peer)
                self._home.note_circuit(muxed, stream)
                return muxed
        except Exception as error:  # whatever a stranger's handshake makes the library raise
            is_ours = self._handshakes.note_own_fault("handshake of a peer", error)
            self._admission.count(OWN_FAULT if is_ours else stream.fault or "handshake")
            log.debug("a handshake failed", exc_info=True)
            return None
