"""Outbound: from an address to a connection with streams, and the reason where there is none.

py-libp2p dials by itself as well; its way loses what a node has to know: a failed dial does not say why, and
an address without an identity cannot be dialled.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import trio
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey

from shoal.crypto.keys import PeerId
from shoal.gossip.addresses import Address
from shoal.gossip.events import FAST_LINK_DENIED, NOT_FOR_US, OWN_ADDRESS, SAME_IDENTITY
from shoal.gossip.net.circuit import HOP, Circuit, NoCircuit, connect
from shoal.gossip.net.connecting.handshakes import HANDSHAKE_PATIENCE, OWN_FAULT, DialFault, Handshakes
from shoal.gossip.net.connecting.negotiation import FastLinkDenied
from shoal.gossip.net.connecting.sockets import Forbidden, connect_to, places_of, speaks_first
from shoal.gossip.net.libp2p_adapters import watched
from shoal.gossip.net.transport.pnet import NONCE_BYTES, OTHER_NETWORK
from shoal.gossip.net.transport.tcp import TcpStream, Traffic
from shoal.gossip.net.transport.unix_sockets import open_local, own_name
from shoal.gossip.scope import USER, Here, Teller

log = logging.getLogger(__name__)

CONNECT_PATIENCE: Final = 5.0
"""Seconds for a TCP connection. A guess: a SYN is repeated after 1 and 3 seconds."""
MAX_OWN_DIALS: Final = 64
"""Own ends of connections that are remembered, to know those that reach this node itself."""

OnSecured = Callable[[Any, PeerId], bool]


class Home(Protocol):
    """What dials and those who are accepted need of the node."""

    def own_addresses(self) -> Iterable[Address]:
        """Return where this node is reached, or listens."""
        ...

    def listening(self) -> Iterable[Address]:
        """Return the sockets that this node listens on."""
        ...

    def here(self) -> Here:
        """Return which networks this node is in."""
        ...

    async def open_to(self, peer: PeerId, protocol: str) -> Any:
        """Open a stream to a linked peer; raises `NoCircuit`."""
        ...

    def note_circuit(self, muxed: Any, stream: object) -> None:
        """Remember which links go through another node."""
        ...


class Outbound:
    """The dials of one node."""

    def __init__(
        self,
        swarm: Swarm,
        handshakes: Handshakes,
        traffic: Traffic,
        home: Home,
        *,
        local_sockets: bool,
    ) -> None:
        """`local_sockets`: whether nodes of this machine are dialled over Unix sockets."""
        self._swarm, self._handshakes, self._traffic = swarm, handshakes, traffic
        self._home = home
        self._local_sockets = local_sockets
        self.own_ends: deque[tuple[str, int]] = deque(maxlen=MAX_OWN_DIALS)

    async def dial(self, address: Address, on_secured: OnSecured, teller: Teller = USER) -> Any:
        """Open a link and return its connection.

        `on_secured(muxed connection, peer)` is told before the link is announced to anyone; where it
        returns False, the connection is closed again and None is returned. `teller`: who named the address.

        Raises:
            DialFault: with the reason.
        """
        *others, last = self._traffic.network_keys or (b"",)
        if address.via is None:
            for key in others:  # of a private network whose key changes: not all have heard of it
                try:
                    return await self._dial(address, on_secured, teller, key)
                except DialFault as fault:
                    if fault.reason != OTHER_NETWORK:
                        raise
        return await self._dial(address, on_secured, teller, last)

    async def _dial(self, address: Address, on_secured: OnSecured, teller: Teller, key: bytes) -> Any:
        stream: TcpStream | Circuit = (
            await self._circuit(address, teller)
            if address.via is not None
            else watched(await self._connect(address, teller), self._traffic, key)
        )
        is_standard = self._handshakes.is_standard
        try:
            with trio.fail_after(HANDSHAKE_PATIENCE):
                return await self._secure_outbound(address, stream, on_secured)
        except trio.TooSlowError as error:
            raise DialFault("timeout") from error
        except PeerIDMismatchesPubkey as error:
            raise DialFault("wrong key") from error
        except DialFault:
            raise
        except FastLinkDenied as error:
            raise DialFault(FAST_LINK_DENIED) from error
        except Exception as error:  # whatever a stranger's answer makes the library raise
            log.debug("handshake with %s failed", address, exc_info=True)
            if self._handshakes.note_own_fault(f"handshake with {address}", error):
                if is_standard:
                    raise DialFault(OWN_FAULT) from error
                return await self._dial(address, on_secured, teller, key)
            # Who closes without a word is full, or starting, or stopping.
            raise DialFault(stream.fault or ("not a shoal node" if stream.heard else "refused")) from error

    def _is_ours(self, address: Address, stream: "TcpStream | Circuit") -> bool:
        """Whether a dial reached a socket of this node itself, and not another node with its key."""
        ours = {(each.host, each.port) for each in self._home.own_addresses()}
        remote = stream.get_remote_address()
        return (address.host, address.port) in ours or (remote is not None and remote[:2] in ours)

    async def _connect(self, address: Address, teller: Teller) -> trio.SocketStream:
        """Open the connection; where a stranger named the address, say nothing before a libp2p node does."""
        try:
            with trio.fail_after(CONNECT_PATIENCE):
                places = await places_of(address, teller, self._home.here())
                local = open_local(places[0].host, address.port) if self._local_sockets else None
                stream = local or await connect_to(places, self._home.listening())
        except trio.TooSlowError as error:
            raise DialFault("timeout") from error
        except Forbidden as error:
            raise DialFault(NOT_FOR_US) from error
        except OSError as error:
            raise DialFault(_why(error)) from error
        first = NONCE_BYTES if self._traffic.network_keys else 0
        if teller.source in ("peer", "dht") and not await speaks_first(stream, first):
            await trio.aclose_forcefully(stream)
            raise DialFault("not a shoal node")
        return stream

    async def _secure_outbound(
        self, address: Address, stream: "TcpStream | Circuit", on_secured: OnSecured
    ) -> Any:
        kept = False
        if isinstance(stream, TcpStream):
            self.own_ends.append(own_name(stream.stream.socket))
        try:
            raw = RawConnection(stream, True)
            expected = ID.from_base58(address.peer) if address.peer else None
            secured = await self._handshakes.secure_outbound(raw, expected)
            peer = secured.get_remote_peer()
            if peer == self._swarm.self_id:
                raise DialFault(OWN_ADDRESS if self._is_ours(address, stream) else SAME_IDENTITY)
            muxed = await self._handshakes.mux(secured, peer)
            self._home.note_circuit(muxed, stream)
            if not on_secured(muxed, PeerId(str(peer))):
                return None
            connection = await self._swarm.add_conn(muxed, direction="outbound")
            kept = True
            return connection
        finally:
            if not kept:
                if isinstance(stream, Circuit):
                    await stream.close()
                else:
                    await trio.aclose_forcefully(stream.stream)

    async def _circuit(self, address: Address, teller: Teller) -> Circuit:
        """Open a circuit through the peer that an address names, which is dialled where there is no link.

        Raises:
            DialFault: with the reason.
        """
        assert address.via is not None
        if address.peer is None:
            raise DialFault("not a multiaddr")
        if address.via not in (PeerId(str(each)) for each in self._swarm.connections):
            relay = Address(address.kind, address.host, address.port, address.via)
            await self.dial(relay, lambda _muxed, _peer: True, teller)
        try:
            with trio.fail_after(HANDSHAKE_PATIENCE):
                stream = await self._home.open_to(address.via, HOP)
                return await connect(stream, address.peer, self._traffic)
        except trio.TooSlowError as error:
            raise DialFault("timeout") from error
        except NoCircuit as error:
            log.debug("no circuit to %s: %s", address, error)
            raise DialFault("unreachable") from error


def _why(error: BaseException) -> str:
    """Say in a word why no connection came about; trio hides the causes of several attempts."""
    causes: list[BaseException] = [error]
    for each in causes:
        if isinstance(each, BaseExceptionGroup):
            causes.extend(each.exceptions)
        elif each.__cause__ is not None:
            causes.append(each.__cause__)
    if any(isinstance(each, ConnectionRefusedError) for each in causes):
        return "refused"
    if any(isinstance(each, TimeoutError) for each in causes):
        return "timeout"
    return "unreachable"
