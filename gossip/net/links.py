"""Links: from a connection to a peer that is announced, and back.

connection --place?--> hello out, hello in --judged--> PeerFound --> frames --> last link down --> PeerLost
                                                `--> DialFailed on both sides, link down
"""

import logging
import os
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Final

import msgspec
import trio

from shoal.crypto.keys import PeerId, short
from shoal.gossip.addresses import endpoint, from_socket
from shoal.gossip.admission.admission import Admission
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import BANNED, NO_PLACE, SAME_IDENTITY, TOO_MANY, DialFailed, PeerFound, PeerLost
from shoal.gossip.net.dialer import Dials
from shoal.gossip.net.frame_streams import LaneService
from shoal.gossip.net.frames import BULK, CONTROL, LinkBroken, read_frame
from shoal.gossip.net.libp2p_adapters import LaneStream
from shoal.gossip.net.libp2p_node import Network
from shoal.gossip.net.peers import (
    FEATURES,
    MAX_HELLO_BYTES,
    WIRE,
    Events,
    Hello,
    Link,
    Peer,
    Tasks,
    decode_hello,
)
from shoal.gossip.net.transport.muxer import DOUBT_WAIT, FastMuxer

log = logging.getLogger(__name__)

HELLO_PATIENCE: Final = 10.0
REFUSAL_GRACE: Final = 0.5
"""Seconds a link to another swarm stays, so that both sides read the other's hello."""
MAX_LANES: Final = 3
"""Streams of a lane that a peer may have open on a link; it needs one, and two while it moves."""


