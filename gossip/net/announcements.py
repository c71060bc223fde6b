"""Announcements: records that reach everyone of a swarm, also without a link to their author.

GossipSub spreads messages over a mesh of the linked peers. Nothing is handed on that a node would not believe
itself: a message is opened first, and has to be a record that its author signed, and that is news.
Vyzovitis et al., "GossipSub: Attack-Resilient Message Propagation", https://arxiv.org/abs/2007.02754
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import trio
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

from shoal.crypto.keys import PeerId
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.host import Announced
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_node import Network
from shoal.gossip.wire import open_presence, swarm_id

log = logging.getLogger(__name__)

MAX_ANNOUNCEMENT_BYTES: Final = 100_000
"""A whole GossipSub message may have 1 MiB; larger ones vanish without an error."""
MAX_RPC_BYTES: Final = 256 * 1024
"""Of a peer's whole frame of GossipSub: a record has a few hundred bytes."""
MAX_WAITING: Final = 64
"""Announcements not yet handed to GossipSub."""
MAX_PER_SECOND: Final = 200
"""Announcements taken from a peer; above it they are dropped. 200 keep a core busy."""
MAX_AUTHORS: Final = 4096
"""Authors of whom the newest announcement is remembered."""


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


class Gate:
    """Which announcements a node takes and hands on."""

    def __init__(self, swarm: str) -> None:
        """`swarm`: its name."""
        self._swarm = swarm_id(swarm)
        self._newest: OrderedDict[PeerId, int] = OrderedDict()

    def admits(self, author: PeerId, sealed: bytes) -> bool:
        """Tell whether a message is a record of this author, and newer than what it said here before."""
        if len(sealed) > MAX_ANNOUNCEMENT_BYTES:
            return False
        try:
            record = open_presence(sealed, self._swarm)
        except RemoteViolation as violation:
            log.debug("an announcement was dropped: %s", violation)
            return False
        if record.author != author or record.sequence <= self._newest.get(author, -1):
            return False
        self._newest[author] = record.sequence
        self._newest.move_to_end(author)
        if len(self._newest) > MAX_AUTHORS:
            self._newest.popitem(last=False)
        return True


class Announcements:
    """The topic of the swarm."""

    def __init__(self, network: Network, config: HostConfig, emit: Callable[[Announced], None]) -> None:
        """`emit` is handed what others announce."""
        self._network = network
        self._topic = f"shoal/{config.swarm}"
        self._emit = emit
        self._gate = Gate(config.swarm)
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
        pubsub = _SafePubsub(
            self._network.host,
            router,
            strict_signing=True,
            allowed_topics={self._topic},
            max_inbound_rpc_size=MAX_RPC_BYTES,
        )
        pubsub._flight = set()
        forwarders: dict[bytes, PeerId] = {}
        me = self._network.id.to_bytes()

        async def check(forwarder: ID, msg: Any) -> bool:
            author = PeerId(str(ID(msg.from_id)))
            if msg.from_id != me and not self._gate.admits(author, bytes(msg.data)):
                return False
            if len(forwarders) < 10 * MAX_WAITING:
                forwarders[pubsub.get_message_id(msg)] = PeerId(str(forwarder))
            return True

        async with background_trio_service(pubsub), background_trio_service(router):
            pubsub.set_topic_validator(self._topic, check, True)
            subscription = await pubsub.subscribe(self._topic)
            for peer in self._network.swarm.connections:
                pubsub.manager.run_task(pubsub.ensure_peer_stream, peer)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._publish, pubsub)
                while True:
                    msg = await subscription.get()
                    via = forwarders.pop(pubsub.get_message_id(msg), PeerId(""))
                    if msg.from_id != me:
                        self._emit(Announced(via, bytes(msg.data)))

    async def _publish(self, pubsub: Pubsub) -> None:
        async for sealed in self._take:
            await pubsub.publish(self._topic, sealed)
