"""Doubts: peers that this node does not believe for a while, and states that it does not go by."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.marks import Marks

MAX_DOUBLINGS: Final = 7
"""How often the time doubles for which a peer is not believed."""
MAX_REFUSED: Final = 64
"""States that are remembered as refused."""


class Doubts:
    """The doubts of one node."""

    def __init__(self) -> None:
        """Doubt nobody."""
        self._distrusted = Marks(MAX_DOUBLINGS)
        self._refused: OrderedDict[bytes, None] = OrderedDict()

    def distrust(self, peer: PeerId, now: float) -> None:
        """Do not go by a peer for a while: it did not give the state it claims, or gave one of no use."""
        self._distrusted.add(peer, now)

    def trust(self, peer: PeerId) -> None:
        """Believe a peer again: it gave what it claimed."""
        self._distrusted.forget(peer)

    def refuse(self, state: bytes, holders: Iterable[PeerId], now: float) -> None:
        """Do not go by a state any more, nor for a while by those that hold it."""
        self._refused[state] = None
        while len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)
        for peer in holders:
            self.distrust(peer, now)

    def are_about(self, peer: PeerId, state: bytes, now: float) -> bool:
        """Tell whether a peer that names this state is not gone by."""
        return state in self._refused or self._distrusted.has(peer, now)
