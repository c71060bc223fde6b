"""Doubts: who may have voided a secure sum, and whom a member leaves out of the next ones for it.

Of a sum under masks that opens to nonsense nobody can tell who gave the nonsense: each gave words that are
uniform. But a sum without that member opens. So after such a sum all that were in it leave a third of the
group out, drawn anew for each attempt by what all members know. A member that was in every void sum, and in
none that opened, is suspected. One that is suspected alone is left out in place of the third.

When two sums have opened, all take part again. If that is void, it takes four the next time, and so on: a
member that goes on costs ever fewer rounds, and one that stops is back soon. Nobody proves anything by a
suspicion: a member that gives nonsense whenever another takes part has all suspect that other.
"""

from collections.abc import Collection
from hashlib import blake2b
from typing import Final

from shoal.crypto.keys import PeerId
from shoal.crypto.masking import LEAST, threshold_of
from shoal.gossip.group import Group

FIRST: Final = 2
"""Sums that have to open without some members before all take part again."""
MOST: Final = 64
"""The same after many sums that were void with all."""


class Doubts:
    """What one node has seen of secure sums. See the module's docstring."""

    def __init__(self) -> None:
        """Doubt nobody."""
        self.suspects: frozenset[PeerId] = frozenset()
        """Members of every void sum of late that were in none that opened."""
        self._left, self._next = 0, FIRST
        self._missed: tuple[int, frozenset[PeerId]] | None = None

    @property
    def suspect(self) -> PeerId | None:
        """The one that is suspected alone."""
        return next(iter(self.suspects)) if len(self.suspects) == 1 else None

    def unwanted(self, group: Group) -> frozenset[PeerId]:
        """Return whom this node would leave out of a sum of a group: a third at most, and never too many."""
        if self._missed is not None:
            round_, others = self._missed
            self._missed = None
            if group.round > round_:
                # The round ended, and it began without this node.
                self.opened(others)
        most = len(group.members) - threshold_of(len(group.members))
        if not self._left or most < 1 or len(group.members) <= LEAST:
            return frozenset()
        if self.suspect is not None:
            return self.suspects & set(group.members)
        return frozenset(sorted(group.members, key=lambda peer: _draw(group.id, peer))[:most])

    def opened(self, contributors: Collection[PeerId]) -> None:
        """Clear who was in a sum that opened."""
        self.suspects -= set(contributors)
        if self._left:
            self._left -= 1
        else:
            # All took part.
            self._next = FIRST

    def void(self, contributors: Collection[PeerId]) -> None:
        """Suspect who was in a sum that opened to nonsense, and in those before."""
        self.suspects = self.suspects & set(contributors) or frozenset(contributors)
        if not self._left:
            self._left, self._next = self._next, min(2 * self._next, MOST)

    def missed(self, round_: int, others: Collection[PeerId]) -> None:
        """Take note that `others` left this node out: whether their sum opens is seen by the next round."""
        self._missed = (round_, frozenset(others))


def _draw(group: bytes, peer: PeerId) -> bytes:
    return blake2b(peer.encode(), key=group, digest_size=16, person=b"shoal/doubts").digest()
