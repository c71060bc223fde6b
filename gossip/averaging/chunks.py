"""Chunks: the vector of one exchange, cut into parts and chunks, and how its numbers travel.

Contribution and mean of a chunk share its place in the vector: the mean overwrites the contribution, which
nobody needs any more. What is handed out for sending never lies in that memory, but for contributions. Those
are lent: before a place is written they are taken back, also when the exchange is over, since the vector is
written anew next round while a slow member's copy may still wait to be sent.
"""

import numpy as np

from shoal.gossip.averaging.tensor_codecs import (
    CODECS,
    BadCode,
    Codec,
    Feedback,
    encode_with_feedback,
    with_exact_end,
)
from shoal.gossip.buffers import BUFFERS
from shoal.gossip.events import Data, Loan, Vector


def bounds(numel: int, shares: tuple[int, ...]) -> list[int]:
    """Return the n + 1 borders of the parts, in integers, so that everyone cuts alike."""
    total = sum(shares)
    if total == 0:
        shares, total = (1,) * len(shares), len(shares)
    edges, seen = [0], 0
    for share in shares:
        seen += share
        edges.append(numel * seen // total)
    return edges


def weighted_mean(vectors: list[Vector], weights: list[float]) -> Vector:
    """Return the mean in a vector of its own, adding in the order given; weights of zero sum count alike."""
    mean = np.frombuffer(BUFFERS.take(vectors[0].nbytes), np.float32)
    total = sum(weights)
    if total <= 0:
        weights, total = [1.0] * len(weights), float(len(weights))
    first = np.float32(weights[0] / total)
    if len(vectors) == 1:
        return np.multiply(vectors[0], first, out=mean)
    if all(weight == weights[0] for weight in weights):
        # One multiplication instead of n: sums are what a round's time goes into.
        np.add(vectors[0], vectors[1], out=mean)
        for vector in vectors[2:]:
            mean += vector
        mean *= first
        return mean
    np.multiply(vectors[0], first, out=mean)
    term = np.empty_like(mean)
    for vector, weight in zip(vectors[1:], weights[1:], strict=True):
        np.multiply(vector, np.float32(weight / total), out=term)
        mean += term
    return mean


class Chunks:
    """See the module's docstring."""

    def __init__(
        self,
        vector: Vector,
        shares: tuple[int, ...],
        chunk_numel: int,
        codec: str,
        feedback: Feedback | None,
        exact: int = 0,
    ) -> None:
        """`vector` float32 [n]: the contribution, which becomes the mean; the last `exact` go as float32."""
        self.codec = CODECS[codec]
        self._exact_from = vector.size - exact
        self._vector, self._chunk_numel = vector, chunk_numel
        self._feedback = feedback if self.codec.needs_feedback else None
        self._edges = bounds(vector.size, shares)
        self._is_exact = codec == "float32"
        # By (part, chunk), for lossy codecs: what was sent must be sent again the same.
        self._sent: dict[tuple[int, int], Data] = {}
        self._means: dict[tuple[int, int], Data] = {}
        self._loans: dict[tuple[int, int], Loan] = {}

    def count(self, part: int) -> int:
        """Return how many chunks a part has."""
        return -(-(self._edges[part + 1] - self._edges[part]) // self._chunk_numel)

    def view(self, part: int, chunk: int) -> Vector:
        """Return a chunk of the vector: our contribution, or the mean once it is stored."""
        lo = self._edges[part] + chunk * self._chunk_numel
        return self._vector[lo : min(lo + self._chunk_numel, self._edges[part + 1])]

    def fits(self, part: int, chunk: int, data: Data) -> bool:
        """Tell whether there is such a chunk, and whether its bytes are as many as these."""
        if chunk >= self.count(part):
            return False
        return len(data) == self._codec(part, chunk).size(self.view(part, chunk).size)

    def contribution(self, part: int, chunk: int) -> Data | Loan:
        """Return our contribution as it travels; the same bytes whenever asked."""
        view = self.view(part, chunk)
        if self._is_exact:
            return self._loans.setdefault((part, chunk), Loan(view.data.cast("B")))
        if (part, chunk) not in self._sent:
            owed = self._owed(self._feedback.sent, part, chunk) if self._feedback is not None else None
            self._sent[part, chunk] = encode_with_feedback(self._codec(part, chunk), view, owed)[0]
        return self._sent[part, chunk]

    def read(self, part: int, chunk: int, data: Data) -> Vector | None:
        """Return the numbers in a peer's bytes, or nothing where they are none of the codec's."""
        try:
            return self._codec(part, chunk).decode(data, self.view(part, chunk).size)
        except BadCode:
            return None

    def make(self, part: int, chunk: int, mean: Vector) -> None:
        """Store a mean that we made, as those who receive it will read it."""
        if self._is_exact:
            self._means[part, chunk] = mean.data.cast("B")
        else:
            owed = self._owed(self._feedback.made, part, chunk) if self._feedback is not None else None
            codec = self._codec(part, chunk)
            self._means[part, chunk], mean = encode_with_feedback(codec, mean, owed)
        self._put(part, chunk, mean)

    def store(self, part: int, chunk: int, data: Data, mean: Vector) -> None:
        """Store a mean that another made."""
        self._put(part, chunk, mean)
        self._sent.pop((part, chunk), None)
        # One that we made before, as the owner of an earlier ballot.
        self._means.pop((part, chunk), None)
        if not self._is_exact:
            # Encoding what was read may not give the same bytes, and all must hold the same.
            self._means[part, chunk] = data

    def mean(self, part: int, chunk: int) -> Data:
        """Return a stored mean as it travels."""
        made = self._means.get((part, chunk))
        return self.view(part, chunk).copy().data.cast("B") if made is None else made

    def take_back(self) -> None:
        """Let nothing be sent any more of the vector, which is written anew from now on."""
        for loan in self._loans.values():
            loan.end()

    def _put(self, part: int, chunk: int, mean: Vector) -> None:
        if (loan := self._loans.get((part, chunk))) is not None:
            loan.end()
        self.view(part, chunk)[:] = mean

    def _codec(self, part: int, chunk: int) -> Codec:
        """Return how this chunk travels: the end of the vector as it is."""
        if self._is_exact:
            return self.codec
        lo = self._edges[part] + chunk * self._chunk_numel
        hi = min(lo + self._chunk_numel, self._edges[part + 1])
        return with_exact_end(self.codec, hi - max(lo, self._exact_from) if hi > self._exact_from else 0)

    def _owed(self, errors: Vector, part: int, chunk: int) -> Vector:
        lo = self._edges[part] + chunk * self._chunk_numel
        return errors[lo : min(lo + self._chunk_numel, self._edges[part + 1])]
