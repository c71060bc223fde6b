"""Mutes: peers that convene no group with this node for some rounds, longer every time."""

from typing import Final

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.marks import MAX_MARKED

ROUNDS: Final = 20
"""For which the first mute of a peer holds; each further one holds twice as long."""
MAX_DOUBLINGS: Final = 5


class Mutes:
    """See the module's docstring."""

    def __init__(self) -> None:
        """Nobody is muted."""
        self._mutes: dict[PeerId, tuple[int, int]] = {}
        """By peer: how often, and before which round it convenes nothing."""

    def add(self, peer: PeerId, round_: int) -> None:
        """Let a peer convene nothing from this round on, for longer than the last time."""
        if peer not in self._mutes and len(self._mutes) >= MAX_MARKED:
            del self._mutes[min(self._mutes, key=lambda each: self._mutes[each][1])]
        count = self._mutes.get(peer, (0, 0))[0]
        self._mutes[peer] = (count + 1, round_ + ROUNDS * 2 ** min(count, MAX_DOUBLINGS))

    def at(self, round_: int) -> frozenset[PeerId]:
        """Return who is muted in a round."""
        return frozenset(peer for peer, (_, until) in self._mutes.items() if round_ < until)

    def excuse(self, peer: PeerId) -> None:
        """End a first mute: there was another reason for what the peer did. A second one stays."""
        if self._mutes.get(peer, (0, 0))[0] == 1:
            self._mutes[peer] = (1, 0)
