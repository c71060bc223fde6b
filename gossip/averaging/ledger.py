"""Ledger: what one member holds the others to in one all-reduce: what they announced, and sums over chunks.

    contribution   its squares, over the chunks of a part, against the norm that its giver announced
    mean           its squared distance from the origin, over the chunks of a part under one ballot, against
                   the bound that follows from the announcements it names (bounds.py)

Chunks come one by one and are used one by one, so each is checked with all that came before it of its part.
A mean names its contributors chunk by chunk, and the bound of a part depends on them: where a part has means
of several sets, two such bounds are allowed for in all.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from math import inf, sqrt
from typing import Final

from shoal.gossip.averaging.announced import Announced, PartTerms
from shoal.gossip.averaging.bounds import TOLERANCE
from shoal.gossip.averaging.chunks import Chunks
from shoal.gossip.averaging.rounding import growth, smallest
from shoal.gossip.events import Vector

MAX_SETS: Final = 2
"""Sets of contributors of the chunks of one part whose bounds are added."""


class Verdict(Enum):
    """What a mean is found to be."""

    FINE = "fine"
    OUTSIDE = "mean outside its bound"
    UNKNOWN = "made by announcements that are not here"
    ELSEWHERE = "made from another state"


class Ledger:
    """See the module's docstring."""

    def __init__(self, mine: int, chunks: Chunks, announced: Announced) -> None:
        """`mine`: this member's number."""
        self.announced = announced
        self._mine, self._chunks = mine, chunks
        self._given: dict[tuple[int, int, bytes], dict[int, tuple[float, float]]] = {}
        self._means: dict[int, tuple[int, dict[int, tuple[tuple[float, float], PartTerms]]]] = {}
        self._rounding: dict[int, float] = {}

    # --- contributions ----------------------------------------------------------------------------

    def contributors(self, members: Iterable[int]) -> tuple[list[int], tuple[bytes, ...]]:
        """Return who of these can be in one mean, with a state in common, and by which announcements."""
        base, said = self.announced.common, self.announced
        named = [member for member in members if member in said.members]
        named = [member for member in named if not base or said.base_of(said.first([member])[0]) == base]
        return named, said.first(named)

    def is_given(
        self, part: int, chunk: int, member: int, numbers: Vector, base: bytes, last: bytes = b""
    ) -> bool:
        """Note a member's chunk; tells whether its part has no more than was announced.

        `last`: names the change that it is clipped around, where it is.
        """
        (name,) = self.announced.first([member])
        aparts = self.announced.aparts(name, part, last)
        if aparts is None:
            squares = self._chunks.squares(part, chunk, numbers, is_based=bool(base))
        else:
            # A change in common is one of a state in common.
            apart = self._given.setdefault((part, member, last), {})
            squares, apart[chunk] = self._chunks.squares_apart(part, chunk, numbers)
            if not _are_within(apart, aparts):
                return False
        sums = self._given.setdefault((part, member, b""), {})
        sums[chunk] = squares
        return _are_within(sums, self.announced.norms(name, part, base))

    # --- means ------------------------------------------------------------------------------------

    def judge(self, part: int, chunk: int, ballot: int, mask: int, digest: bytes, mean: Vector) -> Verdict:
        """Return whether a mean may be stored, and note it if so."""
        members = members_of(mask)
        names = self.announced.find(members, digest)
        if names is None:
            return Verdict.UNKNOWN
        terms = self.announced.terms(members, names, part)
        if terms.base:
            ours = self.announced.base_of(self.announced.first([self._mine])[0])
            is_elsewhere = any(self.announced.base_of(name) != ours for name in names)
        else:
            is_elsewhere = bool(self.announced.common)
        if is_elsewhere:
            return Verdict.ELSEWHERE
        squares = self._chunks.squares(part, chunk, mean, is_based=bool(terms.base))
        if not self._fits(part, chunk, ballot, squares, terms):
            return Verdict.OUTSIDE
        self.note(part, chunk, ballot, squares, terms)
        return Verdict.FINE

    def note(
        self, part: int, chunk: int, ballot: int, squares: tuple[float, float], terms: PartTerms
    ) -> None:
        """Add a mean to those of its part; another ballot begins anew."""
        known = self._means.get(part)
        if known is None or known[0] != ballot:
            known = self._means[part] = (ballot, {})
        known[1][chunk] = (squares, terms)

    def _fits(
        self, part: int, chunk: int, ballot: int, squares: tuple[float, float], terms: PartTerms
    ) -> bool:
        at, known = self._means.get(part, (ballot, {}))
        others = [each for number, each in known.items() if number != chunk] if at == ballot else []
        sets = {id(each): each for _, each in others} if others else {}
        sets[id(terms)] = terms
        most_sets = sqrt(min(len(sets), MAX_SETS))
        # Where all that are known are in it, the bound is below the ceiling as it is.
        are_all = len(terms.numbers.shares) == len(self.announced.members)
        ceilings = (inf, inf) if are_all else self.announced.ceiling(part, terms.base)
        for row in (0, 1):
            square, ceiling = squares[row], ceilings[row]
            own = (terms.buffers if row else terms.numbers).bound
            if not self._is_mean_within(part, square, min(own, ceiling), terms, is_buffers=bool(row)):
                return False
            if not others:
                continue  # nothing is added to it
            bounds = [(each.buffers if row else each.numbers).bound for each in sets.values()]
            total, bound = square + sum([seen[row] for seen, _ in others]), most_sets * max(bounds)
            if not self._is_mean_within(part, total, min(bound, ceiling), terms, is_buffers=bool(row)):
                return False
        return True

    def _is_mean_within(
        self, part: int, square: float, bound: float, terms: PartTerms, *, is_buffers: bool
    ) -> bool:
        codec = "float32" if is_buffers else self._chunks.codec.name
        most = bound * (1 + TOLERANCE) * growth(codec) + smallest(codec, self._chunks.numel(part))
        if _is_within(square, most):
            return True
        # Rounding is a share of the numbers themselves: it is looked at only where it is needed.
        return bool(terms.base) and _is_within(square, most + self._rounding_of(part))

    def _rounding_of(self, part: int) -> float:
        if part not in self._rounding:
            self._rounding[part] = self._chunks.rounding(part)
        return self._rounding[part]


def members_of(mask: int) -> list[int]:
    """Return the members in a mask, in their order."""
    return [member for member in range(mask.bit_length()) if mask >> member & 1]


def _totals(sums: Iterable[tuple[float, float]]) -> tuple[float, float]:
    numbers, buffers = 0.0, 0.0
    for one, other in sums:
        numbers, buffers = numbers + one, buffers + other
    return numbers, buffers


def _are_within(sums: Mapping[int, tuple[float, float]], norms: tuple[float, float]) -> bool:
    """Tell whether sums of squares by chunk are of no more than was announced."""
    numbers, buffers = _totals(sums.values())
    most = 1 + TOLERANCE
    return _is_within(numbers, norms[0] * most) and _is_within(buffers, norms[1] * most)


def _is_within(square: float, norm: float) -> bool:
    """Tell whether a sum of squares is of at most this norm; a NaN is of none."""
    return bool(square <= norm * norm + 1e-36) and square != inf
