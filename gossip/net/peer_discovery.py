"""Lookup: announcements to everyone, and other nodes found without being told of them.

- GossipSub spreads announcements over a mesh of the linked peers: every message reaches all who
  subscribe to the topic of the swarm, also those without a link to its author.
  Vyzovitis et al., "GossipSub: Attack-Resilient Message Propagation", https://arxiv.org/abs/2007.02754
- The Kademlia DHT maps keys to the peers closest to them. Every node of a swarm says there that it
  provides the key of the swarm's name; whoever asks gets addresses. The DHT is libp2p's common one,
  so any libp2p node in server mode can carry it for us.
  Maymounkov and Mazières, "Kademlia", IPTPS 2002, https://doi.org/10.1007/3-540-45748-8_24
- mDNS asks the local network by multicast, RFC 6762, under a service name of our own.

None of them is needed to run: each is started again when it fails, and says so once.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from hashlib import blake2b, sha256
from typing import Any, Final

import trio
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from zeroconf import IPVersion, NonUniqueNameException, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from shoal.crypto.keys import PeerId
from shoal.gossip.addresses import BadAddress, parse
from shoal.gossip.events import Learned
from shoal.gossip.host import Announced, HostConfig
from shoal.gossip.net.libp2p_adapters import may_dial
from shoal.gossip.net.libp2p_node import Network

log = logging.getLogger(__name__)

MAX_ANNOUNCEMENT_BYTES: Final = 100_000
"""A whole GossipSub message may have 1 MiB; larger ones vanish without an error."""
MAX_WAITING: Final = 64
"""Announcements not yet handed to GossipSub."""
MAX_PER_SECOND: Final = 200
"""Announcements taken from a peer; above it they are dropped. 200 keep a core busy."""
DHT_SETTLE: Final = 1.0
"""Seconds after a link for identify to tell what the peer speaks."""
DHT_EVERY: Final = 60.0
"""Seconds between two lookups, once somebody was found."""
DHT_EVERY_ALONE: Final = 10.0
DHT_PATIENCE: Final = 30.0
MAX_FOUND: Final = 32
MDNS_TYPE: Final = "_shoal._udp.local."
RESTART_AFTER: Final = 2.0
"""Seconds; doubled after every failure."""
MAX_RESTART_AFTER: Final = 300.0

Emit = Callable[[Announced | Learned], None]


async def keep_running(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Run a part again and again; without it the node lives on with less."""
    warned, pause = False, RESTART_AFTER
    while True:
        began = trio.current_time()
        try:
            await part()
        except Exception as error:  # the boundary to a service of the library, which raises anything
            level = logging.DEBUG if warned else logging.WARNING
            log.log(level, "%s does not work and is tried again later: %s", name, error)
            log.debug("%s", name, exc_info=True)
            warned = True
        if trio.current_time() - began > MAX_RESTART_AFTER:
            warned, pause = False, RESTART_AFTER
        await trio.sleep(pause)
        pause = min(2 * pause, MAX_RESTART_AFTER)


class _SafePubsub(Pubsub):
    """No message can end the service, and none is handled twice at once."""

    _flight: set[bytes]

    async def push_msg(self, msg_forwarder: ID, msg: Any) -> None:
        """See `Pubsub`."""
        key = self.get_message_id(msg)
        if key in self._flight:
            return
        self._flight.add(key)
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception:  # a malformed message makes the library raise anything
            log.debug("a message was dropped", exc_info=True)
        finally:
            self._flight.discard(key)


class Announcements:
    """The topic of the swarm."""

    def __init__(self, network: Network, config: HostConfig, emit: Emit) -> None:
        """`emit` is handed what others announce."""
        self._network = network
        self._topic = f"shoal/{config.swarm}"
        self._emit = emit
        self._put, self._take = trio.open_memory_channel[bytes](MAX_WAITING)

    def announce_nowait(self, sealed: bytes) -> bool:
        """Queue an announcement; False if it is too large or too many wait."""
        if len(sealed) > MAX_ANNOUNCEMENT_BYTES:
            return False
        try:
            self._put.send_nowait(sealed)
        except trio.WouldBlock:
            return False
        return True

    async def run(self) -> None:
        """Publish and receive until cancelled."""
        router = GossipSub(
            [PROTOCOL_ID_V11],
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_interval=1,  # the library's 120 would leave a newcomer out for two minutes
            max_messages_per_topic_per_second=MAX_PER_SECOND,
            eclipse_protection_enabled=False,  # it counts addresses, and refuses a swarm on one machine
        )
        pubsub = _SafePubsub(self._network.host, router, strict_signing=True, allowed_topics={self._topic})
        pubsub._flight = set()
        forwarders: dict[bytes, PeerId] = {}

        async def note_forwarder(forwarder: ID, msg: Any) -> bool:
            if len(msg.data) > MAX_ANNOUNCEMENT_BYTES:
                return False
            if len(forwarders) < 10 * MAX_WAITING:
                forwarders[pubsub.get_message_id(msg)] = PeerId(str(forwarder))
            return True

        async with background_trio_service(pubsub), background_trio_service(router):
            pubsub.set_topic_validator(self._topic, note_forwarder, True)
            subscription = await pubsub.subscribe(self._topic)
            for peer in self._network.swarm.connections:
                pubsub.manager.run_task(pubsub.ensure_peer_stream, peer)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._publish, pubsub)
                me = self._network.id.to_bytes()
                while True:
                    msg = await subscription.get()
                    via = forwarders.pop(pubsub.get_message_id(msg), PeerId(""))
                    if msg.from_id != me:
                        self._emit(Announced(via, bytes(msg.data)))

    async def _publish(self, pubsub: Pubsub) -> None:
        async for sealed in self._take:
            await pubsub.publish(self._topic, sealed)


