"""Origin: what the vector of an ask is measured from, so that it can be bounded.

kind        the vector is                             its distance is taken from
params      params, as long as the model's            the shared state
delta       a change of the params                    zero; of buffers, which stand as they are: the state
statistic   anything else                             zero, and caps are loose
exact       this node's own protocol (gather.py)      nothing is capped, and all count alike
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, TypeAlias

import numpy as np

from shoal.gossip.averaging.tensor_codecs import CODECS
from shoal.gossip.events import Vector
from shoal.gossip.run_spec import TensorSpec

Kind: TypeAlias = Literal["params", "delta", "statistic", "exact"]
_CODEC: Final = CODECS["bfloat16"]
PIECE: Final = 65_536
"""Numbers that are worked on at a time: what is in between stays in the cache."""
SORTED_PIECE: Final = 8_192
"""As many where all members' are worked on together."""
LEAST_VARIANCE: Final = np.float32(2.0**-10)
"""Times its last value: less is left of no running variance in one round, whoever contributes what."""
SMALLEST: Final = np.float32(2.0**-100)


class Change:
    """A change of a whole vector in bfloat16. A round is clipped around it: it is equal on all, not exact."""

    def __init__(self, size: int) -> None:
        """`size`: numbers; they are those of whatever lay there."""
        self._halves = np.empty(size, np.uint16)

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return self._halves.size

    def __getitem__(self, where: "slice[int | None, int | None, None]") -> Vector:
        """Return some of the numbers, float32, in memory of their own."""
        halves = self._halves[where]
        return _CODEC.decode(halves.data.cast("B"), halves.size)

    def norm_squared(self, lo: int, hi: int) -> float:
        """Return the squared norm of the numbers from `lo` to before `hi`."""
        ends = [*range(lo, hi, PIECE), hi]
        return sum(square(self[a:b], None) for a, b in pairwise(ends))

    def note(self, lo: int, numbers: Vector, origin: Vector | None) -> None:
        """Keep numbers as their distance from an origin or zero; `lo`: where they begin."""
        for at in range(0, numbers.size, PIECE):
            piece = numbers[at : at + PIECE]
            apart = piece if origin is None else piece - origin[at : at + PIECE]
            self._halves[lo + at : lo + at + piece.size] = np.frombuffer(_CODEC.encode(apart), np.uint16)


@dataclass(frozen=True, slots=True)
class Origin:
    """See the module's docstring."""

    kind: Kind = "statistic"
    name: bytes = b""
    """The hash of the state that the vector was made from; empty where that is not at hand."""
    mixes: bool = True
    """Whether the states of the members are taken to differ."""
    state: Vector | None = None
    """float32, at least as long as the vector where that is measured from it."""
    variances: tuple[tuple[int, int], ...] = ()
    """Where the vector has running variances, as half-open intervals: they stay positive."""
    last: Change | None = None
    """As long as the vector: the last mean, as its distance from what it was measured from."""
    last_name: bytes = b""
    """Names that change; empty where it is not at hand."""

    def of_numbers(self, lo: int, hi: int) -> Vector | None:
        """Return what numbers that are no buffers are measured from; nothing stands for zero."""
        return self.state[lo:hi] if self.kind == "params" and self.state is not None else None

    def of_buffers(self, lo: int, hi: int) -> Vector | None:
        """Return what buffers are measured from."""
        return self.state[lo:hi] if self.state is not None else None

    def keep_positive(self, view: Vector, lo: int) -> None:
        """Keep the running variances positive in a part of the vector that begins at `lo`, in place."""
        for start, end in self.variances:
            first, last = max(start, lo), min(end, lo + view.size)
            if first < last:
                here = view[first - lo : last - lo]
                least = np.full(1, SMALLEST)
                if self.state is not None:
                    least = np.maximum(self.state[first:last] * LEAST_VARIANCE, SMALLEST)
                np.maximum(here, least, out=here)


EXACT: Final = Origin("exact")
STANDS_ALONE: Final = Origin()


def variances_of(tensors: Sequence[TensorSpec]) -> tuple[tuple[int, int], ...]:
    """Return where a model's vector has running variances, as torch names them."""
    found, at = [], 0
    for spec in tensors:
        if spec.name.rpartition(".")[2] == "running_var":
            found.append((at, at + spec.numel))
        at += spec.numel
    return tuple(found)


