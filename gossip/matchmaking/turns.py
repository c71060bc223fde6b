"""Turns: who may convene a group in a round, by the order of one node.

A convener costs a round if it is silent, so it is no stranger that convenes. The order is that of a node
itself:

    a node with colleagues   colleagues, those with the fewest missing links first, then by hash; then others
    a node without any yet   whoever says that it has colleagues, then all others, in the same way

Of those that are no colleagues at most one convenes in a round. While a node has no colleagues, the peers
that its user named and those linked since before the round stand in their place.

Each of two nodes makes a colleague of the other at another moment. One that is nearly a colleague therefore
has two places in the order, and one peer comes before another only where both places say so: `is_before`.
Where the places do not tell, two proposals are compared by ballot and hash, which is the same for all.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from typing import TypeAlias

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.messages import Ready

Place: TypeAlias = tuple[int, int, bytes]
"""Where a peer stands: colleague or not, how many links it lacks, and its hash."""


def rank(run: bytes, round_: int, peer: PeerId) -> bytes:
    """Return where a peer stands among those that may convene in this round."""
    return blake2b(run + round_.to_bytes(8, "big") + peer.encode(), digest_size=8).digest()


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What a node knows of its peers before a search."""

    colleagues: frozenset[PeerId] = frozenset()
    nearly: frozenset[PeerId] = frozenset()
    """Colleagues within a few rounds, or those that count us among theirs for a few rounds already."""
    named: frozenset[PeerId] = frozenset()
    """Peers that the user named."""
    linked_before: frozenset[PeerId] = frozenset()
    """Peers linked since before the round."""
    muted: frozenset[PeerId] = frozenset()
    """Peers that offered groups and did not keep to them: they convene no group with us for a while."""

    @property
    def supporters(self) -> frozenset[PeerId]:
        """Return the colleagues, or those that stand in their place."""
        return self.colleagues or self.named | self.linked_before


class Turns:
    """The order of one node in one round. See the module's docstring."""

    def __init__(
        self,
        me: PeerId,
        run: bytes,
        round_: int,
        standing: Standing,
        ready: Mapping[PeerId, Ready],
    ) -> None:
        """`ready`: what those say that are ready, as it grows."""
        self._me, self._run, self._round = me, run, round_
        self._standing, self._ready = standing, ready
        self._ranks: dict[PeerId, bytes] = {}

    def place(self, peer: PeerId) -> Place:
        """Return the better place of a peer."""
        return self._place(peer, self._tiers(peer)[0])

    def is_before(self, one: PeerId, other: PeerId) -> bool:
        """Tell whether a peer comes before another, wherever both may stand."""
        return self._place(one, self._tiers(one)[1]) < self._place(other, self._tiers(other)[0])

    def is_other(self, peer: PeerId) -> bool:
        """Tell whether a peer is one of those of whom only one convenes in a round."""
        standing = self._standing
        return peer not in (standing.supporters | standing.nearly) and peer != self._me

    def rank(self, peer: PeerId) -> bytes:
        """Return the hash of a peer in this round."""
        known = self._ranks.get(peer)
        if known is None:
            known = self._ranks[peer] = rank(self._run, self._round, peer)
        return known

    def _tiers(self, peer: PeerId) -> tuple[int, int]:
        standing = self._standing
        if standing.colleagues:
            if peer == self._me or peer in standing.colleagues:
                return 0, 0
        elif self._ready[peer].has_colleagues:
            return 0, 0
        nearly = standing.nearly
        return (0, 1) if peer in nearly or (peer == self._me and nearly) else (1, 1)

    def _place(self, peer: PeerId, tier: int) -> Place:
        # What a stranger says of its links counts only while all are strangers.
        counts = not (tier and self._standing.colleagues)
        return tier, self._ready[peer].unreached if counts else 0, self.rank(peer)


def leaves_out_most(
    members: AbstractSet[PeerId], supporters: AbstractSet[PeerId], ready: AbstractSet[PeerId]
) -> bool:
    """Tell whether a group leaves out more than half of the supporters that are ready."""
    held = supporters & ready
    return 2 * len(held - members) > len(held)
