"""WordSum: the all-reduce of one group, of 64-bit words that are added modulo 2^64.

What is given and what comes of it means nothing to who sees it, so that nothing of it is checked here. All
chunks of a part come to the same contributors: a part is opened as a whole (crypto/masking.py). So its owner
adds nothing before it has every chunk of a part.
"""

from typing import ClassVar

import numpy as np

from shoal.gossip.averaging.all_reduce import AllReduce
from shoal.gossip.buffers import BUFFERS
from shoal.gossip.events import Effects, Vector


class WordSum(AllReduce):
    """See the module's docstring. The vector is float32 [2 n] and holds n words, little endian."""

    GRAIN: ClassVar[int] = 2

    def _mean_alike(self, vectors: list[Vector]) -> Vector:
        total = np.frombuffer(BUFFERS.take(vectors[0].nbytes), np.uint64)
        np.copyto(total, vectors[0].view(np.uint64))
        for vector in vectors[1:]:
            total += vector.view(np.uint64)
        return total.view(np.float32)

    def _is_sane(self, numbers: Vector, slack: float = 1.0) -> bool:
        return True

    def _reduce_if_complete(self, part: int, chunk: int, now: float) -> Effects:
        chunks = self._open.get(part, {})
        if any(self._unanswered(held) for held in chunks.values()):
            return []
        if not any(held.means for held in chunks.values()):
            givers = [held.parts.keys() for held in chunks.values()]
            for held in chunks.values():
                # Of whoever was lost on the way only some chunks have come.
                held.parts = {m: data for m, data in held.parts.items() if all(m in each for each in givers)}
        effects: Effects = []
        for each in list(chunks):
            effects += super()._reduce_if_complete(part, each, now)
        return effects
