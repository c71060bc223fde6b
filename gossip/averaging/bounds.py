"""Bounds: how much each member of a group may move a mean, from what all members announce of themselves.

Before its first chunk every member announces its weight, and the Euclidean norm of its contribution in every
part. From the announcements of the contributors of a chunk follow, equal for all who know them:

    weight     at most twice the lower median of the positive claims; a newcomer's at most a quarter of it;
               then times the discount that the member gives itself, which is at most 1
    cap        of a part: the lower median of its norms (of three the middle one, of two the smaller)
    factor     of a contribution in a part: min(1, cap / norm), so none counts with more than the cap
    bound      of a part of the mean: the weighted mean of min(norm, cap), which no honest sum exceeds

A run may combine them otherwise (`combine` of its settings). Those that count are K, each once, whatever its
weight, where that is positive:

    trimmed    by coordinate, of capped contributions: the mean without the f largest and the f smallest,
               f = max(1, (K - 1) // 4), of fewer than three none
    median     the same with f = (K - 1) // 2: the middle one, or the mean of the two in the middle
    bound      of both: sqrt(sum of min(norm, cap)^2 / (K - f)), at most sqrt(2) caps

Let t be the result of a coordinate, and positive. The K - f largest contributions to it are those whose mean
is t, and f larger ones, so their mean is at least t. By Cauchy (K - f) t^2 is at most the sum of their
squares, which is at most the sum of all squares. For a negative t the same holds with the smallest. Summed
over the coordinates of a part: the squared norm of the result is at most the sum of all squared norms over
K - f. The median (1, 1, 1) of (1, 1, 0), (1, 0, 1) and (0, 1, 1) is as large as that. Yin, Chen, Ramchandran,
Bartlett, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates (ICML 2018), section 4.

clip       centred clipping around the last change v that the members have in common (`agreed_last`), one step
               of it: v + the weighted mean of min(1, radius / apart) (x - v); x is a contribution as its
               distance from the base, apart the norm of x - v, and radius the lower median of these. A
               member that does not know v counts as in the bounded mean, with min(1, cap / norm)
    bound      of that: sum of share * min(norm, apart + length) + what the shares lack of 1 * length, since
               the result is what shares make of the contributions, and v for the rest. Length is the lower
               median of norm + apart, at least the norm of v. A receiver that holds v takes that norm,
               where it is less

So a result of clipping is bounded by its distance from the base, not from v: whoever owns a part and lies in
every round turns v, and with it the next result, no farther each time.
Karimireddy, He, Jaggi (as below), algorithm 2. Where more than half have no v in common it is the mean.

Medians are taken among the members that claim a weight, and of these among those that are no newcomers, where
there are any. Norms are distances from the
state that the members have in common (`agreed_base`). Where they have none in common, norms are those of the
vectors themselves; there the cap is looser (`LOOSE`), since a vector that is scaled down below the others is
a damage in itself.

Capping norms before a mean: Karimireddy, He, Jaggi, Learning from History for Byzantine Robust Optimization
(ICML 2021), section 3, with their centre at zero.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, inf, sqrt
from typing import Final

from shoal.gossip.run_spec import Combine

TRIMMING: Final = ("trimmed", "median")
"""Ways to combine that leave the largest and the smallest out, and count each member once."""
WEIGHT_CAP: Final = 2.0
"""Times the median claim of weight that the largest one counts."""
NEWCOMER_CAP: Final = 0.25
"""Times the median claim that a newcomer's counts at most."""
LOOSE: Final = 1.25
"""Times the median norm that a vector counts where the members have no state in common."""
TOLERANCE: Final = 1e-3
"""By how much more than announced a contribution may have, for sums that round unlike."""
CLIPPED: Final = 1.5
"""Times the cap that a result of clipping has at most where honest changes are alike: the last is in it."""
CEILING: Final = 2.0
"""Times the lower median of all norms that a receiver knows: no part of a mean has more, whoever is in it."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What a member announces of one part."""

    weight: float
    norm: float
    """Finite and not negative, as is the weight."""
    is_newcomer: bool = False
    discount: float = 1.0
    """Above 0 and at most 1: what is left of its weight by its own wish."""
    apart: float | None = None
    """Its distance from the last change, where it knows that one."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the contributors of a chunk come to; in their order."""

    shares: tuple[float, ...]
    """Coefficients of the contributions: weight over the sum of weights, times the factor."""
    weights: tuple[float, ...]
    """Weight over the sum of weights alone."""
    bound: float
    """The largest norm of the part that an honest result can have."""
    trim: int = 0
    """So many of the largest and of the smallest of every number are left out, of those with a weight."""
    last: float = 0.0
    """How much of the last change is in it."""


