"""Chunks: the vector of one exchange, cut into parts and chunks, and how its numbers travel.

Contribution and mean of a chunk share its place in the vector: the mean overwrites the contribution, which
nobody needs any more. What is handed out for sending never lies in that memory, but for contributions. Those
are lent: before a place is written they are taken back, also when the exchange is over, since the vector is
written anew next round while a slow member's copy may still wait to be sent.
"""

from itertools import pairwise
from math import inf, sqrt

import numpy as np

from shoal.gossip.averaging.bounds import Terms
from shoal.gossip.averaging.origin import (
    STANDS_ALONE,
    Origin,
    both_squares,
    square,
    trimmed_mean,
    weighted_sum,
)
from shoal.gossip.averaging.rounding import growth, rounding
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


def mean_alike(vectors: list[Vector]) -> Vector:
    """Return the mean of vectors that count alike, in a vector of its own, adding in the order given."""
    mean = np.frombuffer(BUFFERS.take(vectors[0].nbytes), np.float32)
    np.copyto(mean, vectors[0])
    for vector in vectors[1:]:
        mean += vector
    mean *= np.float32(1 / len(vectors))
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
        origin: Origin = STANDS_ALONE,
        grain: int = 1,
    ) -> None:
        """`vector` float32 [n]: the contribution, which becomes the mean; the last `exact` go as float32.

        `origin`: from where distances are taken. `grain`: so many numbers are never cut apart.
        """
        self.origin = origin
        self.codec = CODECS[codec]
        self._exact_from = vector.size - exact
        self._vector = vector
        self._feedback = feedback if self.codec.needs_feedback else None
        self._edges = [grain * edge for edge in bounds(vector.size // grain, shares)]
        self._ends = [
            [(at, min(at + chunk_numel, hi)) for at in range(lo, hi, chunk_numel)]
            for lo, hi in pairwise(self._edges)
        ]
        """By part and chunk: where it begins and ends."""
        self._is_exact = codec == "float32"
        # By (part, chunk), for lossy codecs: what was sent must be sent again the same.
        self._sent: dict[tuple[int, int], Data] = {}
        self._means: dict[tuple[int, int], Data] = {}
        self._loans: dict[tuple[int, int], Loan] = {}

    def count(self, part: int) -> int:
        """Return how many chunks a part has."""
        return len(self._ends[part])

    def view(self, part: int, chunk: int) -> Vector:
        """Return a chunk of the vector: our contribution, or the mean once it is stored."""
        lo, hi = self._ends[part][chunk]
        return self._vector[lo:hi]

    def fits(self, part: int, chunk: int, data: Data) -> bool:
        """Tell whether there is such a chunk, and whether its bytes are as many as these."""
        if chunk >= len(self._ends[part]):
            return False
        lo, hi = self._ends[part][chunk]
        return len(data) == self._codec(part, chunk).size(hi - lo)

    def contribution(self, part: int, chunk: int) -> Loan:
        """Return our contribution as it travels; the same bytes whenever asked, to one owner at a time."""
        view = self.view(part, chunk)
        if not self._is_exact and (part, chunk) not in self._sent:
            self._encode(part, chunk, view)
        data = view.data.cast("B") if self._is_exact else memoryview(self._sent[part, chunk])
        if (former := self._loans.get((part, chunk))) is not None:
            former.end()
        loan = self._loans[part, chunk] = Loan(data)
        return loan

    def n_bytes(self, part: int) -> int:
        """Return how many bytes a part is on its way."""
        chunks = range(self.count(part))
        return sum(self._codec(part, chunk).size(self.view(part, chunk).size) for chunk in chunks)

    def own(self, part: int, chunk: int) -> Vector:
        """Return our contribution as others read it."""
        view = self.view(part, chunk)
        if self._is_exact:
            return view
        data = self._sent.get((part, chunk))
        if data is None:
            return self._encode(part, chunk, view)
        return self._codec(part, chunk).decode(data, view.size)

    def _encode(self, part: int, chunk: int, view: Vector) -> Vector:
        owed = self._owed(self._feedback.sent, part, chunk) if self._feedback is not None else None
        self._sent[part, chunk], read = encode_with_feedback(self._codec(part, chunk), view, owed)
        return read

    def read(self, part: int, chunk: int, data: Data) -> Vector | None:
        """Return the numbers in a peer's bytes, or nothing where they are none of the codec's."""
        try:
            lo, hi = self._ends[part][chunk]
            return self._codec(part, chunk).decode(data, hi - lo)
        except BadCode:
            return None

    def squares(self, part: int, chunk: int, numbers: Vector, *, is_based: bool) -> tuple[float, float]:
        """Return the squared norms of numbers in place of a chunk, without and of its buffers.

        `is_based`: of their distance from the origin; else from zero.
        """
        lo, split, hi = self._span(part, chunk)
        of_numbers = self.origin.of_numbers(lo, split) if is_based else None
        if split == hi:  # as nearly everywhere
            return square(numbers, of_numbers), 0.0
        of_buffers = self.origin.of_buffers(split, hi) if is_based else None
        return square(numbers[: split - lo], of_numbers), square(numbers[split - lo :], of_buffers)

    def squares_apart(
        self, part: int, chunk: int, numbers: Vector
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return `squares` from the origin, and the same of the distance from the last change."""
        lo, split, hi = self._span(part, chunk)
        last = self.origin.last
        if last is None:
            return self.squares(part, chunk, numbers, is_based=True), (0.0, 0.0)
        of_numbers, of_buffers = self.origin.of_numbers(lo, split), self.origin.of_buffers(split, hi)
        based, apart = both_squares(numbers[: split - lo], of_numbers, last[lo:split])
        buffers, apart_buffers = both_squares(numbers[split - lo :], of_buffers, last[split:hi])
        return (based, buffers), (apart, apart_buffers)

    def last_lengths(self, part: int) -> tuple[float, float]:
        """Return the norms of the last change in a part, without and of its buffers."""
        last, lo, hi = self.origin.last, self._edges[part], self._edges[part + 1]
        if last is None:
            return inf, inf
        split = min(max(self._exact_from, lo), hi)
        return sqrt(last.norm_squared(lo, split)), sqrt(last.norm_squared(split, hi))

    def combine(
        self, part: int, chunk: int, vectors: list[Vector], terms: tuple[Terms, Terms], *, is_based: bool
    ) -> Vector:
        """Return what contributions to a chunk come to, in a vector of its own."""
        lo, split, hi = self._span(part, chunk)
        mean: Vector = np.frombuffer(BUFFERS.take(4 * (hi - lo)), np.float32)
        spans = ((lo, split, self.origin.of_numbers), (split, hi, self.origin.of_buffers))
        for (first, last, origin_of), each in zip(spans, terms, strict=True):
            if first == last:
                continue
            here = slice(first - lo, last - lo)
            given, shares = [vector[here] for vector in vectors], [*each.shares]
            origin = origin_of(first, last) if is_based else None
            if each.trim:
                counting = [number for number, weight in enumerate(each.weights) if weight]
                factors = [shares[number] / each.weights[number] for number in counting]
                trimmed_mean([given[n] for n in counting], factors, origin, each.trim, mean[here])
                continue
            # What factors take from the contributions stays where the origin is.
            if origin is not None and (left := 1.0 - sum(shares)) > 1e-12:
                given, shares = [*given, origin], [*shares, left]
            if each.last and self.origin.last is not None:
                given, shares = [*given, self.origin.last[first:last]], [*shares, each.last]
            weighted_sum(given, shares, mean[here])
        return mean

    def numel(self, part: int) -> int:
        """Return how many numbers a part has."""
        return self._edges[part + 1] - self._edges[part]

    def rounding(self, part: int) -> float:
        """Return by how much rounding may move a part of a mean that is measured from a state, as a norm."""
        lo, hi = self._edges[part], self._edges[part + 1]
        split = min(max(self._exact_from, lo), hi)
        numbers, buffers = self.origin.of_numbers(lo, split), self.origin.of_buffers(split, hi)
        codec = self.codec.name
        return (0.0 if numbers is None else rounding(codec, numbers)) + (
            0.0 if buffers is None else rounding("float32", buffers)
        )

    def _span(self, part: int, chunk: int) -> tuple[int, int, int]:
        """Return where a chunk begins, where in it the buffers begin, and where it ends."""
        lo, hi = self._ends[part][chunk]
        split = self._exact_from
        return lo, hi if split >= hi else max(split, lo), hi

    def make(self, part: int, chunk: int, mean: Vector) -> None:
        """Store a mean that we made, as those who receive it will read it."""
        if self._is_exact:
            self._means[part, chunk] = mean.data.cast("B")
        else:
            owed = self._owed(self._feedback.made, part, chunk) if self._feedback is not None else None
            codec, most = self._codec(part, chunk), float("inf")
            if owed is not None and self.origin.kind != "params":
                # What is owed of many rounds must not make this mean larger than its receivers allow.
                most = growth(codec.name) * float(np.sqrt(square(mean, None)))
            self._means[part, chunk], mean = encode_with_feedback(codec, mean, owed, most)
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
        view = self.view(part, chunk)
        view[:] = mean
        if self.origin.variances:
            self.origin.keep_positive(view, self._ends[part][chunk][0])

    def _codec(self, part: int, chunk: int) -> Codec:
        """Return how this chunk travels: the end of the vector as it is."""
        if self._is_exact:
            return self.codec
        lo, hi = self._ends[part][chunk]
        return with_exact_end(self.codec, hi - max(lo, self._exact_from) if hi > self._exact_from else 0)

    def _owed(self, errors: Vector, part: int, chunk: int) -> Vector:
        lo, hi = self._ends[part][chunk]
        return errors[lo:hi]
