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

import ipaddress
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import multiaddr
import trio
from libp2p.abc import INotifee
from libp2p.tools.anyio_service import background_trio_service
from nacl.signing import SigningKey

from shoal.crypto.keys import PeerId, peer_id_of, short
from shoal.gossip.addresses import Address, BadAddress, parse, parse_listen
from shoal.gossip.admission.admission import Admission
from shoal.gossip.events import Data, Loan
from shoal.gossip.host import HostEvent, HostStatistics
from shoal.gossip.net.announcements import Announcements
from shoal.gossip.net.connecting.listening import PortInUse, listenable
from shoal.gossip.net.dht import Rendezvous
from shoal.gossip.net.dialer import Dials
from shoal.gossip.net.frames import BULK, CONTROL, MAX_DATA_BYTES, MAX_HEAD_BYTES
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_node import Network
from shoal.gossip.net.links import Links
from shoal.gossip.net.peer_discovery import LocalNetwork, keep_running
from shoal.gossip.net.peers import Answered, Events, Peer, Tasks
from shoal.gossip.net.relay import Relay, Reservations
from shoal.gossip.net.router.port_mapper import PortMapper
from shoal.gossip.net.transport.muxer import FastMuxer
from shoal.gossip.net.transport.records import suites_by_speed
from shoal.gossip.net.transport.throttle import Throttle
from shoal.gossip.scope import USER, Here, Teller

__all__ = ["BadAddress", "Libp2pHost", "PortInUse", "open_host"]

log = logging.getLogger(__name__)

CLOSE_PATIENCE: Final = 1.0


class Libp2pHost:
    """See `Host`; made by `open_host`."""

    def __init__(
        self,
        key: SigningKey,
        config: HostConfig,
        admission: Admission | None = None,
        network_key: bytes = b"",
    ) -> None:
        """Put the parts together; nothing runs yet. `network_key`: of a private network, or none.

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
            internet=tuple(ipaddress.ip_network(each) for each in config.internet),
            dial_private=config.dial_private,
        )
        self.use_network_keys((network_key,) if network_key else ())
        self._events = Events()
        self._peers: dict[PeerId, Peer] = {}
        self._tasks = Tasks()
        self._dials = Dials(
            self.network,
            self._events,
            self._peers,
            me=self.me,
            admission=self.admission,
        )
        self.links = Links(
            *(self.network, self._events, self._peers, self._dials, self.admission),
            swarm=config.swarm,
            tasks=self._tasks,
        )
        if config.upload_mbit:
            self.links.lanes.meter.throttle = Throttle(config.upload_mbit * 125_000)
        if config.download_mbit:
            self.links.lanes.inlet = Throttle(config.download_mbit * 125_000)
        self.network.swarm.register_notifee(_Watcher(self.links))
        self.network.observations = self.links.observations
        self.mapper = PortMapper(self.network, is_wanted=config.asks_router)
        self.network.mapped = self.mapper.addresses
        self._reservations = Reservations(self.network, self._dialled)
        self._announcements = Announcements(self.network, config, self._events.put)

    def use_network_keys(self, keys: tuple[bytes, ...]) -> None:
        """Take these keys of the private network from now on, and say the first; links stay as they are."""
        self.network.traffic.network_keys = keys

    def show_invite(self, words: bytes) -> None:
        """Show in the hello of new links by what this node joins."""
        self.links.invite = words

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

    def here(self) -> Here:
        """See `Host`."""
        return self.network.here()

    def dial_nowait(self, address: str, teller: Teller = USER) -> None:
        """See `Host`."""
        if self._dials.begin(address):
            self._tasks.start(self._dials.run, address, teller)

    def drop_nowait(self, peer: PeerId, reason: str) -> None:
        """See `Host`."""
        entry = self._peers.get(peer)
        if entry is not None:
            log.info("dropping %s: %s", short(peer), reason)
            for link in list(entry.links):
                self.links.close(link)

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
            port_mapping=self.mapper.outcome,
            bulk=(self.links.lanes.meter.sent, self.links.lanes.meter.busy),
        )

    # Life.

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with background_trio_service(self.network.swarm), trio.open_nursery() as nursery:
            self._tasks.nursery = nursery
            listened = await self.network.swarm.listen(*(multiaddr.Multiaddr(str(a)) for a in self._listen))
            if self._listen and not listened:
                raise OSError(f"cannot listen on {', '.join(self._config.listen)}")
            if self._config.local_sockets:
                await nursery.start(self.network.listen_local)
            nursery.start_soon(keep_running, "GossipSub", self._announcements.run)
            if self._config.dht:
                dht = Rendezvous(self.network, self._config, self._events.put, Answered(self._peers))
                nursery.start_soon(keep_running, "the DHT", dht.run)
            if self._config.relay or self._config.hidden:
                relay = Relay(self.network, carries=self._config.relay)
                nursery.start_soon(keep_running, "the relay", relay.run)
            if self._config.hidden:
                nursery.start_soon(keep_running, "reservations", self._reservations.run)
            if self.mapper.is_wanted:
                nursery.start_soon(keep_running, "port mapping", self.mapper.run)
            if self._config.mdns:
                local = LocalNetwork(self.network, self._config, self.me, self._events.put)
                nursery.start_soon(keep_running, "mDNS", local.run)
            try:
                yield
            finally:
                self._tasks.nursery = None
                with trio.move_on_after(CLOSE_PATIENCE) as scope:
                    scope.shield = True
                    await self.network.close_links()
                    await self.network.swarm.close()
                nursery.cancel_scope.cancel()


class _Watcher(INotifee):
    """Tells the host of new connections; their end is watched by each link itself."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def connected(self, network: Any, conn: Any) -> None:
        self._links.link_for(conn)

    async def disconnected(self, network: Any, conn: Any) -> None: ...
    async def opened_stream(self, network: Any, stream: Any) -> None: ...
    async def closed_stream(self, network: Any, stream: Any) -> None: ...
    async def listen(self, network: Any, multiaddr: Any) -> None: ...
    async def listen_close(self, network: Any, multiaddr: Any) -> None: ...


@asynccontextmanager
async def open_host(
    key: SigningKey, config: HostConfig, admission: Admission | None = None, network_key: bytes = b""
) -> AsyncIterator[Libp2pHost]:
    """Run a host; inside the context it listens. With a `network_key` it speaks to nobody who lacks it.

    Raises:
        PortInUse: somebody listens there already.
        BadAddress: `listen` or `announce` holds what is no address.
        OSError: the system does not let us listen there.
    """
    # To the library every strange or leaving peer is an error of ours, with a page of text.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    host = Libp2pHost(key, config, admission, network_key)
    host._listen = listenable(host._listen)
    async with host._run():
        yield host
