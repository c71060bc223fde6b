"""Patterns of exchange: how the peers of a run average, and what the rest of a node must know of that.

    group       each round the peers of a group take one mean, and end with one state
    pairwise    each round a peer gives to some neighbours (push-sum), and keeps a state of its own; only the
                last round of the run is averaged in groups

A new one is a name and a line here, and the exchange that it needs in `shoal.gossip.averaging`.
"""

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Pattern:
    """What follows from how a run averages."""

    has_own_states: bool = False
    """Every peer has a state of its own, and none of them is wrong."""
    max_lag: int = 0
    """Rounds by which a peer with a state of its own may be behind the others, before it fetches one."""

    def is_in_group(self, *, is_last: bool) -> bool:
        """Tell whether a round is averaged in a group; `is_last`: it is the last of the run."""
        return is_last or not self.has_own_states

    def group_size(self, wanted: int, *, is_last: bool) -> int:
        """Return how many peers a group takes; of a group of one all that counts is who is ready."""
        return wanted if self.is_in_group(is_last=is_last) else 1

    def waits_for(self, behind: int, *, is_last: bool) -> bool:
        """Tell whether a peer so many rounds behind is waited for: no state tells that it comes."""
        return self.has_own_states and behind > 0 and (is_last or behind == 1)


PatternName = Literal["group", "pairwise"]
PATTERNS: Final[dict[PatternName, Pattern]] = {
    "group": Pattern(),
    "pairwise": Pattern(has_own_states=True, max_lag=2),
}
"""By `exchange` of a run spec."""
