"""Standing: what a node knows of its peers before it seeks a group, and how many newcomers it averages with.

In an open run a peer with few rounds behind it is a newcomer: it gets one of few seats, reduces no part of
the vector, and counts for no quorum. A convener goes by its own count and says so in the proposal. Members
go by theirs, which differ by some rounds. They decline only what cannot come of that: a colleague that is
called a newcomer, or a peer that is called none though it has not half the rounds, at a node that was there
all the time.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Final

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.scope import CIRCUITS

MAX_OF_A_PREFIX: Final = 2
"""Newcomers in a group whose addresses have one prefix."""


class Standing(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What a node knows of its peers before a search."""

    colleagues: frozenset[PeerId] = frozenset()
    nearly: frozenset[PeerId] = frozenset()
    """Peers that are no colleagues by our count, and may be by that of others."""
    halfway: frozenset[PeerId] = frozenset()
    """Peers with half of what makes a colleague, and more."""
    named: frozenset[PeerId] = frozenset()
    """Peers that the user named."""
    linked_before: frozenset[PeerId] = frozenset()
    """Peers linked since before the round."""
    muted: frozenset[PeerId] = frozenset()
    """Peers that offered groups and did not keep to them: they convene no group with us for a while."""
    has_watched: bool = False
    """Whether we took part in as many rounds on end as make a colleague: so we know who else did."""
    is_run_older: bool = False
    """Whether the run has rounds enough behind it to make colleagues, and we were not in all of them."""
    prefixes: Mapping[PeerId, str] = {}
    """By newcomer, the prefix of the public address at which we see it."""

    @cached_property
    def supporters(self) -> frozenset[PeerId]:
        """The colleagues, or those that stand in their place."""
        return self.colleagues or self.named | self.linked_before

    def is_newcomer(self, peer: PeerId) -> bool:
        """Tell whether a peer other than this node is a newcomer, by its own count."""
        return bool(self.colleagues) and peer not in self.colleagues and peer not in self.nearly

    def is_plausible(self, members: Iterable[PeerId], newcomers: frozenset[PeerId]) -> bool:
        """Tell whether another node may well count these, and no others, as newcomers; without ourselves."""
        if newcomers & self.colleagues:
            return False
        if not (self.colleagues and self.has_watched):
            return True
        return set(members) - newcomers <= self.colleagues | self.halfway

    def are_spread(self, newcomers: Iterable[PeerId]) -> bool:
        """Tell whether no more of these are of one prefix than may be, at addresses of theirs that we see.

        Those that reach us through a relay have none here, and may have one where the convener is.
        """
        prefixes = Counter(self.prefixes.get(peer, "") for peer in newcomers)
        return all(
            count <= MAX_OF_A_PREFIX for prefix, count in prefixes.items() if prefix not in ("", CIRCUITS)
        )


def seats(n_members: int) -> int:
    """Return how many newcomers may be in a group beside so many others: a quarter of all, at least one."""
    return max(1, n_members // 3)


def seated(newcomers: Iterable[PeerId], n_others: int, standing: Standing) -> frozenset[PeerId]:
    """Return which newcomers get a seat, of those in the order given."""
    found: list[PeerId] = []
    prefixes: Counter[str] = Counter()
    for peer in newcomers:
        prefix = standing.prefixes.get(peer, "")
        if len(found) < seats(n_others) and not (prefix and prefixes[prefix] >= MAX_OF_A_PREFIX):
            found.append(peer)
            prefixes[prefix] += 1
    return frozenset(found)
