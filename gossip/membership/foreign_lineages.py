"""ForeignLineages: later states that peers claim and this node does not go by, for its user to see.

A node that has colleagues, or peers that its user named, goes by their states (lineages.py). Others may claim
a later one: whoever made identities up for it does, and so does the other half of a swarm that was split.
Both are worth a word, since nothing else tells why this node does not follow.

A state is foreign where it is later than that of anybody whom the node goes by and is linked with, and none
of those holds it or the one before. Words are late at times, so a state that is one round ahead must be so at
two beats in a row.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.membership.lineages import Basis
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.messages import Record

NOT_FOLLOWED: Final = "claims a later state that nobody holds whom this node goes by"
LOOK_EVERY: Final = 0.5
"""Seconds at least between two looks, however much is told."""
REMEMBERED: Final = 10.0
"""Seconds for which a claim is told: who is ahead of quick rounds is soon behind them."""
MAX_CLAIMS: Final = 1024
MAX_LINEAGES: Final = 8
"""That are told, those of most peers first."""
MAX_NAMED: Final = 8
"""Peers of one that are told by name."""


class ForeignLineage(msgspec.Struct, frozen=True):
    """A state that this node does not follow."""

    round: int
    """The latest that is claimed of it."""
    state: bytes
    n_peers: int
    """How many claim it."""
    peers: tuple[PeerId, ...]
    """Some of them, linked ones first."""


class ForeignLineages:
    """What one node does not follow. See the module's docstring."""

    def __init__(self, view: SwarmView) -> None:
        """Nothing was seen yet."""
        self._view = view
        self._claimed: dict[PeerId, tuple[int, bytes, float]] = {}
        """By peer: the round and the foreign state that it claimed last, and when."""
        self._seen: frozenset[PeerId] = frozenset()
        """Peers that claimed a foreign state at the last beat."""
        self._looked_at = -LOOK_EVERY

    def beat(self, now: float) -> None:
        """Look at what peers claim now."""
        self._look(now)
        # Of several groups one is a round ahead for long; a crowd of made-up peers looks like several.
        self._seen = frozenset(() if self._view.states_differ() else self._claims(now))
        for peer in [peer for peer, each in self._claimed.items() if now > each[2] + REMEMBERED]:
            del self._claimed[peer]

    def heard(self, records: Iterable[Record], now: float) -> None:
        """Look soon where somebody claims what is far ahead: rounds may be shorter than a beat."""
        far = self._view.round + 1
        if now >= self._looked_at + LOOK_EVERY and any(each.presence.round > far for each in records):
            self._look(now)

    def found(self, now: float) -> list[ForeignLineage]:
        """Return what was claimed lately, that of most peers first."""
        counts = Counter(state for _, state, at in self._claimed.values() if now <= at + REMEMBERED)
        return [self._lineage(state, n_peers) for state, n_peers in counts.most_common(MAX_LINEAGES)]

    def _lineage(self, state: bytes, n_peers: int) -> ForeignLineage:
        linked = self._view.table.connected
        peers = sorted((peer for peer, each in self._claimed.items() if each[1] == state))
        peers.sort(key=lambda peer: peer not in linked)
        latest = max(self._claimed[peer][0] for peer in peers)
        return ForeignLineage(latest, state, n_peers, tuple(peers[:MAX_NAMED]))

    def _look(self, now: float) -> None:
        """Take note of what lasts or is far ahead, and name the linked ones among those that claim it."""
        self._looked_at = now
        for peer, (round_, state, ahead) in self._claims(now).items():
            if ahead < 2 and peer not in self._seen:
                continue
            if peer not in self._claimed and len(self._claimed) >= MAX_CLAIMS:
                del self._claimed[next(iter(self._claimed))]
            self._claimed[peer] = (round_, state, now)
            if peer in self._view.table.connected:
                self._view.admission.named_faults.add(peer, NOT_FOLLOWED, now)

    def _claims(self, now: float) -> dict[PeerId, tuple[int, bytes, int]]:
        """Return who claims a foreign state: its round, the state, and how far ahead it is."""
        view = self._view
        others = list(view.table.in_run(view.run)) if view.run and view.state else []
        if not any(entry.presence.round > view.round for _, entry in others) or view.spec is None:
            return {}
        voters = view.voters(now)
        if view.pattern.has_own_states or len(voters.peers) >= view.spec.group_size:
            return {}
        linked = [e.presence for p, e in others if p in voters.peers & view.table.connected]
        if voters.basis not in (Basis.COLLEAGUES, Basis.NAMED) or not linked:
            return {}
        top = max(view.round, *(each.round for each in linked))
        held = {view.state, *(each.state for each in linked)}
        touched = held | {view.previous, *(each.previous for each in linked)}
        found = {}
        for peer, entry in others:
            said = entry.presence
            is_ours = peer in voters.peers or said.state in touched or said.previous in held
            if said.has_finished_round and said.state and said.round > top and not is_ours:
                found[peer] = (said.round, said.state, said.round - top)
        return found
