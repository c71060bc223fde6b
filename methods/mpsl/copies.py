"""Copies: a stage's params among the peers that hold them, and how two of these come to one mean.

Each counts by the rows that it has learned from since the two last agreed. A change longer than twice our
own, or of more rows than twice ours, is cut to that: a host of noise moves the mean no further.
"""

from typing import TYPE_CHECKING, Final

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Vector
from shoal.methods.mpsl.tokens import Array
from shoal.methods.mpsl.wire import CHUNK

if TYPE_CHECKING:
    from shoal.methods.mpsl.sides import HostSide

MOST_GIVERS: Final = 8
"""Peers whose params are held at once."""
REACH: Final = 2.0
LARGEST: Final = 1e15
"""No weight of a body is larger: squares of such numbers can still be added up."""


class Copies:
    """See the module's docstring."""

    def __init__(self, side: "HostSide", every: int) -> None:
        """`side`: whose params these are. `every`: steps between two averagings."""
        self._side, self._every = side, every
        self.rows = 0.0
        """Rows that these params have learned from, those that were merged included."""
        self.passes = 0
        """Steps since the last averaging."""
        self.averaged = 0
        self.shortened = 0
        """Changes that were longer than an honest host's."""
        self._seen: dict[PeerId, float] = {}
        self._base, self._reach = side.vector(), 0.0
        self._has_news = False
        self._arriving: dict[PeerId, dict[int, Array]] = {}
        self._leaving: dict[PeerId, Vector] = {}

    @property
    def n_chunks(self) -> int:
        """In how many calls the params travel."""
        return -(-self._side.numel // CHUNK)

    @property
    def is_due(self) -> bool:
        """Whether others should hear of these params."""
        return self._has_news or self.passes >= self._every

    def begin(self) -> None:
        """Note that others hear of them now."""
        self._has_news, self.passes = False, 0

    def since(self, peer: PeerId) -> float:
        """Return the rows since the last averaging with a peer."""
        return self.rows - self._seen.get(peer, 0.0)

    def chunk(self, index: int, vector: Vector) -> Array:
        """Return a piece of a vector."""
        return vector[index * CHUNK : (index + 1) * CHUNK]

    def arrive(self, peer: PeerId, index: int, rows: float, piece: Array) -> bool:
        """Hold a piece of a peer's params; merge when all are there. Tells whether it fits."""
        fits = 0 <= index < self.n_chunks and rows >= 0 and abs(piece).max(initial=0.0) <= LARGEST
        if not fits or piece.size != self.chunk(index, self._base).size:
            return False
        if index == 0 or peer not in self._arriving:
            self._arriving[peer] = {}
            while len(self._arriving) > MOST_GIVERS:
                del self._arriving[next(iter(self._arriving))]
        pieces = self._arriving[peer]
        pieces[index] = piece
        if len(pieces) == self.n_chunks:
            del self._arriving[peer]
            self._merge(peer, np.concatenate([pieces[i] for i in range(self.n_chunks)]), rows)
        return True

    def leave(self, peer: PeerId, index: int) -> Array | None:
        """Return a piece of the params: as they were when the peer asked for the first, or agreed with us."""
        if not 0 <= index < self.n_chunks:
            return None
        if peer not in self._leaving:
            self._leaving[peer] = self._side.vector()
            while len(self._leaving) > MOST_GIVERS:
                del self._leaving[next(iter(self._leaving))]
        found = self.chunk(index, self._leaving[peer])
        if index == self.n_chunks - 1:
            del self._leaving[peer]
        return found

    def settle(self, peer: PeerId, agreed: Vector) -> None:
        """Note that a peer and we hold these params."""
        self._seen[peer] = self.rows
        self._base = agreed.copy()
        self.averaged += 1

    def _merge(self, peer: PeerId, theirs: Vector, rows: float) -> None:
        """Go to the mean of ours and theirs."""
        own, mine = self._side.vector(), self.since(peer)
        change = theirs - own
        if mine > 0:
            rows = min(rows, REACH * mine)
            self._reach = float(np.linalg.norm(own - self._base)) or self._reach
            length = float(np.linalg.norm(change))
            if length > REACH * self._reach:
                self.shortened += 1
                change *= np.float32(REACH * self._reach / length)
        merged = own + np.float32(rows / (rows + mine) if rows + mine > 0 else 0.0) * change
        self._side.load(merged)
        self.rows += rows
        self.settle(peer, merged)
        self._leaving[peer], self._has_news = merged, True
