"""The real `Host`: peers over py-libp2p.

    link up --> hello out, hello in --> PeerFound --> frames --> last link down --> PeerLost
                      `--> other swarm: DialFailed on both sides, link down

Each link begins with a hello on its control stream: the version of the protocol and the name of the
swarm. Only then is the peer announced. Two peers that dial each other at the same time have two
links and keep both; each lane uses the first that is left, so nothing is lost and nothing flaps. A
libp2p node that speaks none of our protocols stays connected for the DHT and is never a peer.

Order is kept within a lane: when a lane moves to another link, its reader finishes the old stream
before it begins the new one.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import multiaddr
import trio
from libp2p.abc import INotifee
from libp2p.tools.anyio_service import background_trio_service
from nacl.signing import SigningKey

from crypto.keys import PeerId, peer_id_of, short
from gossip.addresses import Address, BadAddress, from_socket, parse, parse_listen
from gossip.core import Data, DialFailed, PeerFound, PeerLost
from gossip.errors import RemoteViolation
from gossip.fast_link import suites_by_speed
from gossip.host import FrameReceived, HostConfig, HostEvent, HostStatistics
from gossip.lanes import BULK, CONTROL, MAX_DATA_BYTES, MAX_HEAD_BYTES, LinkBroken, read_frame
from gossip.libp2p_net import DialFault, LaneStream, Network, PortInUse, check_port_free
from gossip.lookup import Announcements, LocalNetwork, Rendezvous, keep_running
from gossip.peer_links import MAX_HELLO_BYTES, VERSION, Events, Hello, Link, Peer, Reading, decode_hello

__all__ = ["BadAddress", "Libp2pHost", "PortInUse", "open_host"]

log = logging.getLogger(__name__)

HELLO_PATIENCE: Final = 10.0
REFUSAL_GRACE: Final = 0.5
"""Seconds a link to another swarm stays, so that both sides read the other's hello."""
HANDOVER_PATIENCE: Final = 2.0
"""Seconds a lane's old stream may still deliver after its new one has begun."""
MAX_BOOK: Final = 4096
"""Peers whose last address is remembered."""
CLOSE_PATIENCE: Final = 1.0