class Links:
    """The links of one host."""

    def __init__(
        self,
        network: Network,
        events: Events,
        peers: dict[PeerId, Peer],
        dials: Dials,
        admission: Admission,
        *,
        swarm: str,
        tasks: Tasks,
    ) -> None:
        """`peers`, `tasks`: the host's."""
        self._network, self._events, self._peers = network, events, peers
        self._dials, self._admission, self._swarm, self._start = dials, admission, swarm, tasks.start
        self.all: dict[Any, Link] = {}
        self.invite = b""
        """What this node shows others in its hello, to be let in."""
        self._instance = os.urandom(8)
        self.lanes = LaneService(network, events, self)
        network.serve_lane(CONTROL, self._serve_control)
        network.serve_lane(BULK, self._serve_bulk)

    def link_for(self, connection: Any) -> Link:
        """Return the link of a connection, new or known."""
        link = self.all.get(connection)
        if link is None:
            muxed = connection.muxed_conn
            remote = muxed.get_remote_address()
            peer_id = PeerId(str(muxed.peer_id))
            peer = self._peers.setdefault(peer_id, Peer(peer_id))
            link = Link(
                connection,
                peer,
                address=str(from_socket(*remote[:2]).of(peer_id)) if remote else "",
                remote=str(from_socket(*remote[:2])) if remote else "",
                host=from_socket(*remote[:2]).host if remote else "",
                kind="relayed" if self._network.is_relayed(muxed) else "direct",
                is_initiator=bool(muxed.is_initiator),
                dialled=self._dials.text_of(muxed),
            )
            self.all[connection] = link
            peer.links.append(link)
            self._start(self._run_link, link)
            enters = self._admission.doors.enter(
                connection,
                peer_id,
                remote[0] if remote else "",
                trio.current_time(),
                dialled=link.is_initiator,
            )
            self._show_out(enters)
        return link

    def _show_out(self, connections: Iterable[Hashable]) -> None:
        """Close links that have no place any more."""
        for connection in connections:
            link = self.all.get(connection)
            if link is not None:
                log.debug("no place for a link to %s", short(link.peer.id))
                self._admission.count(TOO_MANY)
                self.close(link)

    def observations(self) -> Iterator[tuple[str, str]]:
        """Go through where peers see us, each with the IP address of who says so."""
        for link in self.all.values():
            seen = endpoint(link.observed)
            if link.is_good and link.is_initiator and link.host and seen is not None:
                yield seen.host, link.host

    async def _run_link(self, link: Link) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._greet, link)
            await link.connection.event_closed.wait()
            nursery.cancel_scope.cancel()
        self.all.pop(link.connection, None)
        self._admission.doors.leave(link.connection)
        link.peer.links.remove(link)
        self._stop(link)
        self._dials.end_badly(link, "unreachable")
        if not link.peer.links and self._peers.get(link.peer.id) is link.peer:
            del self._peers[link.peer.id]

    async def _greet(self, link: Link) -> None:
        """Say hello; who was dialled does so when it has judged the other's."""
        try:
            stream = await self._network.open_lane(link.connection, CONTROL)
            if stream is None:
                self._dials.end_badly(link, "not a shoal node")
                return
            if not link.is_initiator:
                await link.judged.wait()
            hello = Hello(
                *(WIRE[0], self._swarm, self._instance, link.refusal, WIRE[1], FEATURES),
                observed=link.remote,
                invite=self.invite,
            )
            await stream.write(hello.frame())
        except LinkBroken:
            self.close(link)
            return
        link.control = stream
        link.peer.touch()
        with trio.move_on_after(HELLO_PATIENCE):
            await link.judged.wait()
            return
        self._dials.end_badly(link, "timeout")

    async def _serve_control(self, stream: LaneStream) -> None:
        link = self.link_for(stream.connection)
        if not self._opens(link, CONTROL):
            return
        try:
            await self._read_control(link, stream)
        finally:
            link.lanes[CONTROL] -= 1

    def _opens(self, link: Link, lane: str) -> bool:
        """Count a stream of a lane; False, and the link is cut, where no peer of ours has so many."""
        if link.lanes[lane] >= MAX_LANES:
            self.violate(link, "too many lanes")
            return False
        link.lanes[lane] += 1
        return True

    async def _read_control(self, link: Link, stream: LaneStream) -> None:
        try:
            with trio.fail_after(HELLO_PATIENCE):
                head, _ = await read_frame(stream, CONTROL, MAX_HELLO_BYTES)
            hello = decode_hello(head)
        except (msgspec.MsgspecError, UnicodeDecodeError, RemoteViolation, trio.TooSlowError):
            self.violate(link, "bad hello")
            return
        except LinkBroken:
            return
        link.instance = hello.instance
        link.refusal = await self._judge(link, hello) or self._seat(link, hello)
        link.observed = hello.observed
        link.judged.set()
        if link.refusal:
            await self._refuse(link)
        elif not link.ending:
            self._on_hello(link)
            await self.lanes.read(link, CONTROL, stream)

    def _seat(self, link: Link, hello: Hello) -> str:
        """Give a link whose hello was good its place; return why it has none, or an empty text."""
        is_invited = bool(hello.invite) and self._admission.is_invited(link.peer.id, hello.invite)
        out = self._admission.doors.hello(link.connection, trio.current_time(), is_invited=is_invited)
        self._show_out([each for each in out if each is not link.connection])
        if link.connection in out:
            self._admission.count(TOO_MANY)
            return NO_PLACE
        return ""

    async def _judge(self, link: Link, hello: Hello) -> str:
        """Return why a link cannot be used, or an empty text."""
        if mismatch := hello.mismatch():
            return mismatch
        if hello.refusal:
            return hello.refusal
        if hello.swarm != self._swarm:
            return "wrong swarm"
        if self._admission.is_refused(link.peer.id, trio.current_time()):
            return BANNED
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
        self.close(link)

    def _on_hello(self, link: Link) -> None:
        """Announce the peer, once; a dial that led to it has ended."""
        peer, new = link.peer, not link.peer.found
        if new:
            peer.found = True
            self._start(self.lanes.run_writers, peer, peer.writers)
        if new or link.dialled:
            self._events.put(PeerFound(peer.id, link.dialled, link.kind, link.host))
        self._dials.end_well(link)
        peer.touch()

    async def _serve_bulk(self, stream: LaneStream) -> None:
        link = self.link_for(stream.connection)
        if not self._opens(link, BULK):
            return
        try:
            with trio.move_on_after(HELLO_PATIENCE):
                await link.judged.wait()
            if link.is_good:
                await self.lanes.read(link, BULK, stream)
        finally:
            link.lanes[BULK] -= 1

    def close(self, link: Link) -> None:
        self._stop(link)
        self._start(link.connection.close)

    def _stop(self, link: Link) -> None:
        """Use a link no more; with the last good one the peer is lost."""
        link.stop_using()
        peer = link.peer
        if peer.found and not any(each.is_good for each in peer.links):
            peer.found = False
            peer.stop_writing()
            self._events.put(PeerLost(peer.id))

    def violate(self, link: Link, reason: str) -> None:
        """Count what no correct peer sends, and cut the link it came on."""
        log.info("cutting a link to %s: %s", short(link.peer.id), reason)
        self._admission.count(reason)
        self.close(link)
