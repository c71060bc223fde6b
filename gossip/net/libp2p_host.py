"""The real `Host`: peers over py-libp2p.

    link up --> hello out, hello in --> PeerFound --> frames --> last link down --> PeerLost
                      `--> other swarm: DialFailed on both sides, link down

Each link begins with a hello on its control stream: the wire version, features and the name of the
swarm. Only then is the peer announced. Two peers that dial each other at the same time have two
links and keep both; each lane uses the first that is left, so nothing is lost and nothing flaps. A
libp2p node that speaks none of our protocols stays connected for the DHT and is never a peer.

Order is kept within a lane: when a lane moves to another link, its reader finishes the old stream
before it begins the new one.
"""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import multiaddr
import trio
from libp2p.abc import INotifee
from libp2p.tools.anyio_service import background_trio_service
from nacl.signing import SigningKey

from shoal.crypto.keys import PeerId, peer_id_of, short
from shoal.gossip.addresses import Address, BadAddress, from_socket, parse, parse_listen
from shoal.gossip.admission.admission import Admission
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import SAME_IDENTITY, Data, DialFailed, Loan, PeerFound, PeerLost
from shoal.gossip.host import HostConfig, HostEvent, HostStatistics
from shoal.gossip.net.dialer import Dials
from shoal.gossip.net.frame_streams import LaneService
from shoal.gossip.net.frames import BULK, CONTROL, MAX_DATA_BYTES, MAX_HEAD_BYTES, LinkBroken, read_frame
from shoal.gossip.net.libp2p_adapters import LaneStream
from shoal.gossip.net.libp2p_node import Network, PortInUse, listenable
from shoal.gossip.net.peer_discovery import Announcements, LocalNetwork, Rendezvous, keep_running
from shoal.gossip.net.peers import FEATURES, MAX_HELLO_BYTES, WIRE, Events, Hello, Link, Peer, decode_hello
from shoal.gossip.net.relay import Relay, Reservations
from shoal.gossip.net.transport.muxer import DOUBT_WAIT, FastMuxer
from shoal.gossip.net.transport.records import suites_by_speed

__all__ = ["BadAddress", "Libp2pHost", "PortInUse", "open_host"]

log = logging.getLogger(__name__)

HELLO_PATIENCE: Final = 10.0
REFUSAL_GRACE: Final = 0.5
"""Seconds a link to another swarm stays, so that both sides read the other's hello."""
CLOSE_PATIENCE: Final = 1.0