def lower_median(values: Sequence[float]) -> float:
    """Return the middle value, the smaller of the two where there are two; infinite of none."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2] if ordered else inf


def weights_of(claims: Sequence[Stated]) -> list[float]:
    """Return how much each member counts; all alike where none claims anything.

    A discount comes after the cap, and no median knows of it: nobody becomes heavier by that of another
    than it is beside a member that claims less.
    """
    positive = [claim for claim in claims if claim.weight > 0]
    median = lower_median([claim.weight for claim in _established(positive)])
    weights = [
        min(claim.weight, median * (NEWCOMER_CAP if claim.is_newcomer else WEIGHT_CAP)) for claim in claims
    ]
    claimed = weights if sum(weights) > 0 else [1.0] * len(claims)
    left = [weight * claim.discount for weight, claim in zip(claimed, claims, strict=True)]
    # Of numbers near the smallest there are, a product may be 0.
    return left if sum(left) > 0 else claimed


def cap_of(claims: Sequence[Stated], looseness: float = 1.0) -> float:
    """Return the norm above which a contribution to a part is scaled down; that of one alone is its own."""
    return looseness * lower_median([claim.norm for claim in _established(claims)])


def trim_of(combine: Combine, count: int) -> int:
    """Return how many of the largest, and of the smallest, of so many contributions are left out."""
    most = (count - 1) // 2
    return {"trimmed": min(most, max(1, (count - 1) // 4)), "median": most}.get(combine, 0)


def stretch(combine: Combine, count: int) -> float:
    """Return how many times the cap the result of so many contributions can have."""
    if combine == "clip":
        return CLIPPED
    return sqrt(count / (count - trim_of(combine, count))) if count else 1.0


def clipped_terms(claims: Sequence[Stated], length: float = inf) -> Terms:
    """Return what the contributors of a chunk come to around a last change that some of them know.

    `length`: the norm of that change, where it is known.
    """
    knowing = _established([claim for claim in claims if claim.apart is not None])
    most = lower_median([claim.norm + claim.apart for claim in knowing if claim.apart is not None])
    radius = lower_median([claim.apart for claim in knowing if claim.apart is not None])
    weights, cap = weights_of(claims), cap_of(claims)
    total, length, shares, bound = sum(weights), min(length, most), [], 0.0
    for claim, weight in zip(claims, weights, strict=True):
        most_of_it = cap / claim.norm if claim.norm > cap else 1.0
        nearest = claim.norm
        if claim.apart is not None:
            most_of_it = radius / claim.apart if claim.apart > radius else 1.0
            nearest = min(claim.norm, claim.apart + length)
        share = weight / total * most_of_it
        shares.append(share)
        bound += share * nearest
    last = max(0.0, 1.0 - sum(shares))
    alike = tuple(weight / total for weight in weights)
    return Terms(tuple(shares), alike, bound + last * length, last=last)


def terms(claims: Sequence[Stated], looseness: float = 1.0, combine: Combine = "mean") -> Terms:
    """Return what the contributors of a chunk come to. `looseness`: `LOOSE` without a state in common."""
    weights, cap = weights_of(claims), cap_of(claims, looseness)
    if combine in TRIMMING:
        weights = [float(weight > 0) for weight in weights]
    total = sum(weights)
    shares, bound = [], 0.0
    for claim, weight in zip(claims, weights, strict=True):
        counted = min(claim.norm, cap)
        shares.append(weight / total * (counted / claim.norm if claim.norm > cap else 1.0))
        bound += weight / total * counted
    alike, count = tuple(weight / total for weight in weights), sum(weight > 0 for weight in weights)
    if trim := trim_of(combine, count):
        counts = [min(claim.norm, cap) for claim, weight in zip(claims, weights, strict=True) if weight]
        bound = hypot(*counts) / sqrt(count - trim)
    return Terms(tuple(shares), alike, bound, trim)


def agreed_base(bases: Sequence[bytes]) -> bytes:
    """Return the state that half of the members or more start from; empty if there is none.

    `bases`: a name of each member's state, empty where it takes the states to differ. Half is enough, so that
    one of two cannot loosen the bounds; of two such states the larger name is taken.
    """
    name, count = max(Counter(bases).items(), key=lambda each: (each[1], each[0]), default=(b"", 0))
    return name if 2 * count >= len(bases) else b""


def agreed_last(names: Sequence[bytes]) -> bytes:
    """Return the last change that more than half know, or nothing. `names`: empty where one knows none."""
    name, count = max(Counter(names).items(), key=lambda each: (each[1], each[0]), default=(b"", 0))
    return name if 2 * count > len(names) else b""


def _established(claims: Sequence[Stated]) -> Sequence[Stated]:
    # Who weighs nothing gives nothing to the mean, such as a peer that only hosts: its norm is no measure.
    weighing = [claim for claim in claims if claim.weight > 0] or claims
    return [claim for claim in weighing if not claim.is_newcomer] or weighing
