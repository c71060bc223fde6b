"""Plausible: how much of what another pushes counts, where all average pairwise.

Mass that is given is not announced to anybody but its receiver. All that this one can go by is what it
brought in itself, and how much of what it holds that giver brought. More than is plausible is lost, which
costs that giver's word some weight and moves no estimate.
"""

from collections import OrderedDict
from typing import Final

from shoal.crypto.keys import PeerId

OWN_SHARES: Final = 4.0
"""Times our own weight that we may hold of one giver, and half of that for each link: where few are linked to
many these hold the mass of all."""
NEWCOMER: Final = 0.25
"""Times our own weight, of a giver that is no colleague though we have some."""
LONGEST: Final = 8.0
"""Times the length of our own estimate that another's may have."""
MAX_ACCOUNTS: Final = 1024


class Accounts:
    """How much of what we hold each peer brought; see the module's docstring."""

    def __init__(self) -> None:
        """Start with none."""
        self.strangers: frozenset[PeerId] = frozenset()
        """Linked peers that are no colleagues, where there are some."""
        self._held: OrderedDict[PeerId, float] = OrderedDict()

    def halve(self) -> None:
        """We gave half of all that we hold away."""
        for peer in self._held:
            self._held[peer] /= 2

    def take(self, peer: PeerId, weight: float, share: float, n_linked: int) -> float:
        """Return how much of a weight counts, and note it; `share`: our own."""
        most = share * (NEWCOMER if peer in self.strangers else OWN_SHARES + 2.0 * n_linked)
        counted = min(weight, max(0.0, most - self._held.get(peer, 0.0)))
        self._held[peer] = self._held.get(peer, 0.0) + counted
        self._held.move_to_end(peer)
        if len(self._held) > MAX_ACCOUNTS:
            self._held.popitem(last=False)
        return counted
