"""Named faults: what peers did that no correct peer does, for the person who runs this node to see."""

from typing import Final

import msgspec

from shoal.crypto.keys import PeerId

MAX_NAMED: Final = 64
"""Peers and reasons that are remembered; the one seen longest ago goes first."""


class NamedFault(msgspec.Struct, frozen=True):
    """One kind of fault of one peer."""

    peer: PeerId
    reason: str
    count: int
    last: float
    """When it was last seen, by the node's clock."""


class NamedFaults:
    """See the module's docstring."""

    def __init__(self) -> None:
        """Nobody did anything."""
        self._faults: dict[tuple[PeerId, str], NamedFault] = {}

    def add(self, peer: PeerId, reason: str, now: float) -> int:
        """Take note of a fault; `reason`: one of few, in plain words. Returns how often it was seen."""
        known = self._faults.pop((peer, reason), None)
        count = known.count + 1 if known is not None else 1
        if len(self._faults) >= MAX_NAMED:
            del self._faults[next(iter(self._faults))]
        self._faults[peer, reason] = NamedFault(peer, reason, count, now)
        return count

    def newest_first(self) -> list[NamedFault]:
        """Return all, the one seen last first."""
        return list(self._faults.values())[::-1]