def square(numbers: Vector, origin: Vector | None) -> float:
    """Return the squared distance of numbers from an origin or zero; not finite if they are not."""
    if not numbers.size:
        return 0.0
    # Of the products of two vectors this one alone warns of nothing.
    return float(np.vdot(numbers, numbers)) if origin is None else _square_apart(numbers, origin)


@np.errstate(over="ignore", invalid="ignore")
def _square_apart(numbers: Vector, origin: Vector) -> float:
    if numbers.size <= PIECE:
        apart = numbers - origin
        return float(np.vdot(apart, apart))
    total, scratch = 0.0, np.empty(PIECE, np.float32)
    for at in range(0, numbers.size, PIECE):
        piece = numbers[at : at + PIECE]
        apart = np.subtract(piece, origin[at : at + PIECE], out=scratch[: piece.size])
        total += float(np.vdot(apart, apart))
    return total


def both_squares(numbers: Vector, origin: Vector | None, last: Vector) -> tuple[float, float]:
    """Return the squared distances from an origin or zero, and from where the last change led to from there.

    In one pass, by pieces that stay in the cache.
    """
    based, total, scratch = 0.0, 0.0, np.empty(min(PIECE, numbers.size), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for at in range(0, numbers.size, PIECE):
            apart = piece = numbers[at : at + PIECE]
            if origin is not None:
                apart = np.subtract(piece, origin[at : at + PIECE], out=scratch[: piece.size])
            based += float(np.dot(apart, apart))
            apart = np.subtract(apart, last[at : at + PIECE], out=scratch[: piece.size])
            total += float(np.dot(apart, apart))
    return based, total


def weighted_sum(vectors: Sequence[Vector], shares: Sequence[float], out: Vector) -> None:
    """Write the sum of vectors times shares, adding in the order given."""
    scratch = np.empty(min(PIECE, out.size), np.float32)
    factors = [np.float32(share) for share in shares]
    for at in range(0, out.size, PIECE):
        here = out[at : at + PIECE]
        term = scratch[: here.size]
        np.multiply(vectors[0][at : at + PIECE], factors[0], out=here)
        for vector, factor in zip(vectors[1:], factors[1:], strict=True):
            np.multiply(vector[at : at + PIECE], factor, out=term)
            np.add(here, term, out=here)


def trimmed_mean(
    vectors: Sequence[Vector], factors: Sequence[float], origin: Vector | None, trim: int, out: Vector
) -> None:
    """Write the mean by coordinate without the `trim` largest and the `trim` smallest.

    Of each vector its distance from `origin`, or from zero, counts times its factor; `out` is then as far
    from there as they say.
    """
    size = min(SORTED_PIECE, out.size)
    rows, spare = [np.empty(size, np.float32) for _ in vectors], np.empty(size, np.float32)
    for at in range(0, out.size, SORTED_PIECE):
        here = out[at : at + SORTED_PIECE]
        pieces, free = [row[: here.size] for row in rows], spare[: here.size]
        base = None if origin is None else origin[at : at + SORTED_PIECE]
        for vector, factor, piece in zip(vectors, factors, pieces, strict=True):
            _scale(vector[at : at + SORTED_PIECE], factor, base, piece)
        for done in range(trim):
            last = len(pieces) - 1 - done
            for low in range(done, last):
                free = _put_in_order(pieces, low, free)
            for low in range(last - 2, done - 1, -1):
                free = _put_in_order(pieces, low, free)
        kept = pieces[trim : len(pieces) - trim]
        np.copyto(here, kept[0])
        for piece in kept[1:]:
            np.add(here, piece, out=here)
        np.multiply(here, np.float32(1 / len(kept)), out=here)


def _scale(numbers: Vector, factor: float, origin: Vector | None, out: Vector) -> None:
    if factor == 1.0:
        np.copyto(out, numbers)
    elif origin is None:
        np.multiply(numbers, np.float32(factor), out=out)
    else:
        np.subtract(numbers, origin, out=out)
        np.multiply(out, np.float32(factor), out=out)
        np.add(out, origin, out=out)


def _put_in_order(pieces: list[Vector], low: int, free: Vector) -> Vector:
    """Let the smaller numbers of two neighbours stand in the first; returns the memory that is free then."""
    np.minimum(pieces[low], pieces[low + 1], out=free)
    np.maximum(pieces[low], pieces[low + 1], out=pieces[low + 1])
    pieces[low], free = free, pieces[low]
    return free
