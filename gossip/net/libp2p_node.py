"""The libp2p node below the host: how it is put together, how it dials and how it accepts.

py-libp2p gives the handshake, negotiation, identify, the DHT and GossipSub. Dialling and accepting
are done here, on the library's own parts, because its own ways lose what a node has to know: a
failed dial does not say why, an address without an identity cannot be dialled, and an accepted
connection keeps its place in the inbound limit after it has ended, until nobody gets in.

Only Noise is offered, under the names of `shoal.gossip.net.transport.records` first; never plaintext.
"""

import errno
import logging
import socket
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final
from weakref import WeakSet

import multiaddr
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.upgrader import TransportUpgrader
from nacl.signing import SigningKey

from shoal.crypto.keys import PeerId
from shoal.gossip.addresses import Address, expand_all, from_socket
from shoal.gossip.admission.admission import Admission
from shoal.gossip.events import OWN_ADDRESS, SAME_IDENTITY
from shoal.gossip.net.circuit import HOP, Circuit, NoCircuit, connect, reserve
from shoal.gossip.net.frames import LinkBroken
from shoal.gossip.net.libp2p_adapters import (
    STREAM_ERRORS,
    DialOnDemandSwarm,
    LaneStream,
    NoAutoConnector,
    Transport,
    watched,
)
from shoal.gossip.net.own_faults import own_fault, tell
from shoal.gossip.net.transport import muxer
from shoal.gossip.net.transport.muxer import FastMuxer
from shoal.gossip.net.transport.records import FastNoise, Suite
from shoal.gossip.net.transport.tcp import TcpStream, Traffic
from shoal.gossip.net.transport.unix_sockets import listen_local, open_local, own_name

log = logging.getLogger(__name__)

CONNECT_PATIENCE: Final = 5.0
"""Seconds for a TCP connection. A guess: a SYN is repeated after 1 and 3 seconds."""
HANDSHAKE_PATIENCE: Final = 10.0
OWN_FAULT: Final = "own fault"
"""What a dial ends with, and what is counted, where our own code failed in a handshake."""
MAX_HALF_OPEN: Final = 64
"""Connections that have not said who they are."""
MAX_HALF_OPEN_PER_IP: Final = 32


class PortInUse(OSError):
    """Somebody listens there already; the message says what to do."""

    def __init__(self, port: int) -> None:
        """`port`: the one asked for."""
        text = f"port {port} is in use: choose another with --port, or 0 for a free one"
        super().__init__(errno.EADDRINUSE, text)

    def __str__(self) -> str:
        """Return the advice alone."""
        return str(self.strerror)


class DialFault(Exception):
    """A dial ended without a link; `reason` is one of those of `shoal.gossip.events.DialFailed`."""

    def __init__(self, reason: str) -> None:
        """`reason`: for the person who gave the address."""
        super().__init__(reason)
        self.reason = reason


def check_port_free(address: Address) -> None:
    """Try to listen as nobody who shares would.

    The library listens with SO_REUSEPORT, which hole punching needs: a second node on the same port
    would start without an error and take half of the connections.

    Raises:
        PortInUse: somebody listens there.
        OSError: the address is not one of this machine, or the port may not be used.
    """
    family = socket.AF_INET if address.kind == "ip4" else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port))
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(address.port) from error
        raise OSError(f"cannot listen on {address}: {error.strerror}") from error


