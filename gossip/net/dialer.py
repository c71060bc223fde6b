"""Dials: from an address as somebody wrote it to a link, or to a word about why there is none.

    text --parse--> address --known already?--> PeerFound
                       `--connect, handshake--> hello --> PeerFound or DialFailed
                               `--> DialFailed

Every dial ends in exactly one of the two events, with the text it was given. The addresses that led
to a peer are remembered, so that a frame for a peer without a link can bring it back.
"""

import logging
from collections import OrderedDict
from typing import Any, Final

import trio

from shoal.crypto.keys import PeerId
from shoal.gossip.addresses import Address, BadAddress, parse
from shoal.gossip.admission.admission import Admission
from shoal.gossip.events import OWN_ADDRESS, SAME_IDENTITY, TOO_MANY, DialFailed, PeerFound
from shoal.gossip.net.connecting.handshakes import DialFault
from shoal.gossip.net.libp2p_node import Network
from shoal.gossip.net.peers import Events, Link, Peer
from shoal.gossip.scope import USER, Teller

log = logging.getLogger(__name__)

REST: Final = 1.0
"""Seconds for which a peer that could not be dialled is not dialled again for a frame."""
MAX_BOOK: Final = 4096
"""Peers whose last address is remembered."""


class Dials:
    """The dials of a host."""

    def __init__(
        self,
        network: Network,
        events: Events,
        peers: dict[PeerId, Peer],
        *,
        me: PeerId,
        admission: Admission,
    ) -> None:
        """`peers`: the host's, in which peers are entered for whom frames wait."""
        network.inbound.on_own_identity = self._on_own_identity
        self._network = network
        self._events = events
        self._peers = peers
        self._me = me
        self._admission = admission
        self._under_way: set[str] = set()
        self._links_to_come: dict[Any, str] = {}
        self._book: OrderedDict[PeerId, str] = OrderedDict()
        self._rest: dict[PeerId, float] = {}

    def begin(self, text: str) -> bool:
        """Take note of a dial; False if the same one is under way."""
        if text in self._under_way:
            return False
        self._under_way.add(text)
        return True

    async def run(self, text: str, teller: Teller = USER) -> None:
        """Carry out a dial that has begun."""
        try:
            reason = await self._dial(text, parse(text), teller)
        except BadAddress:
            reason = "not a multiaddr"
        finally:
            self._under_way.discard(text)
        if reason:
            self._events.put(DialFailed(text, reason))
        for peer in [each for each in self._peers.values() if each.wanted == text]:
            peer.wanted = ""
            if not peer.links:
                del self._peers[peer.id]
                self._rest[peer.id] = trio.current_time() + REST

    async def _dial(self, text: str, address: Address, teller: Teller) -> str:
        """Return why it failed, or an empty text while the hello is still to come."""
        if address.peer == self._me:
            return OWN_ADDRESS
        if address.peer is not None and self._end_at_known(address.peer, text):
            return ""
        if not self._admission.doors.may_dial(address.peer):
            return TOO_MANY

        made: list[Any] = []

        def on_secured(muxed: Any, peer: PeerId) -> bool:
            if self._end_at_known(peer, text):
                return False
            self._links_to_come[muxed] = text
            made.append(muxed)
            return True

        try:
            await self._network.dial(address, on_secured, teller)
        except DialFault as fault:
            return fault.reason
        finally:
            for muxed in made:  # still there if it ended before it became a link
                self._links_to_come.pop(muxed, None)
        return ""

    def _end_at_known(self, peer: PeerId, text: str) -> bool:
        """End a dial that leads to whom we are linked with already."""
        entry = self._peers.get(peer)
        link = entry.best_link() if entry is not None and entry.found else None
        if link is None:
            return False
        self._remember(peer, text)
        self._events.put(PeerFound(peer, text, link.kind, link.host))
        return True

    def text_of(self, muxed: Any) -> str:
        """Return the address whose dial made this connection, once; empty for others'."""
        return self._links_to_come.pop(muxed, "")

    def end_well(self, link: Link) -> None:
        """The peer's hello was right."""
        if link.dialled:
            self._remember(link.peer.id, link.dialled)
            link.dialled = ""

    def end_badly(self, link: Link, reason: str) -> None:
        """The link is of no use; if a dial made it, that has failed."""
        if link.dialled:
            self._events.put(DialFailed(link.dialled, reason))
            link.dialled = ""

    def address_for(self, peer: PeerId) -> str:
        """Return where a peer was reached before; empty if nowhere, or if it has just failed."""
        if self._rest.get(peer, 0.0) > trio.current_time():
            return ""
        return self._book.get(peer, "")

    def _remember(self, peer: PeerId, address: str) -> None:
        self._book[peer] = address
        self._book.move_to_end(peer)
        while len(self._book) > MAX_BOOK:
            self._rest.pop(self._book.popitem(last=False)[0], None)

    def _on_own_identity(self, address: Address | None) -> None:
        log.warning("a node with our identity dialled us from %s", address)
        self._events.put(DialFailed(str(address or ""), SAME_IDENTITY))
