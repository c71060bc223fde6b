"""Nearby: addresses that only some peers may know, told on the link and not in a record.

A record is handed on to anybody, so it holds public addresses alone. Those of a machine and of a local
network travel in `Near`, to peers that are on that machine or in that network. Such a peer is told of the
others there, too, as these said it themselves: so the nodes of a machine, or of a local network, find each
other through any of them. What was heard of a third is not told again.
"""

from collections.abc import Iterable
from typing import Final

from shoal.crypto.keys import PeerId
from shoal.gossip.addresses import endpoint
from shoal.gossip.admission.doors import block_of
from shoal.gossip.events import Effects, Send
from shoal.gossip.messages import MAX_NEAR, Near
from shoal.gossip.scope import CIRCUITS, Here, Scope, for_everyone, may_tell

MAX_OWN: Final = 4
"""Addresses of itself that a peer is believed to have near us."""


class Nearby:
    """What one node tells and hears of addresses near it."""

    def __init__(self, me: PeerId) -> None:
        """Know no addresses."""
        self.here = Here()
        self._me = me
        self._own: tuple[str, ...] = ()
        self._hosts: dict[PeerId, str] = {}
        """By linked peer: the other end's IP address; empty on a circuit."""
        self._relayed: set[PeerId] = set()
        """Those that are linked by a circuit."""
        self._said: dict[PeerId, tuple[str, ...]] = {}
        """By linked peer: where it is near us, as it said itself."""
        self._told: dict[PeerId, frozenset[str]] = {}
        """By linked peer: what it has been told."""

    def host_of(self, peer: PeerId) -> str:
        """Return the IP address of a linked peer."""
        return self._hosts.get(peer, "")

    def prefix_of(self, peer: PeerId) -> str:
        """Return the prefix that a linked peer counts to where such are few; empty where it has none.

        It is of the address at which this node sees the peer, not of one that the peer says it has. Addresses
        of a local network have none: a house may have many nodes.
        """
        if peer in self._relayed:
            return CIRCUITS
        host = self._hosts.get(peer, "")
        return block_of(host) if host and self.here.scope(host) is Scope.PUBLIC else ""

    def said_by(self, peer: PeerId) -> tuple[str, ...]:
        """Return where a linked peer is near us, by its own words."""
        return self._said.get(peer, ())

    def set_own(self, addresses: Iterable[str], here: Here) -> tuple[tuple[str, ...], Effects]:
        """Take our addresses; return those that everyone may know, and the others for those who may."""
        self.here = here
        everyone: list[str] = []
        near: list[str] = []
        for address in addresses:
            spot = endpoint(address)
            if spot is not None:
                (everyone if for_everyone(spot, here) else near).append(address)
        self._own = tuple(near)
        return tuple(everyone), [each for peer in self._hosts for each in self._tell(peer, self._own)]

    def link_up(self, peer: PeerId, host: str, *, is_relayed: bool = False) -> Effects:
        """A peer is linked; `host`: the other end's IP address, empty on a circuit."""
        self._hosts[peer] = host
        (self._relayed.add if is_relayed else self._relayed.discard)(peer)
        return self._tell(peer, self._own)

    def link_down(self, peer: PeerId) -> None:
        """A peer is not linked any more."""
        for table in (self._hosts, self._said, self._told):
            table.pop(peer, None)
        self._relayed.discard(peer)

    def take(self, peer: PeerId, message: Near) -> Effects:
        """Hear addresses from a linked peer; return what it and others are told for it."""
        suffix = f"/p2p/{peer}"
        said = tuple(each for each in message.addresses if each.endswith(suffix))[:MAX_OWN]
        if peer not in self._hosts or not said or said == self._said.get(peer):
            return []
        self._said[peer] = said
        others = [each for other, there in self._said.items() if other != peer for each in there]
        effects = self._tell(peer, others)
        for other in self._hosts:
            if other != peer:
                effects += self._tell(other, said)
        return effects

    def _tell(self, peer: PeerId, addresses: Iterable[str]) -> Effects:
        """Tell a peer what of these it may know, and has not been told."""
        host, told = self._hosts[peer], self._told.get(peer, frozenset())
        news = [each for each in addresses if each not in told and self._is_for(each, host)][:MAX_NEAR]
        if not news:
            return []
        self._told[peer] = told | frozenset(news) if len(told) < 4 * MAX_NEAR else frozenset(news)
        return [Send(peer, Near(tuple(news)))]

    def _is_for(self, address: str, host: str) -> bool:
        spot = endpoint(address)
        return spot is not None and may_tell(spot, host, self.here)