def listenable(addresses: list[Address]) -> list[Address]:
    """Return those of our addresses on which the system lets us listen: it may lack one of the families.

    Raises:
        PortInUse: somebody listens on one of them.
        OSError: none of them, or one that does not stand for every interface, may be used.
    """
    found, faults = [], []
    for address in addresses:
        try:
            check_port_free(address)
        except PortInUse:
            raise
        except OSError as error:
            if not address.is_any:
                raise
            faults.append(error)
        else:
            found.append(address)
    if faults and not found:
        raise faults[0]
    for fault in faults:
        log.info("%s", fault)
    return found


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
    ) -> None:
        """Put the parts together; nothing runs yet. Without `suites` only the standard is spoken."""
        keys = create_new_key_pair(seed=bytes(key))
        noise_key = create_noise_key().private_key
        standard: dict[Any, Any] = {NOISE: NoiseTransport(keys, noise_key)}
        security = {each.protocol: FastNoise(keys, noise_key, each) for each in suites} | standard
        muxers: dict[Any, Any] = ({muxer.PROTOCOL: FastMuxer} if suites else {}) | {YAMUX: Yamux}
        self._standard = TransportUpgrader(standard, {YAMUX: Yamux})
        self._is_standard = not suites
        self.id = ID.from_pubkey(keys.public_key)
        self.traffic = Traffic()
        self._admission = admission
        self.on_own_identity: Callable[[Address | None], None] = lambda _: None
        self._announce = announce
        self._local_sockets = local_sockets
        self._relayed: WeakSet[Any] = WeakSet()
        """Links that go through another node."""
        self._half_open: Counter[str] = Counter()
        self._own_dials: deque[tuple[str, int]] = deque(maxlen=MAX_HALF_OPEN)
        store = PeerStore()
        store.add_key_pair(self.id, keys)
        self.swarm = DialOnDemandSwarm(
            self.id,
            store,
            TransportUpgrader(security, muxers),
            transports=[Transport(self.traffic, self._accept)],
            connection_config=ConnectionConfig(
                # The library would close what it finds too many; how many there are is decided here.
                min_connections=0,
                low_watermark=0,
                high_watermark=admission.max_links,
                max_connections=admission.max_links,
                max_connections_per_peer=64,
            ),
        )
        self.swarm.auto_connector = NoAutoConnector(self.swarm)
        self.host = BasicHost(self.swarm, addrs_factory=lambda _: [_multiaddr(a) for a in self.addresses()])
        self._guard_handlers()

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
        return self._announce or self._listening()

    def _listening(self) -> list[Address]:
        sockets = [each.socket for listener in self.swarm.listeners.values() for each in listener.listeners]
        return expand_all(from_socket(*each.getsockname()[:2]) for each in sockets)

    async def dial(self, address: Address, on_secured: Callable[[Any, PeerId], bool]) -> Any:
        """Open a link and return its connection.

        `on_secured(muxed connection, peer)` is told before the link is announced to anyone; where it
        returns False, the connection is closed again and None is returned.

        Raises:
            DialFault: with the reason.
        """
        stream: TcpStream | Circuit = (
            await self._circuit(address)
            if address.via is not None
            else watched(await self._connect(address), self.traffic)
        )
        is_standard = self._is_standard
        try:
            with trio.fail_after(HANDSHAKE_PATIENCE):
                return await self._secure_outbound(address, stream, on_secured)
        except trio.TooSlowError as error:
            raise DialFault("timeout") from error
        except PeerIDMismatchesPubkey as error:
            raise DialFault("wrong key") from error
        except DialFault:
            raise
        except Exception as error:  # whatever a stranger's answer makes the library raise
            log.debug("handshake with %s failed", address, exc_info=True)
            if self._note_own_fault(f"handshake with {address}", error):
                if is_standard:
                    raise DialFault(OWN_FAULT) from error
                return await self.dial(address, on_secured)
            # Who closes without a word is full, or starting, or stopping.
            raise DialFault("not a shoal node" if stream.heard else "refused") from error

    def _is_ours(self, address: Address, stream: "TcpStream | Circuit") -> bool:
        """Whether a dial reached a socket of this node itself, and not another node with its key."""
        ours = {(each.host, each.port) for each in (*self._announce, *self._listening())}
        remote = stream.get_remote_address()
        return (address.host, address.port) in ours or (remote is not None and remote[:2] in ours)

    def _note_own_fault(self, what: str, error: Exception) -> bool:
        """Tell whether a handshake failed by our own fault; from then on only the standard is spoken."""
        fault = own_fault(error)
        if fault is None:
            return False
        tell(what, fault)
        if not self._is_standard:
            log.error("links use standard Noise and yamux from now on, which are slower")
            self._is_standard = True
            self.swarm.upgrader = self._standard
        return True

    async def _connect(self, address: Address) -> trio.SocketStream:
        """Open the connection, to the first that answers of all addresses a name has."""
        local = open_local(address.host, address.port) if self._local_sockets else None
        if local is not None:
            return local
        try:
            with trio.fail_after(CONNECT_PATIENCE):
                return await trio.open_tcp_stream(address.host, address.port)
        except trio.TooSlowError as error:
            raise DialFault("timeout") from error
        except OSError as error:
            raise DialFault(_why(error)) from error

    async def _secure_outbound(
        self, address: Address, stream: "TcpStream | Circuit", on_secured: Callable[[Any, PeerId], bool]
    ) -> Any:
        kept = False
        if isinstance(stream, TcpStream):
            self._own_dials.append(own_name(stream.stream.socket))
        try:
            raw = RawConnection(stream, True)
            expected = ID.from_base58(address.peer) if address.peer else None
            secured = await self.swarm.upgrader.security_multistream.secure_outbound(raw, expected)
            peer = secured.get_remote_peer()
            if peer == self.id:
                raise DialFault(OWN_ADDRESS if self._is_ours(address, stream) else SAME_IDENTITY)
            muxed = await self.swarm.upgrader.upgrade_connection(secured, peer)
            self._note_circuit(muxed, stream)
            if not on_secured(muxed, PeerId(str(peer))):
                return None
            connection = await self.swarm.add_conn(muxed, direction="outbound")
            kept = True
            return connection
        finally:
            if not kept:
                if isinstance(stream, Circuit):
                    await stream.close()
                else:
                    await trio.aclose_forcefully(stream.stream)

    async def _circuit(self, address: Address) -> Circuit:
        """Open a circuit through the peer that an address names, which is dialled where there is no link.

        Raises:
            DialFault: with the reason.
        """
        assert address.via is not None
        if address.peer is None:
            raise DialFault("not a multiaddr")
        if address.via not in (PeerId(str(each)) for each in self.swarm.connections):
            relay = Address(address.kind, address.host, address.port, address.via)
            await self.dial(relay, lambda _muxed, _peer: True)
        try:
            with trio.fail_after(HANDSHAKE_PATIENCE):
                stream = await self._open_to(address.via, HOP)
                return await connect(stream, address.peer, self.traffic)
        except trio.TooSlowError as error:
            raise DialFault("timeout") from error
        except NoCircuit as error:
            log.debug("no circuit to %s: %s", address, error)
            raise DialFault("unreachable") from error

    async def reserve(self, relay: PeerId) -> float:
        """Ask a peer to carry circuits to us; returns for how many seconds it will.

        Raises:
            NoCircuit: it will not.
        """
        with trio.move_on_after(HANDSHAKE_PATIENCE):
            return await reserve(await self._open_to(relay, HOP))
        raise NoCircuit("it does not answer")

    async def _open_to(self, peer: PeerId, protocol: str) -> Any:
        for connection in self.swarm.connections.get(ID.from_base58(peer), ()):
            with suppress(LinkBroken):
                stream = await self.open_stream(connection, protocol)
                if stream is not None:
                    return stream
        raise NoCircuit("it carries none")

    def _note_circuit(self, muxed: Any, stream: object) -> None:
        if isinstance(stream, Circuit):
            self._relayed.add(muxed)

    def is_relayed(self, muxed: Any) -> bool:
        """Tell whether a link goes through another node."""
        return muxed in self._relayed

    async def accept_circuit(self, stream: Circuit) -> None:
        """Secure a circuit that somebody opened to us, and stay until it ends."""
        await self._accept(stream)

    async def _accept(self, stream: "TcpStream | Circuit") -> None:
        """Secure an inbound connection and stay until it ends."""
        remote = stream.get_remote_address()
        ip = remote[0] if remote else ""
        if (
            not self._admission.may_link(len(self.swarm.get_connections()))
            or self._half_open.total() >= MAX_HALF_OPEN
            or self._half_open[ip] >= MAX_HALF_OPEN_PER_IP
        ):
            self._admission.count("too many links")
            return
        self._half_open[ip] += 1
        try:
            with trio.fail_after(HANDSHAKE_PATIENCE):
                secured = await self.swarm.upgrader.upgrade_security(RawConnection(stream, False), False)
                peer = secured.get_remote_peer()
                if peer == self.id:
                    if remote not in self._own_dials:  # else it is we who dialled us, and know
                        self.on_own_identity(from_socket(*remote) if remote else None)
                    return
                muxed = await self.swarm.upgrader.upgrade_connection(secured, peer)
                self._note_circuit(muxed, stream)
        except Exception as error:  # whatever a stranger's handshake makes the library raise
            is_ours = self._note_own_fault("handshake of a peer", error)
            self._admission.count(OWN_FAULT if is_ours else "handshake")
            log.debug("a handshake failed", exc_info=True)
            return
        finally:
            self._half_open[ip] -= 1
            if not self._half_open[ip]:
                del self._half_open[ip]
        connection = await self.swarm.add_conn(muxed, direction="inbound")
        await connection.event_closed.wait()

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


def _multiaddr(address: Address) -> Any:
    return multiaddr.Multiaddr(str(address))
