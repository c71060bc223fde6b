"""The DHT: a swarm's key in libp2p's Kademlia, where its nodes find each other, among strangers.

    key of this hour --provide--> the peers closest to it --find--> who provides it too

The key changes by the hour, and nodes look under the last, this and the next one, so that who fills a key or
sits down beside it has to do so again and again. A record of a key holds at most two providers of one /16
(IPv6: /32), those first that have said our hello. A peer has ten seconds for a message, and who opens many
streams ends its own. The DHT is libp2p's common one, so any libp2p node in server mode can carry it for us.
Maymounkov and Mazières, "Kademlia", IPTPS 2002, https://doi.org/10.1007/3-540-45748-8_24
"""

import logging
import time
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import trio
from libp2p.kad_dht.common import BUCKET_SIZE
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.provider_store import ProviderRecord, ProviderStore
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.tools.anyio_service import background_trio_service

from shoal.crypto.keys import PeerId
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_adapters import may_dial
from shoal.gossip.net.libp2p_node import Network
from shoal.gossip.net.peer_discovery import Emit, learn
from shoal.gossip.scope import Scope, scope_of, wide_block_of

log = logging.getLogger(__name__)

SETTLE: Final = 1.0
"""Seconds after a link for identify to tell what the peer speaks."""
EVERY: Final = 60.0
"""Seconds between two lookups, once somebody was found."""
EVERY_ALONE: Final = 10.0
PATIENCE: Final = 30.0
"""Seconds for a lookup."""
HOUR: Final = 3600
MAX_FOUND: Final = 32
MAX_ADDRESSES: Final = 8
"""Of a provider."""
MESSAGE_PATIENCE: Final = 10.0
"""Seconds in which a peer sends a whole message, or takes our answer."""
MAX_STREAMS: Final = 64
"""Streams that are served at a time; the oldest ends for another."""
MAX_STREAMS_OF_A_PEER: Final = 4
MAX_OF_A_BLOCK: Final = 2
"""Providers of a key in one /16, or /32 for IPv6."""
MAX_KEYS: Final = 1024
"""Keys of which providers are kept."""