class Libp2pHost:
    """See `Host`; made by `open_host`."""

    def __init__(self, key: SigningKey, config: HostConfig) -> None:
        """Put the parts together; nothing runs yet.

        Raises:
            BadAddress: `listen` or `announce` holds what is no address.
        """
        self.me = peer_id_of(bytes(key.verify_key))
        self._config = config
        self._listen = [parse_listen(each) for each in config.listen]
        announce = [parse(each) for each in config.announce]
        suites = suites_by_speed() if config.fast_links else ()
        self.network = Network(key, suites=suites, announce=announce, max_links=config.max_links)
        self.network.on_own_identity = self._on_own_identity
        self.network.serve_lane(CONTROL, self._serve_control)
        self.network.serve_lane(BULK, self._serve_bulk)
        self.network.swarm.register_notifee(_Watcher(self))
        self._events = Events()
        self._peers: dict[PeerId, Peer] = {}
        self._links: dict[Any, Link] = {}
        self._dialling: set[str] = set()
        self._dialled: dict[Any, str] = {}
        self._book: OrderedDict[PeerId, str] = OrderedDict()
        self._dropped: Counter[str] = Counter()
        self._nursery: trio.Nursery | None = None
        self._announcements = Announcements(self.network, config, self._events.put)

    # What the protocol calls.

    def addresses(self) -> list[str]:
        """See `Host`."""
        return [str(each.of(self.me)) for each in self.network.addresses()]

    def send_nowait(self, peer: PeerId, head: bytes, data: Data = b"") -> None:
        """See `Host`.

        Raises:
            ValueError: the frame is larger than a receiver takes.
        """
        if len(head) > MAX_HEAD_BYTES or len(data) > MAX_DATA_BYTES:
            raise ValueError(f"a frame of {len(head)} and {len(data)} bytes is larger than any may be")
        entry = self._peers.get(peer)
        if entry is None:
            if peer not in self._book:
                self._dropped["no address"] += 1
                return
            entry = self._peers[peer] = Peer(peer)
            self.dial_nowait(self._book[peer])
        if not entry.outboxes[BULK if len(data) else CONTROL].put(head, data):
            self._dropped["queue full"] += 1
            self.drop_nowait(peer, "does not keep up")

    def announce_nowait(self, sealed: bytes) -> None:
        """See `Host`."""
        if not self._announcements.announce_nowait(sealed):
            self._dropped["announcement not taken"] += 1

    def dial_nowait(self, address: str) -> None:
        """See `Host`."""
        if address not in self._dialling:
            self._dialling.add(address)
            self._start(self._dial, address)

    def drop_nowait(self, peer: PeerId, reason: str) -> None:
        """See `Host`."""
        entry = self._peers.get(peer)
        if entry is None:
            return
        log.info("dropping %s: %s", short(peer), reason)
        for link in entry.links:
            self._close_link(link)
        self._forget(entry)

    async def flush(self) -> None:
        """See `Host`."""
        while any(len(outbox) for peer in self._peers.values() for outbox in peer.outboxes.values()):
            await trio.sleep(0.005)

    async def next_event(self) -> HostEvent:
        """See `Host`."""
        return await self._events.next()

    def statistics(self) -> HostStatistics:
        """See `Host`."""
        found = [peer for peer in self._peers.values() if peer.found]
        best = {peer.id: peer.best_link() or peer.links[0] for peer in found if peer.links}
        return HostStatistics(
            bytes_sent=self.network.traffic.sent,
            bytes_received=self.network.traffic.received,
            peer_bytes={peer.id: (peer.sent, peer.received) for peer in found},
            links={peer: (link.address, link.kind) for peer, link in best.items()},
            dropped=dict(self._dropped + self.network.refused),
        )

    # Dials.

    async def _dial(self, text: str) -> None:
        reason = ""
        try:
            reason = await self._dial_parsed(text, parse(text))
        except BadAddress:
            reason = "not a multiaddr"
        finally:
            self._dialling.discard(text)
        if reason:
            self._events.put(DialFailed(text, reason))
        self._drop_stranded(text)

    async def _dial_parsed(self, text: str, address: Address) -> str:
        """Dial; return why it failed, or an empty text while the hello is still to come."""
        if address.peer == self.me:
            return "same identity"
        if address.peer is not None and self._end_dial_of_known(address.peer, text):
            return ""
        if len(self._links) >= self._config.max_links:
            return "too many links"

        def on_secured(muxed: Any, peer: PeerId) -> bool:
            if self._end_dial_of_known(peer, text):
                return False
            self._dialled[muxed] = text
            return True

        try:
            await self.network.dial(address, on_secured)
        except DialFault as fault:
            return fault.reason
        return ""

    def _end_dial_of_known(self, peer: PeerId, text: str) -> bool:
        """End a dial that leads to whom we are linked with already."""
        entry = self._peers.get(peer)
        if entry is None or not entry.found or not entry.links:
            return False
        self._remember(peer, text)
        self._events.put(PeerFound(peer, text, entry.links[0].kind))
        return True

    def _drop_stranded(self, text: str) -> None:
        """Drop frames for a peer whom the dial did not reach."""
        for peer, address in list(self._book.items()):
            entry = self._peers.get(peer) if address == text else None
            if entry is not None and not entry.links:
                self._forget(entry)

    def _remember(self, peer: PeerId, address: str) -> None:
        self._book[peer] = address
        self._book.move_to_end(peer)
        while len(self._book) > MAX_BOOK:
            self._book.popitem(last=False)

    def _on_own_identity(self, address: Address | None) -> None:
        log.warning("a node with our identity dialled us from %s", address)
        self._events.put(DialFailed(str(address or ""), "same identity"))

    # Links.

    def link_for(self, connection: Any) -> Link:
        """Return the link of a connection, new or known."""
        link = self._links.get(connection)
        if link is None:
            muxed = connection.muxed_conn
            remote = muxed.get_remote_address()
            peer_id = PeerId(str(muxed.peer_id))
            relayed = any("p2p-circuit" in str(each) for each in connection.get_transport_addresses())
            peer = self._peers.setdefault(peer_id, Peer(peer_id))
            link = Link(
                connection,
                peer,
                address=str(from_socket(*remote[:2]).of(peer_id)) if remote else "",
                kind="relayed" if relayed else "direct",
                dialled=self._dialled.pop(muxed, ""),
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
        self._on_link_down(link)

    async def _greet(self, link: Link) -> None:
        """Say hello, and wait for the peer's."""
        try:
            stream = await self.network.open_lane(link.connection, CONTROL)
            if stream is None:
                self._fail_dial(link, "not a shoal node")
                return
            await stream.write(Hello(VERSION, self._config.swarm).frame())
        except LinkBroken:
            self._close_link(link)
            return
        link.control = stream
        link.peer.touch()
        with trio.move_on_after(HELLO_PATIENCE):
            await link.greeted.wait()
            return
        self._fail_dial(link, "timeout")

    def _on_hello(self, link: Link) -> None:
        """Announce the peer, once; a dial that led to it has ended."""
        peer = link.peer
        link.greeted.set()
        if link.dialled:
            self._remember(peer.id, link.dialled)
        if not peer.found:
            peer.found = True
            self._start(self._run_writers, peer)
            self._events.put(PeerFound(peer.id, link.dialled, link.kind))
        elif link.dialled:
            self._events.put(PeerFound(peer.id, link.dialled, link.kind))
        link.dialled = ""

    async def _refuse(self, link: Link, reason: str) -> None:
        """Report a link that cannot be used, and close it when the peer can have read our hello."""
        link.refused = True
        self._events.put(DialFailed(link.dialled or link.address, reason))
        link.dialled = ""
        with trio.move_on_after(REFUSAL_GRACE):
            await link.connection.event_closed.wait()
        self._close_link(link)

    def _fail_dial(self, link: Link, reason: str) -> None:
        if link.dialled:
            self._events.put(DialFailed(link.dialled, reason))
            link.dialled = ""

    def _close_link(self, link: Link) -> None:
        link.stop_using()
        self._start(link.connection.close)

    def _on_link_down(self, link: Link) -> None:
        self._links.pop(link.connection, None)
        link.stop_using()
        self._fail_dial(link, "unreachable")
        link.peer.links.remove(link)
        if not link.peer.links:
            self._forget(link.peer)

    def _forget(self, peer: Peer) -> None:
        """Forget a peer that has no link left, or shall have none."""
        if self._peers.get(peer.id) is not peer:
            return
        del self._peers[peer.id]
        peer.writers.cancel()
        if peer.found:
            self._events.put(PeerLost(peer.id))

    # Lanes.

    async def _run_writers(self, peer: Peer) -> None:
        with peer.writers:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_lane, peer, CONTROL)
                nursery.start_soon(self._write_lane, peer, BULK)

    async def _write_lane(self, peer: Peer, lane: str) -> None:
        """Send a lane's frames over the best link, and over the next when that one breaks."""
        outbox = peer.outboxes[lane]
        while True:
            await outbox.wait_filled()
            link = peer.best_link()
            if link is None:
                await peer.changed.wait()
                continue
            with trio.CancelScope() as scope:
                link.uses.add(scope)
                try:
                    stream = link.control
                    if lane == BULK:
                        stream = await self.network.open_lane(link.connection, BULK)
                    if stream is None:
                        raise LinkBroken("the peer has no bulk lane")
                    await outbox.send_to(stream, peer.add_sent)
                except LinkBroken as error:
                    log.debug("link to %s broke: %s", short(peer.id), error)
                    self._close_link(link)
            link.uses.discard(scope)

    async def _serve_control(self, stream: LaneStream) -> None:
        link = self.link_for(stream.connection)
        try:
            with trio.fail_after(HELLO_PATIENCE):
                head, _ = await read_frame(stream, CONTROL, MAX_HELLO_BYTES)
            hello = decode_hello(head)
        except (msgspec.MsgspecError, RemoteViolation, trio.TooSlowError):
            self._violate(link, "bad hello")
            return
        except LinkBroken:
            return
        if hello.version != VERSION:
            await self._refuse(link, "other protocol version")
        elif hello.swarm != self._config.swarm:
            await self._refuse(link, "wrong swarm")
        elif not link.refused:
            self._on_hello(link)
            await self._read_lane(link, CONTROL, stream)

    async def _serve_bulk(self, stream: LaneStream) -> None:
        link = self.link_for(stream.connection)
        with trio.move_on_after(HELLO_PATIENCE):
            await link.greeted.wait()
        if link.greeted.is_set():
            await self._read_lane(link, BULK, stream)

    async def _read_lane(self, link: Link, lane: str, stream: LaneStream) -> None:
        """Hand on frames until the stream ends."""
        peer, reading = link.peer, Reading()
        try:
            with reading.scope:
                while True:
                    head, data = await read_frame(stream, lane)
                    if peer.readings.get(lane) is not reading:
                        await self._take_over(peer, lane, reading)
                    while peer.is_full:
                        peer.drained = trio.Event()
                        await peer.drained.wait()
                    peer.received += len(head) + len(data)
                    self._events.put(FrameReceived(peer.id, head, data), peer)
                    await trio.lowlevel.checkpoint()
        except LinkBroken:
            log.debug("%s from %s ended", lane, short(peer.id))
        except RemoteViolation as violation:
            self._violate(link, violation.reason)
        finally:
            reading.done.set()

    async def _take_over(self, peer: Peer, lane: str, reading: Reading) -> None:
        """Begin to deliver from another stream of the lane, after the old one has ended."""
        old, peer.readings[lane] = peer.readings.get(lane), reading
        if old is not None:
            with trio.move_on_after(HANDOVER_PATIENCE):
                await old.done.wait()
            old.scope.cancel()
            await old.done.wait()

    def _violate(self, link: Link, reason: str) -> None:
        """Count what no correct peer sends, and cut the link it came on."""
        log.info("cutting a link to %s: %s", short(link.peer.id), reason)
        self._dropped[reason] += 1
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
            nursery.start_soon(keep_running, "GossipSub", self._announcements.run)
            if self._config.dht:
                nursery.start_soon(
                    keep_running, "the DHT", Rendezvous(self.network, self._config, self._events.put).run
                )
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
async def open_host(key: SigningKey, config: HostConfig) -> AsyncIterator[Libp2pHost]:
    """Run a host; inside the context it listens.

    Raises:
        PortInUse: somebody listens there already.
        BadAddress: `listen` or `announce` holds what is no address.
        OSError: the system does not let us listen there.
    """
    logging.getLogger("libp2p").setLevel(logging.ERROR)
    host = Libp2pHost(key, config)
    for text in config.listen:
        check_port_free(parse_listen(text))
    async with host._run():
        yield host