class Rendezvous:
    """The swarm's key in the DHT."""

    def __init__(self, network: Network, config: HostConfig, emit: Emit) -> None:
        """`emit` is handed the addresses found."""
        self._network = network
        digest = sha256(b"shoal/swarm/" + config.swarm.encode()).digest()
        self._key = (b"\x12\x20" + digest).hex()
        self._emit = emit

    async def run(self) -> None:
        """Carry the DHT, provide the key, and look who else does, until cancelled."""
        may_dial.set(True)  # a lookup asks peers that others named
        dht = KadDHT(self._network.host, DHTMode.SERVER, strict_validation=True)
        async with background_trio_service(dht):
            while True:
                await trio.sleep(DHT_SETTLE)
                connected = list(self._network.swarm.connections)
                for peer in connected:
                    await dht.add_peer(peer)
                found = 0
                if dht.get_routing_table_size():
                    with trio.move_on_after(DHT_PATIENCE):
                        await dht.provide(self._key)
                        found = await self._look(dht)
                await trio.sleep(DHT_EVERY if found else DHT_EVERY_ALONE)

    async def _look(self, dht: KadDHT) -> int:
        """Emit who provides the key; return how many there are."""
        store, key = dht.provider_store, bytes.fromhex(self._key)
        # The library stops at its own list, in which a provider finds itself: ask without one.
        known = store.providers.pop(key, {})
        try:
            found = {each.peer_id: each for each in await dht.find_providers(self._key, MAX_FOUND)}
        finally:
            for record in known.values():
                store.add_provider(key, record.provider_info)
        for record in known.values():
            found.setdefault(record.provider_info.peer_id, record.provider_info)
        found.pop(self._network.id, None)
        for peer, info in found.items():
            for address in info.addrs[:8]:
                text = str(address)
                _learn(self._emit, text if "/p2p/" in text else f"{text}/p2p/{peer}", "dht")
        return len(found)


class LocalNetwork(ServiceListener):
    """Our service in mDNS; its callbacks come from a thread of zeroconf."""

    def __init__(self, network: Network, config: HostConfig, me: PeerId, emit: Emit) -> None:
        """`emit` is handed the addresses found, in the trio thread."""
        self._network = network
        self._swarm = blake2b(config.swarm.encode(), digest_size=16).hexdigest().encode()
        self._me = me
        self._emit = emit
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self) -> None:
        """Tell and listen until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        zeroconf = Zeroconf(ip_version=IPVersion.V4Only)
        try:
            await trio.to_thread.run_sync(
                self._register,
                zeroconf,
                abandon_on_cancel=True,  # type: ignore[call-arg]  # old stubs
            )
            await trio.sleep_forever()
        finally:
            # Saying goodbye waits for the network; nobody here waits for that.
            threading.Thread(target=_close, args=(zeroconf,), daemon=True).start()

    def _register(self, zeroconf: Zeroconf) -> None:
        addresses = [each.of(self._me) for each in self._network.addresses() if not each.is_loopback][:8]
        ServiceBrowser(zeroconf, MDNS_TYPE, self)
        if not addresses:
            return
        properties: dict[bytes, bytes | None] = {b"swarm": self._swarm}
        properties |= {b"dnsaddr%d" % i: str(each).encode() for i, each in enumerate(addresses)}
        label = blake2b(self._me.encode(), digest_size=16).hexdigest()
        info = ServiceInfo(
            MDNS_TYPE,
            f"{label}.{MDNS_TYPE}",
            port=addresses[0].port,
            properties=properties,
            server=f"{label}.local.",
            addresses=[socket.inet_aton(each.host) for each in addresses if each.kind == "ip4"],
        )
        with contextlib.suppress(NonUniqueNameException):  # ours, from before a crash
            zeroconf.register_service(info)

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Read who is there."""
        info = zc.get_service_info(type_, name, timeout=3000)
        properties = info.properties if info is not None else {}
        if properties.get(b"swarm") != self._swarm or self._token is None:
            return
        texts = [value for key, value in properties.items() if key.startswith(b"dnsaddr") and value]
        for text in texts[:8]:
            address = text.decode(errors="replace")
            if not address.endswith(self._me):
                with contextlib.suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(_learn, self._emit, address, "mdns")

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """See `add_service`."""
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Forget nothing: links tell better who is gone."""


def _close(zeroconf: Zeroconf) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        zeroconf.close()


def _learn(emit: Emit, text: str, source: str) -> None:
    """Emit an address that somebody claims, if it is one."""
    try:
        address = parse(text)
    except BadAddress:
        log.debug("%s told of %.80r, which is no address", source, text)
        return
    if address.peer is not None and not address.is_any:
        emit(Learned(str(address), source))
