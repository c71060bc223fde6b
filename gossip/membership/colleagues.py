"""Colleagues: with whom this node has averaged for long enough to go by what they say.

A new key costs nothing, so how many peers say something tells nothing. What costs an outsider is time: a
colleague is a peer that stood in enough finished rounds of this node, over a long enough time. Where the run
has a roster, its members are the colleagues instead.

    a round finished with a peer --> known --`least_rounds` over `least_seconds`--> colleague

A node that has none yet goes by the peers that its user named, with --join or an invite. How that decides
about states is in lineages.py.
"""

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from shoal.crypto.keys import PeerId

LEAST_ROUNDS: Final = 20
LEAST_SECONDS: Final = 600.0
NEARLY: Final = 0.75
"""Of both, from which on a peer may be a colleague by another node's count."""
HALFWAY: Final = 0.5
"""Of both, below which it is none by anybody's count, of nodes that average in one group."""
MAX_KNOWN: Final = 1024
"""Peers that are remembered. Those with the fewest rounds go first, and colleagues last."""


class Acquaintance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node remembers of a peer with which it finished rounds."""

    peer: PeerId
    rounds: Annotated[int, msgspec.Meta(ge=0)]
    """Finished together."""
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    """From the first of them to the last; while the node was down no time counts."""
    last: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The last round finished together, from 1."""


class Colleagues:
    """With whom one node has averaged in its run. See the module's docstring."""

    def __init__(
        self, me: PeerId, least_rounds: int = LEAST_ROUNDS, least_seconds: float = LEAST_SECONDS
    ) -> None:
        """Both must be reached; seconds of the node's own clock."""
        self._me = me
        self._least_rounds, self._least_seconds = least_rounds, least_seconds
        self.named: frozenset[PeerId] = frozenset()
        """The peers that the user named: by --join, by an invite, or by an address at which they answered."""
        self.roster: frozenset[PeerId] | None = None
        """The members of the run, where it has a roster."""
        self._known: dict[PeerId, tuple[int, float, int]] = {}
        """By peer: rounds, seconds, and the last of the rounds. The last one met is the last."""
        self._met_at: dict[PeerId, float] = {}
        """When the last round together ended, in this life of the node."""
        self._colleagues: frozenset[PeerId] = frozenset()

    def colleagues(self) -> frozenset[PeerId]:
        """Return the peers whose word on the run's state counts, without this node."""
        return self._colleagues if self.roster is None else self.roster - {self._me}

    def nearly(self) -> frozenset[PeerId]:
        """Return the peers that are no colleagues yet by our count, and may be so by that of others."""
        return self._from(NEARLY)

    def halfway(self) -> frozenset[PeerId]:
        """Return the peers that are no colleagues yet, and have half of what makes one."""
        return self._from(HALFWAY)

    def has_watched(self, rounds: int) -> bool:
        """Tell whether a node that made so many rounds on end knows who else took part."""
        return self.may_have_made_some(rounds)

    def may_have_made_some(self, rounds: int) -> bool:
        """Tell whether so many rounds of a run are enough to make colleagues of those that were in all."""
        return rounds >= self._least_rounds

    def _from(self, share: float) -> frozenset[PeerId]:
        if self.roster is not None:
            return frozenset()
        rounds, seconds = share * self._least_rounds, share * self._least_seconds
        near = {peer for peer, each in self._known.items() if each[0] >= rounds and each[1] >= seconds}
        return frozenset(near - self._colleagues)

    def rounds_with(self, peer: PeerId) -> int:
        """Return how many rounds this node has finished with a peer."""
        return self._known.get(peer, (0, 0.0, 0))[0]

    def last_round_with(self, peers: Iterable[PeerId]) -> int:
        """Return the last round that this node finished with any of these; 0 if there is none."""
        return max((self._known[peer][2] for peer in peers if peer in self._known), default=0)

    def note_round(self, members: Iterable[PeerId], now: float, round_: int = 0) -> None:
        """Take note of a finished round; `members`: whose contribution is in its mean; `round_`: from 1."""
        for peer in sorted(set(members) - {self._me}):
            rounds, seconds, _ = self._known.pop(peer, (0, 0.0, 0))
            seconds += max(0.0, now - self._met_at.get(peer, now))
            self._known[peer], self._met_at[peer] = (rounds + 1, seconds, round_), now
            if self._is_colleague(peer):
                self._colleagues |= {peer}
        while len(self._known) > MAX_KNOWN:
            self._forget(min(self._known, key=lambda each: (each in self._colleagues, self._known[each][0])))

    def known(self) -> tuple[Acquaintance, ...]:
        """Return what is worth keeping over a restart, the one met last at the end."""
        return tuple(Acquaintance(peer, *each) for peer, each in self._known.items())

    def restore(self, known: Iterable[Acquaintance]) -> None:
        """Begin with what was kept of this run."""
        last = list(known)[-MAX_KNOWN:]
        self._known = {each.peer: (each.rounds, each.seconds, each.last) for each in last}
        self._met_at = {}
        self._colleagues = frozenset(filter(self._is_colleague, self._known))

    def _is_colleague(self, peer: PeerId) -> bool:
        rounds, seconds, _ = self._known[peer]
        return rounds >= self._least_rounds and seconds >= self._least_seconds

    def _forget(self, peer: PeerId) -> None:
        del self._known[peer]
        self._met_at.pop(peer, None)
        self._colleagues -= {peer}
