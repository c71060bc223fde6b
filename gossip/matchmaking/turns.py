"""Turns: who may convene a group in a round, by the order of one node.

A convener costs a round if it is silent, so it is no stranger that convenes. The order is that of a node
itself:

    a node with colleagues   colleagues, those with the fewest missing links first, then by hash; then others
    a node without any yet   whoever says that it has colleagues, where that is believed, then all others

A newcomer to an old run so lets its old members convene. Anybody can say it, so the word counts only in a run
that is older than the node's part in it, and where more than half of those say it that the user named. Where
none of them is ready, more than half of those must say it that were linked before the round.

Peers that did not keep to a group that they had offered come last for some rounds. Of those that are no
colleagues at most one convenes in a round. While a node has no colleagues, the peers
that its user named and those linked since before the round stand in their place.

Each of two nodes makes a colleague of the other at another moment. One that is nearly a colleague therefore
has two places in the order, and one peer comes before another only where both places say so: `is_before`.
Where the places do not tell, two proposals are compared by ballot and hash, which is the same for all.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import TypeAlias

from shoal.crypto.keys import PeerId
from shoal.gossip.matchmaking.standing import Standing
from shoal.gossip.messages import Ready

Place: TypeAlias = tuple[int, int, bytes]
"""Where a peer stands: colleague or not, how many links it lacks, and its hash."""
Claim: TypeAlias = tuple[int, PeerId]
"""A ballot and its convener."""


def rank(run: bytes, round_: int, peer: PeerId) -> bytes:
    """Return where a peer stands among those that may convene in this round."""
    return blake2b(run + round_.to_bytes(8, "big") + peer.encode(), digest_size=8).digest()


class Turns:
    """The order of one node in one round, and who had its turn. See the module's docstring."""

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
        self.passed: set[PeerId] = set()
        """Did not convene when it was their turn: members still, but others convene."""
        self._others: set[PeerId] = set()
        """Those of whom only one may convene, and that had their turn."""

    # --- the order --------------------------------------------------------------------------------

    def place(self, peer: PeerId) -> Place:
        """Return the better place of a peer."""
        return self._place(peer, self._tiers(peer)[0])

    def is_before(self, one: PeerId, other: PeerId) -> bool:
        """Tell whether a peer comes before another, wherever both may stand."""
        return self._place(one, self._tiers(one)[1]) < self._place(other, self._tiers(other)[0])

    def is_better(self, one: Claim, other: Claim) -> bool:
        """Tell whether a proposal is to be taken rather than another."""
        if one[1] != other[1]:
            if self.is_before(one[1], other[1]):
                return True
            if self.is_before(other[1], one[1]):
                return False
        return self.is_higher(one, other)

    def is_higher(self, one: Claim, other: Claim) -> bool:
        """Tell whether a proposal has the higher ballot, or at the same one the lower hash."""
        return one[0] > other[0] or (one[0] == other[0] and self._rank(one[1]) <= self._rank(other[1]))

    # --- whose turn it is -------------------------------------------------------------------------

    def next_of(self, members: Iterable[PeerId]) -> PeerId | None:
        """Return who of these convenes next; nobody if all had their turn."""
        able = [peer for peer in members if peer not in self.passed and self.may_convene(peer)]
        return min(able, key=self.place, default=None)

    def is_turn_of(self, peer: PeerId, rivals: Iterable[PeerId]) -> bool:
        """Tell whether none of these may convene before a peer."""
        if not self.may_convene(peer):
            return False
        able = (other for other in rivals if other not in self.passed and self.may_convene(other))
        return not any(other != peer and self.is_before(other, peer) for other in able)

    def may_convene(self, peer: PeerId) -> bool:
        """Tell whether a peer may convene in this round at all."""
        return not self._is_other(peer) or self._others <= {peer}

    def pass_over(self, peer: PeerId) -> None:
        """Let others convene: a peer had its turn."""
        self.passed.add(peer)
        self.take(peer)

    def take(self, peer: PeerId) -> None:
        """Take note of a convener that we accepted."""
        if self._is_other(peer):
            self._others.add(peer)

    def forget(self, peer: PeerId) -> None:
        """Let a peer have its turn anew: it was gone."""
        self.passed.discard(peer)
        self._others.discard(peer)

    def is_settled(self, peer: PeerId) -> bool:
        """Tell whether we, who have no colleagues, believe a peer that it has some."""
        standing, ready = self._standing, self._ready
        if standing.colleagues or peer not in ready or not ready[peer].has_colleagues:
            return False
        if peer in standing.nearly:
            return True
        known = ready.keys() - {self._me}
        asked = (standing.named & known) or (standing.linked_before & known)
        return standing.is_run_older and 2 * sum(ready[each].has_colleagues for each in asked) > len(asked)

    # --- inside -----------------------------------------------------------------------------------

    def _is_other(self, peer: PeerId) -> bool:
        standing = self._standing
        return not (peer == self._me or peer in standing.supporters or peer in standing.nearly)

    def _rank(self, peer: PeerId) -> bytes:
        known = self._ranks.get(peer)
        if known is None:
            known = self._ranks[peer] = rank(self._run, self._round, peer)
        return known

    def _tiers(self, peer: PeerId) -> tuple[int, int]:
        standing = self._standing
        if peer in standing.muted:
            return 2, 2
        if standing.colleagues:
            if peer == self._me or peer in standing.colleagues:
                return 0, 0
        elif self.is_settled(peer):
            return 0, 0
        nearly = standing.nearly
        return (0, 1) if peer in nearly or (peer == self._me and nearly) else (1, 1)

    def _place(self, peer: PeerId, tier: int) -> Place:
        # What a stranger says of its links counts only while all are strangers.
        counts = not (tier and self._standing.colleagues)
        return tier, self._ready[peer].unreached if counts else 0, self._rank(peer)
