"""The libp2p node below the host: how it is put together, and its streams.

py-libp2p gives the handshake, negotiation, identify, the DHT and GossipSub. Dialling (`outbound.py`) and
accepting (`inbound.py`) are done by us, on the library's own parts.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Final
from weakref import WeakSet

import multiaddr
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from nacl.signing import SigningKey

from shoal.crypto.keys import PeerId
from shoal.gossip.addresses import Address, Endpoint, from_socket
from shoal.gossip.admission.admission import Admission
from shoal.gossip.admission.doors import WAITING
from shoal.gossip.net.circuit import HOP, Circuit, NoCircuit, reserve
from shoal.gossip.net.connecting.handshakes import HANDSHAKE_PATIENCE, Handshakes
from shoal.gossip.net.connecting.inbound import Inbound
from shoal.gossip.net.connecting.negotiation import NEGOTIATION_PATIENCE
from shoal.gossip.net.connecting.outbound import OnSecured, Outbound
from shoal.gossip.net.frames import LinkBroken
from shoal.gossip.net.libp2p_adapters import (
    STREAM_ERRORS,
    DialOnDemandSwarm,
    LaneStream,
    NoAutoConnector,
    Transport,
    watched,
)
from shoal.gossip.net.transport.records import Suite
from shoal.gossip.net.transport.tcp import TcpStream, Traffic
from shoal.gossip.net.transport.unix_sockets import listen_local
from shoal.gossip.network_interfaces import expand_all, hosts_here, networks_here
from shoal.gossip.scope import USER, DialPrivate, Here, Scope, Teller, for_everyone, scope_of, wide_block_of
from shoal.gossip.scope import Network as NetworkRange

log = logging.getLogger(__name__)

OBSERVERS: Final = 2
"""Peers of different /16, or /32 for IPv6, whose word on where we are seen is taken."""


class Network:
    """The library's host with our transport, security and muxer in it."""

    def __init__(
        self,
        key: SigningKey,
        *,
        suites: tuple[Suite, ...],
        announce: list[Address],
        admission: Admission,
        local_sockets: bool,
        internet: tuple[NetworkRange, ...] = (),
        dial_private: DialPrivate = "near",
    ) -> None:
        """Put the parts together; nothing runs yet. Without `suites` only the standard is spoken."""
        keys = create_new_key_pair(seed=bytes(key))
        self.id = ID.from_pubkey(keys.public_key)
        self.traffic = Traffic()
        self._announce = announce
        self._internet, self._dial_private = internet, dial_private
        self.observations: Callable[[], Iterable[tuple[str, str]]] = lambda: ()
        """Where peers see us, each with the address of who says so."""
        self.mapped: Callable[[], list[Address]] = list
        """Where others reach us through a port that the router opened."""
        self._local_sockets = local_sockets
        self._relayed: WeakSet[Any] = WeakSet()
        """Links that go through another node."""
        store = PeerStore()
        store.add_key_pair(self.id, keys)
        handshakes = Handshakes(keys, suites)
        places = admission.max_links + WAITING + 1
        self.swarm = DialOnDemandSwarm(
            self.id,
            store,
            handshakes.first,
            transports=[Transport(self.traffic, self._accept, internet)],
            connection_config=ConnectionConfig(
                # The library would close what it finds too many; how many there are is decided by `Doors`.
                min_connections=0,
                low_watermark=0,
                high_watermark=places,
                max_connections=places,
                max_connections_per_peer=64,
                inbound_stream_protocol_negotiation_timeout=NEGOTIATION_PATIENCE,
            ),
        )
        self.swarm.auto_connector = NoAutoConnector(self.swarm)
        self.host = BasicHost(self.swarm, addrs_factory=lambda _: self._told_to_all())
        handshakes.serve(self.swarm)
        self.outbound = Outbound(
            self.swarm,
            handshakes,
            self.traffic,
            self,
            local_sockets=local_sockets,
        )
        self.inbound = Inbound(handshakes, admission, self.outbound.own_ends, self)
        self.inbound.serve(self.swarm)
        self._guard_handlers()

    async def _accept(self, stream: TcpStream | Circuit) -> None:
        await self.inbound.accept(stream)

    def _guard_handlers(self) -> None:
        """Let a failing handler end its stream; unguarded it ends the library's service and the node."""
        inner = self.swarm.common_stream_handler

        async def guarded(stream: Any) -> None:
            try:
                await inner(stream)
            except Exception:  # the boundary to the library's handlers, which raise anything
                log.debug("a stream handler failed", exc_info=True)
                with trio.move_on_after(1):
                    await stream.reset()

        self.swarm.set_stream_handler(guarded)

    def addresses(self) -> list[Address]:
        """Return where others reach us, without our peer id."""
        return self._announce or [*self.mapped(), *expand_all(self.listening())]

    def _told_to_all(self) -> list[Any]:
        """Return those of our addresses that everyone may know: identify and the DHT tell them to all."""
        here = self.here()
        return [
            multiaddr.Multiaddr(str(each))
            for each in self.addresses()
            if for_everyone(Endpoint(each.host, each.port), here)
        ]

    def here(self) -> Here:
        """Return which networks this machine is in, and where at least two peers far apart see it."""
        seen: dict[str, set[str]] = {}
        for host, observer in self.observations():
            if scope_of(host, self._internet) is Scope.PUBLIC:
                seen.setdefault(host, set()).add(wide_block_of(observer))
        observed = frozenset(host for host, observers in seen.items() if len(observers) >= OBSERVERS)
        return Here(networks_here(), observed, self._internet, hosts_here(), self._dial_private)

    def listening(self) -> list[Address]:
        """Return where we listen, as it was asked for."""
        sockets = [each.socket for listener in self.swarm.listeners.values() for each in listener.listeners]
        return [from_socket(*each.getsockname()[:2]) for each in sockets]

    async def dial(self, address: Address, on_secured: OnSecured, teller: Teller = USER) -> Any:
        """See `Outbound.dial`."""
        return await self.outbound.dial(address, on_secured, teller)

    async def reserve(self, relay: PeerId) -> float:
        """Ask a peer to carry circuits to us; returns for how many seconds it will.

        Raises:
            NoCircuit: it will not.
        """
        with trio.move_on_after(HANDSHAKE_PATIENCE):
            return await reserve(await self.open_to(relay, HOP))
        raise NoCircuit("it does not answer")

    def own_addresses(self) -> list[Address]:
        """Return where others reach us, and where we listen."""
        return [*self._announce, *self.mapped(), *expand_all(self.listening())]

    async def open_to(self, peer: PeerId, protocol: str) -> Any:
        """Open a stream to a linked peer.

        Raises:
            NoCircuit: there is no link, or it does not speak the protocol.
        """
        for connection in self.swarm.connections.get(ID.from_base58(peer), ()):
            with suppress(LinkBroken):
                stream = await self.open_stream(connection, protocol)
                if stream is not None:
                    return stream
        raise NoCircuit("it carries none")

    def note_circuit(self, muxed: Any, stream: object) -> None:
        """Remember which links go through another node."""
        if isinstance(stream, Circuit):
            self._relayed.add(muxed)

    def is_relayed(self, muxed: Any) -> bool:
        """Tell whether a link goes through another node."""
        return muxed in self._relayed

    async def accept_circuit(self, stream: Circuit) -> None:
        """Secure a circuit that somebody opened to us, and stay until it ends."""
        await self.inbound.accept(stream)

    async def open_lane(self, connection: Any, protocol: str) -> LaneStream | None:
        """Open a lane on this very connection; None if the peer does not speak the protocol.

        Raises:
            LinkBroken: the connection ended, or the peer does not answer.
        """
        stream = await self.open_stream(connection, protocol)
        return None if stream is None else LaneStream(stream)

    async def open_stream(self, connection: Any, protocol: str) -> Any:
        """Open a stream on this very connection; None if the peer does not speak the protocol.

        Raises:
            LinkBroken: the connection ended, or the peer does not answer.
        """
        try:
            with trio.fail_after(HANDSHAKE_PATIENCE):
                stream = await connection.new_stream()
                await self.host.multiselect_client.select_one_of(
                    [TProtocol(protocol)], MultiselectCommunicator(stream)
                )
        except MultiselectClientError as error:
            if connection.is_closed:
                raise LinkBroken(str(error)) from error
            return None
        except (*STREAM_ERRORS, trio.TooSlowError) as error:
            raise LinkBroken(str(error)) from error
        stream.set_protocol(TProtocol(protocol))
        return stream

    def serve_lane(self, protocol: str, handler: Callable[[LaneStream], Awaitable[None]]) -> None:
        """Hand inbound streams of a protocol to a handler, and reset them when it returns."""

        async def handle(stream: Any) -> None:
            lane = LaneStream(stream)
            try:
                await handler(lane)
            finally:
                await lane.reset()

        self.host.set_stream_handler(TProtocol(protocol), handle)

    async def listen_local(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Let nodes of this machine connect without TCP, where they may; see `local_sockets`."""

        async def handle(stream: trio.SocketStream) -> None:
            try:
                await self._accept(watched(stream, self.traffic))
            except Exception:  # the boundary to the library, as its own listeners have it
                log.debug("a connection failed", exc_info=True)

        sockets = [each.socket for listener in self.swarm.listeners.values() for each in listener.listeners]
        found = [local for each in sockets if (local := listen_local(*each.getsockname()[:2])) is not None]
        if not found:
            task_status.started()
            return
        await trio.serve_listeners(handle, found, task_status=task_status)

    async def close_links(self) -> None:
        """Close all connections side by side; one after another they take 0.2 s each."""
        async with trio.open_nursery() as nursery:
            for connection in self.swarm.get_connections():
                nursery.start_soon(connection.close)
