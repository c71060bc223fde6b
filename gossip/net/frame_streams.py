"""Lanes at work: writers that follow the best link, readers that keep the order.

    outbox --> best link of the peer --breaks--> next best link
    stream --> frames --> events, until the peer's backlog is full

A lane lives on one stream at a time. When its writer moves to another link, the reader over there
finishes the old stream, or waits a moment for its end, before it delivers from the new one.
"""

import logging
from typing import Final, Protocol

import trio

from shoal.crypto.keys import short
from shoal.gossip.deadlines import BEAT
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Arriving, Data, TakenBack
from shoal.gossip.host import FrameReceived
from shoal.gossip.net.frames import (
    BULK,
    CONTROL,
    ByteStream,
    FrameReader,
    LinkBroken,
    Meter,
    SlowlyTaken,
    read_frame,
)
from shoal.gossip.net.libp2p_adapters import LaneStream
from shoal.gossip.net.libp2p_node import Network
from shoal.gossip.net.peers import Events, Link, Peer, Reading
from shoal.gossip.net.transport.throttle import Throttle

log = logging.getLogger(__name__)

HANDOVER_PATIENCE: Final = 2.0
"""Seconds a lane's old stream may still deliver after its new one has begun."""


class LinkHome(Protocol):
    """What lanes need of those who keep the links."""

    def close(self, link: Link) -> None:
        """Close a link."""
        ...

    def violate(self, link: Link, reason: str) -> None:
        """Count what no correct peer sends, and close its link."""
        ...


class LaneService:
    """Sends and receives the frames of all peers."""

    def __init__(
        self,
        network: Network,
        events: Events,
        links: LinkHome,
    ) -> None:
        """`links`: whose lanes they are."""
        self._network = network
        self._events = events
        self._links = links
        self.meter = Meter()
        self.inlet: Throttle | None = None
        """What bulk waits for before it is taken, where the owner of the line keeps a part of it."""

    async def run_writers(self, peer: Peer, scope: trio.CancelScope) -> None:
        """Send what is queued for a peer until it is lost, which `scope` tells."""
        if scope.cancel_called:
            return  # lost before this began; perhaps found again, with writers of its own
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, peer, CONTROL)
                nursery.start_soon(self._write, peer, BULK)

    async def _write(self, peer: Peer, lane: str) -> None:
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
                        stream = await self._network.open_lane(link.connection, BULK)
                    if stream is None:
                        raise LinkBroken("the peer has no bulk lane")
                    await outbox.send_to(stream, peer.add_sent, self.meter)
                except TakenBack:
                    # The rest of the lane goes on in a stream of its own.
                    await stream.reset()
                except LinkBroken as error:
                    log.debug("link to %s broke: %s", short(peer.id), error)
                    self._links.close(link)
            link.uses.discard(scope)

    async def read(self, link: Link, lane: str, stream: LaneStream) -> None:
        """Hand on frames until the stream ends, and word of bulk that is on its way."""
        reading = Reading()
        if lane != BULK:
            await self._read(link, lane, stream, reading)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, link.peer, stream, reading)
            await self._read(link, lane, stream, reading)
            nursery.cancel_scope.cancel()

    async def _watch(self, peer: Peer, stream: LaneStream, reading: Reading) -> None:
        """Tell how much has come of a frame that takes longer than a beat."""
        told, began = 0, 0
        while True:
            await trio.sleep(BEAT)
            came = stream.taken - reading.taken
            if reading.taken == began and came > told:
                self._events.put(Arriving(peer.id, came))
            told, began = came, reading.taken

    async def _read(self, link: Link, lane: str, stream: LaneStream, reading: Reading) -> None:
        peer = link.peer
        stream.claim()

        def take(head: bytes, data: Data) -> bool:
            reading.taken = stream.taken
            peer.received += len(head) + len(data)
            self._events.put(FrameReceived(peer.id, head, data), peer)
            return not peer.is_full

        frames = FrameReader(lane, take)
        source: ByteStream = stream
        if lane == BULK and self.inlet is not None:
            source = SlowlyTaken(stream, self.inlet)
        try:
            with reading.scope:
                head, data = await read_frame(source, lane)
                await _take_over(peer, lane, reading)
                take(head, data)
                del data
                while True:
                    await peer.wait_drained()
                    await frames.read(source)
        except LinkBroken:
            log.debug("%s from %s ended", lane, short(peer.id))
        except RemoteViolation as violation:
            self._links.violate(link, violation.reason)
        finally:
            reading.done.set()


async def _take_over(peer: Peer, lane: str, reading: Reading) -> None:
    """Begin to deliver from another stream of the lane, after the old one has ended."""
    old, peer.readings[lane] = peer.readings.get(lane), reading
    if old is not None:
        with trio.move_on_after(HANDOVER_PATIENCE):
            await old.done.wait()
        old.scope.cancel()
        await old.done.wait()