def keys_of(swarm: str, now: float) -> tuple[str, str, str]:
    """Return the swarm's keys of the last, this and the next hour, as multihashes; `now`: Unix seconds."""
    hours = (int(now // HOUR) + step for step in (-1, 0, 1))
    last, this, following = (
        (b"\x12\x20" + sha256(f"shoal/swarm/{hour}/{swarm}".encode()).digest()).hex() for hour in hours
    )
    return last, this, following


class Providers(ProviderStore):
    """Who provides which key, so that no owner of addresses fills a record."""

    def __init__(self, dht: KadDHT, network: Network) -> None:
        """In the place of the library's own store of this DHT."""
        super().__init__(dht.host, dht.peer_routing)
        self._network = network
        self.answered: Container[PeerId] = ()
        """The peers that have said our hello."""

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        """See `ProviderStore`."""
        records = self.providers.pop(key, {})
        self.providers[key] = records  # now the newest
        self._forget_keys()
        name = str(provider.peer_id)
        if name not in records and provider.peer_id != self.local_peer_id:
            crowd = self._in_the_way(records, provider)
            if crowd and not self._answers(name):
                return
            silent = [each for each in crowd if not self._answers(each)]
            if crowd and not silent:
                return
            if silent:
                del records[silent[0]]
        known = PeerInfo(provider.peer_id, list(provider.addrs)[:MAX_ADDRESSES])
        records[name] = ProviderRecord(known, time.time())

    def _in_the_way(self, records: dict[str, ProviderRecord], provider: PeerInfo) -> list[str]:
        """Return those of whom one would have to go for a provider; nobody where there is room."""
        block = self._block(provider)
        same = [name for name, each in records.items() if block and self._block(each.provider_info) == block]
        if len(same) >= MAX_OF_A_BLOCK:
            return same
        others = [name for name in records if name != str(self.local_peer_id)]
        return others if len(records) >= BUCKET_SIZE else []

    def get_providers(self, key: bytes) -> list[PeerInfo]:
        """See `ProviderStore`; those that have said our hello come first."""
        found = super().get_providers(key)
        return sorted(found, key=lambda each: not self._answers(str(each.peer_id)))

    def _answers(self, name: str) -> bool:
        return name == str(self.local_peer_id) or PeerId(name) in self.answered

    def _block(self, provider: PeerInfo) -> str:
        """Return where a provider is, by its link or else its own words; empty if not public."""
        links = self._network.swarm.connections.get(provider.peer_id, ())
        hosts = [remote[0] for each in links if (remote := each.muxed_conn.get_remote_address())]
        return block_of_any([*hosts, *map(_host, provider.addrs)])

    def _forget_keys(self) -> None:
        for key in list(self.providers):
            if len(self.providers) <= MAX_KEYS:
                return
            if key not in self.providing_keys:
                del self.providers[key]


def block_of_any(hosts: Iterable[str]) -> str:
    """Return the wide prefix of the first public address, or an empty text."""
    return next((wide_block_of(host) for host in hosts if scope_of(host) is Scope.PUBLIC), "")


def _host(address: Any) -> str:
    parts = str(address).split("/")
    return parts[2] if len(parts) > 2 and parts[1] in ("ip4", "ip6") else ""


class _Patient:
    """A stream on which the other side has so long for each message, and for taking each answer."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._until = trio.current_time() + MESSAGE_PATIENCE

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read(self, n: int | None = None) -> bytes:
        with trio.fail_at(self._until):
            return bytes(await self._stream.read(n))

    async def write(self, data: bytes) -> None:
        with trio.fail_after(MESSAGE_PATIENCE):
            await self._stream.write(data)
        self._until = trio.current_time() + MESSAGE_PATIENCE


@dataclass(slots=True, eq=False)
class _Served:
    """A stream that is being served."""

    peer: ID
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class BoundedDHT(KadDHT):
    """The library's, in which no peer keeps others from being served."""

    def __init__(self, network: Network) -> None:
        """`network`: whose host carries it."""
        self._served: list[_Served] = []
        super().__init__(network.host, DHTMode.SERVER, strict_validation=True)
        self.providers = Providers(self, network)
        self.provider_store = self.providers

    async def handle_stream(self, stream: Any) -> None:
        """See `KadDHT`; the library itself serves twelve at a time, however long they say nothing."""
        served = _Served(stream.muxed_conn.peer_id)
        own = [each for each in self._served if each.peer == served.peer]
        if len(own) >= MAX_STREAMS_OF_A_PEER:
            self._end(own[0])
        elif len(self._served) >= MAX_STREAMS:
            self._end(self._served[0])
        self._served.append(served)
        try:
            with served.scope:
                await self._do_handle_stream(_Patient(stream))
        finally:
            if served in self._served:
                self._served.remove(served)
            if served.scope.cancelled_caught:
                with trio.move_on_after(1):
                    await stream.reset()

    def _end(self, served: _Served) -> None:
        self._served.remove(served)
        served.scope.cancel()


class Rendezvous:
    """The swarm's key in the DHT."""

    def __init__(self, network: Network, config: HostConfig, emit: Emit, answered: Container[PeerId]) -> None:
        """`emit` is handed the addresses found; `answered`: the peers that have said our hello."""
        self._network = network
        self._swarm = config.swarm
        self._emit = emit
        self._answered = answered

    async def run(self) -> None:
        """Carry the DHT, provide the key, and look who else does, until cancelled."""
        may_dial.set(True)  # a lookup asks peers that others named
        dht = BoundedDHT(self._network)
        dht.providers.answered = self._answered
        async with background_trio_service(dht):
            while True:
                await trio.sleep(SETTLE)
                connected = list(self._network.swarm.connections)
                for peer in connected:
                    await dht.add_peer(peer)
                found = 0
                if dht.get_routing_table_size():
                    with trio.move_on_after(PATIENCE):
                        found = await self._meet(dht)
                await trio.sleep(EVERY if found else EVERY_ALONE)

    async def _meet(self, dht: BoundedDHT) -> int:
        """Provide and look under the three keys; return how many were found."""
        keys = keys_of(self._swarm, time.time())
        dht.providers.providing_keys = set(map(bytes.fromhex, keys))
        found: dict[ID, PeerInfo] = {}
        for key in keys:
            await dht.provide(key)
            found |= await self._look(dht, key)
        found.pop(self._network.id, None)
        for peer, info in few_of_a_block(found.items(), self._answered):
            for address in info.addrs[:MAX_ADDRESSES]:
                text = str(address)
                learn(self._emit, text if "/p2p/" in text else f"{text}/p2p/{peer}", "dht")
        return len(found)

    async def _look(self, dht: BoundedDHT, key: str) -> dict[ID, PeerInfo]:
        """Return who provides a key."""
        store, raw = dht.providers, bytes.fromhex(key)
        # The library stops at its own list, in which a provider finds itself: ask without one.
        known = store.providers.pop(raw, {})
        try:
            found = {each.peer_id: each for each in await dht.find_providers(key, MAX_FOUND)}
        finally:
            for record in known.values():
                store.add_provider(raw, record.provider_info)
        for record in known.values():
            found.setdefault(record.provider_info.peer_id, record.provider_info)
        return found


def few_of_a_block(
    found: Iterable[tuple[ID, PeerInfo]], answered: Container[PeerId]
) -> list[tuple[ID, PeerInfo]]:
    """Return the providers that are worth a dial: of one owner's addresses few, those first that we know."""
    counts: dict[str, int] = {}
    kept = []
    for peer, info in sorted(found, key=lambda each: PeerId(str(each[0])) not in answered):
        block = block_of_any(map(_host, info.addrs))
        counts[block] = counts.get(block, 0) + 1
        if not block or counts[block] <= MAX_OF_A_BLOCK:
            kept.append((peer, info))
    return kept
