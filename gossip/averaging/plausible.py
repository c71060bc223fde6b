"""Plausible: how much of what another pushes counts, where all average pairwise.

Mass that is given is not announced to anybody but its receiver. All that this one can go by is what it
brought in itself, and how much of what it holds that giver brought. More than is plausible is lost, which
costs that giver's word some weight and moves no estimate.

What newcomers give is moreover clipped around our own estimate, to the distance that what our colleagues gave
had from it: so whoever goes on pushing draws it no farther than one of them would, and never far at once.
(He, Karimireddy, Jaggi, "Byzantine-Robust Decentralized Learning via Self-Centered Clipping", 2022,
https://arxiv.org/abs/2202.01545, section 4.)
"""

from collections import OrderedDict, deque
from math import isfinite
from typing import Final

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.bounds import lower_median

OWN_SHARES: Final = 4.0
"""Times our own weight that we may hold of one giver, and half of that for each link: where few are linked to
many these hold the mass of all."""
NEWCOMERS: Final = 0.25
"""Times our own weight that all who are no colleagues may bring us together, beyond what we gave them."""
LONGEST: Final = 8.0
"""Times the length of our own estimate that another's may have."""
MAX_ACCOUNTS: Final = 1024
MAX_DISTANCES: Final = 8
"""Of the last chunks of colleagues by whose distance a newcomer's is clipped."""


def plausible_share(n_linked: int) -> float:
    """Return how many times our own weight one giver's may be, where we are linked with so many."""
    return OWN_SHARES + 2.0 * n_linked


class Accounts:
    """How much of what we hold each peer brought; see the module's docstring."""

    def __init__(self) -> None:
        """Start with none."""
        self.strangers: frozenset[PeerId] = frozenset()
        """Linked peers that are no colleagues, where there are some."""
        self._held: OrderedDict[PeerId, float] = OrderedDict()
        self._owed: OrderedDict[PeerId, float] = OrderedDict()
        """By peer: the mass it brought us, less what we gave it."""
        self._distances: dict[int, deque[float]] = {}

    def halve(self) -> None:
        """We gave half of all that we hold away."""
        for peer in self._held:
            self._held[peer] /= 2

    def gave(self, peer: PeerId, weight: float) -> None:
        """We gave a peer so much, or took it back where it is negative."""
        self._owed[peer] = self._owed.get(peer, 0.0) - weight
        _touch(self._owed, peer)

    def take(self, peer: PeerId, weight: float, share: float, n_linked: int) -> float:
        """Return how much of a weight counts, and note it; `share`: our own."""
        if peer in self.strangers:
            most = self._room(peer, share)
        else:
            most = share * plausible_share(n_linked) - self._held.get(peer, 0.0)
        counted = min(weight, max(0.0, most))
        self._held[peer] = self._held.get(peer, 0.0) + counted
        _touch(self._held, peer)
        self.gave(peer, -counted)
        return counted

    def _room(self, peer: PeerId, share: float) -> float:
        """Return what a newcomer may bring: what we gave it, and what is left of what all may bring anew."""
        anew = sum(max(0.0, self._owed.get(each, 0.0)) for each in self.strangers)
        return max(0.0, -self._owed.get(peer, 0.0)) + max(0.0, NEWCOMERS * share - anew)

    def reach(self, peer: PeerId, chunk: int, distance: float) -> float:
        """Return how far from our estimate a chunk of a peer may be, which is so far from it."""
        known = self._distances.setdefault(chunk, deque(maxlen=MAX_DISTANCES))
        if peer not in self.strangers:
            if isfinite(distance):
                known.append(distance)
            return distance
        return min(distance, lower_median(known)) if known else 0.0


def _touch(account: "OrderedDict[PeerId, float]", peer: PeerId) -> None:
    account.move_to_end(peer)
    if len(account) > MAX_ACCOUNTS:
        account.popitem(last=False)