class Libp2pHost:
    """See `Host`; made by `open_host`."""

    def __init__(self, key: SigningKey, config: HostConfig, admission: Admission | None = None) -> None:
        """Put the parts together; nothing runs yet.

        Raises:
            BadAddress: `listen` or `announce` holds what is no address.
        """
        self.me = peer_id_of(bytes(key.verify_key))
        self._config = config
        self.admission = admission or Admission(config.max_links)
        self._listen = [] if config.hidden else [parse_listen(each) for each in config.listen]
        announce = [parse(each) for each in config.announce]
        suites = suites_by_speed() if config.fast_links else ()
        self.network = Network(
            key,
            suites=suites,
            announce=announce,
            admission=self.admission,
            local_sockets=config.local_sockets,
        )
        self.network.serve_lane(CONTROL, self._serve_control)
        self.network.serve_lane(BULK, self._serve_bulk)
        self.network.swarm.register_notifee(_Watcher(self))
        self._events = Events()
        self._peers: dict[PeerId, Peer] = {}
        self._links: dict[Any, Link] = {}
        self._instance = os.urandom(8)
        self._nursery: trio.Nursery | None = None
        self._dials = Dials(
            self.network,
            self._events,
            self._peers,
            me=self.me,
            links=self._links,
            admission=self.admission,
        )
        self._lanes = LaneService(
            self.network, self._events, close_link=self._close_link, violate=self._violate
        )
        self._reservations = Reservations(self.network, self._dialled)
        self._announcements = Announcements(self.network, config, self._events.put)

    # What the protocol calls.

    def addresses(self) -> list[str]:
        """See `Host`."""
        found = [*self.network.addresses(), *self._reservations.addresses()]
        return [str(each.of(self.me)) for each in found]

    def send_nowait(self, peer: PeerId, head: bytes, data: Data | Loan = b"") -> None:
        """See `Host`.

        Raises:
            ValueError: the frame is larger than a receiver takes.
        """
        if len(head) > MAX_HEAD_BYTES or len(data) > MAX_DATA_BYTES:
            raise ValueError(f"a frame of {len(head)} and {len(data)} bytes is larger than any may be")
        entry = self._peers.get(peer) or self._want(peer)
        if entry is None:
            self.admission.count("no link")
        elif not entry.outboxes[BULK if len(data) else CONTROL].put(head, data):
            self.admission.count("queue full")
            self.drop_nowait(peer, "does not keep up")

    def _dialled(self) -> Iterator[tuple[PeerId, Address]]:
        """Go through the peers that we have dialled, and where they listen."""
        for peer in self._peers.values():
            for link in peer.links:
                if link.is_good and link.is_initiator and link.kind == "direct" and link.address:
                    yield peer.id, parse(link.address)
                    break

    def _want(self, peer: PeerId) -> Peer | None:
        """Dial a peer for a frame, unless nobody knows where or it just failed."""
        address = self._dials.address_for(peer)
        if not address:
            return None
        entry = self._peers[peer] = Peer(peer, wanted=address)
        self.dial_nowait(address)
        return entry

    def announce_nowait(self, sealed: bytes) -> None:
        """See `Host`."""
        if not self._announcements.announce_nowait(sealed):
            self.admission.count("announcement not taken")

    def dial_nowait(self, address: str) -> None:
        """See `Host`."""
        if self._dials.begin(address):
            self._start(self._dials.run, address)

    def drop_nowait(self, peer: PeerId, reason: str) -> None:
        """See `Host`."""
        entry = self._peers.get(peer)
        if entry is not None:
            log.info("dropping %s: %s", short(peer), reason)
            for link in list(entry.links):
                self._close_link(link)

    def probe_nowait(self, peer: PeerId) -> None:
        """See `Host`; the links of other libp2p programs have their own keep-alive."""
        entry = self._peers.get(peer)
        for link in entry.links if entry is not None else ():
            if isinstance(link.connection.muxed_conn, FastMuxer):
                link.connection.muxed_conn.probe()

    async def flush(self) -> None:
        """See `Host`."""
        for peer in list(self._peers.values()):
            for outbox in list(peer.outboxes.values()):
                await outbox.wait_sent()

    async def next_event(self) -> HostEvent:
        """See `Host`."""
        return await self._events.next()

    def statistics(self) -> HostStatistics:
        """See `Host`."""
        found = [peer for peer in self._peers.values() if peer.found]
        best = {peer.id: peer.best_link() or peer.links[0] for peer in found}
        return HostStatistics(
            bytes_sent=self.network.traffic.sent,
            bytes_received=self.network.traffic.received,
            peer_bytes={peer.id: (peer.sent, peer.received) for peer in found},
            links={peer: (link.address, link.kind) for peer, link in best.items()},
            inbound=frozenset(peer for peer, link in best.items() if not link.is_initiator),
            bulk=(self._lanes.meter.sent, self._lanes.meter.busy),
        )

    # Links.

    def link_for(self, connection: Any) -> Link:
        """Return the link of a connection, new or known."""
        link = self._links.get(connection)
        if link is None:
            muxed = connection.muxed_conn
            remote = muxed.get_remote_address()
            peer_id = PeerId(str(muxed.peer_id))
            peer = self._peers.setdefault(peer_id, Peer(peer_id))
            link = Link(
                connection,
                peer,
                address=str(from_socket(*remote[:2]).of(peer_id)) if remote else "",
                kind="relayed" if self.network.is_relayed(muxed) else "direct",
                is_initiator=bool(muxed.is_initiator),
                dialled=self._dials.text_of(muxed),
            )
            self._links[connection] = link
            peer.links.append(link)
            self._start(self._run_link, link)
        return link

    async def _run_link(self, link: Link) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._greet, link)
            await link.connection.event_closed.wait()
            nursery.cancel_scope.cancel()
        self._links.pop(link.connection, None)
        link.peer.links.remove(link)
        self._stop_link(link)
        self._dials.end_badly(link, "unreachable")
        if not link.peer.links and self._peers.get(link.peer.id) is link.peer:
            del self._peers[link.peer.id]

    async def _greet(self, link: Link) -> None:
        """Say hello; who was dialled does so when it has judged the other's."""
        try:
            stream = await self.network.open_lane(link.connection, CONTROL)
            if stream is None:
                self._dials.end_badly(link, "not a shoal node")
                return
            if not link.is_initiator:
                await link.judged.wait()
            hello = Hello(WIRE[0], self._config.swarm, self._instance, link.refusal, WIRE[1], FEATURES)
            await stream.write(hello.frame())
        except LinkBroken:
            self._close_link(link)
            return
        link.control = stream
        link.peer.touch()
        with trio.move_on_after(HELLO_PATIENCE):
            await link.judged.wait()
            return
        self._dials.end_badly(link, "timeout")

    async def _serve_control(self, stream: LaneStream) -> None:
        link = self.link_for(stream.connection)
        try:
            with trio.fail_after(HELLO_PATIENCE):
                head, _ = await read_frame(stream, CONTROL, MAX_HELLO_BYTES)
            hello = decode_hello(head)
        except (msgspec.MsgspecError, UnicodeDecodeError, RemoteViolation, trio.TooSlowError):
            self._violate(link, "bad hello")
            return
        except LinkBroken:
            return
        link.instance = hello.instance
        link.refusal = await self._judge(link, hello)
        link.judged.set()
        if link.refusal:
            await self._refuse(link)
        elif not link.ending:
            self._on_hello(link)
            await self._lanes.read(link, CONTROL, stream)

    async def _judge(self, link: Link, hello: Hello) -> str:
        """Return why a link cannot be used, or an empty text."""
        if mismatch := hello.mismatch():
            return mismatch
        if hello.refusal:
            return hello.refusal
        if hello.swarm != self._config.swarm:
            return "wrong swarm"
        others = [each for each in link.peer.links if each.is_good and each.instance != hello.instance]
        for other in others:
            if isinstance(other.connection.muxed_conn, FastMuxer):
                other.connection.muxed_conn.probe()
        with trio.move_on_after(DOUBT_WAIT + 1):
            for other in others:
                await other.connection.event_closed.wait()
            return ""
        return SAME_IDENTITY

    async def _refuse(self, link: Link) -> None:
        """Report a link that cannot be used, and close it when both sides know."""
        self._events.put(DialFailed(link.dialled or link.address, link.refusal))
        link.dialled = ""
        if not link.is_initiator:
            with trio.move_on_after(REFUSAL_GRACE):
                await link.connection.event_closed.wait()
        self._close_link(link)

    def _on_hello(self, link: Link) -> None:
        """Announce the peer, once; a dial that led to it has ended."""
        peer, new = link.peer, not link.peer.found
        if new:
            peer.found = True
            self._start(self._lanes.run_writers, peer)
        if new or link.dialled:
            self._events.put(PeerFound(peer.id, link.dialled, link.kind))
        self._dials.end_well(link)
        peer.touch()

    async def _serve_bulk(self, stream: LaneStream) -> None:
        link = self.link_for(stream.connection)
        with trio.move_on_after(HELLO_PATIENCE):
            await link.judged.wait()
        if link.is_good:
            await self._lanes.read(link, BULK, stream)

    def _close_link(self, link: Link) -> None:
        self._stop_link(link)
        self._start(link.connection.close)

    def _stop_link(self, link: Link) -> None:
        """Use a link no more; with the last good one the peer is lost."""
        link.stop_using()
        peer = link.peer
        if peer.found and not any(each.is_good for each in peer.links):
            peer.found = False
            peer.stop_writing()
            self._events.put(PeerLost(peer.id))

    def _violate(self, link: Link, reason: str) -> None:
        """Count what no correct peer sends, and cut the link it came on."""
        log.info("cutting a link to %s: %s", short(link.peer.id), reason)
        self.admission.count(reason)
        self._close_link(link)

    # Life.

    def _start(self, function: Any, *args: Any) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(function, *args)

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with background_trio_service(self.network.swarm), trio.open_nursery() as nursery:
            self._nursery = nursery
            listened = await self.network.swarm.listen(*(multiaddr.Multiaddr(str(a)) for a in self._listen))
            if self._listen and not listened:
                raise OSError(f"cannot listen on {', '.join(self._config.listen)}")
            if self._config.local_sockets:
                await nursery.start(self.network.listen_local)
            nursery.start_soon(keep_running, "GossipSub", self._announcements.run)
            if self._config.dht:
                nursery.start_soon(
                    keep_running, "the DHT", Rendezvous(self.network, self._config, self._events.put).run
                )
            if self._config.relay or self._config.hidden:
                relay = Relay(self.network, carries=self._config.relay)
                nursery.start_soon(keep_running, "the relay", relay.run)
            if self._config.hidden:
                nursery.start_soon(keep_running, "reservations", self._reservations.run)
            if self._config.mdns:
                local = LocalNetwork(self.network, self._config, self.me, self._events.put)
                nursery.start_soon(keep_running, "mDNS", local.run)
            try:
                yield
            finally:
                self._nursery = None
                with trio.move_on_after(CLOSE_PATIENCE) as scope:
                    scope.shield = True
                    await self.network.close_links()
                    await self.network.swarm.close()
                nursery.cancel_scope.cancel()


class _Watcher(INotifee):
    """Tells the host of new connections; their end is watched by each link itself."""

    def __init__(self, host: Libp2pHost) -> None:
        self._host = host

    async def connected(self, network: Any, conn: Any) -> None:
        self._host.link_for(conn)

    async def disconnected(self, network: Any, conn: Any) -> None: ...
    async def opened_stream(self, network: Any, stream: Any) -> None: ...
    async def closed_stream(self, network: Any, stream: Any) -> None: ...
    async def listen(self, network: Any, multiaddr: Any) -> None: ...
    async def listen_close(self, network: Any, multiaddr: Any) -> None: ...


@asynccontextmanager
async def open_host(
    key: SigningKey, config: HostConfig, admission: Admission | None = None
) -> AsyncIterator[Libp2pHost]:
    """Run a host; inside the context it listens.

    Raises:
        PortInUse: somebody listens there already.
        BadAddress: `listen` or `announce` holds what is no address.
        OSError: the system does not let us listen there.
    """
    # To the library every strange or leaving peer is an error of ours, with a page of text.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    host = Libp2pHost(key, config, admission)
    host._listen = listenable(host._listen)
    async with host._run():
        yield host
