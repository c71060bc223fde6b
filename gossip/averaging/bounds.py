"""Bounds: how much each member of a group may move a mean, from what all members announce of themselves.

Before its first chunk every member announces its weight, and the Euclidean norm of its contribution in every
part. From the announcements of the contributors of a chunk follow, equal for all who know them:

    weight     at most twice the lower median of the positive claims; a newcomer's at most a quarter of it;
               then times the discount that the member gives itself, which is at most 1
    cap        of a part: the lower median of its norms (of three the middle one, of two the smaller)
    factor     of a contribution in a part: min(1, cap / norm), so none counts with more than the cap
    bound      of a part of the mean: the weighted mean of min(norm, cap), which no honest sum exceeds

Medians are taken among the members that are no newcomers, where there are any. Norms are distances from the
state that the members have in common (`agreed_base`). Where they have none in common, norms are those of the
vectors themselves; there the cap is looser (`LOOSE`), since a vector that is scaled down below the others is
a damage in itself.

Capping norms before a mean: Karimireddy, He, Jaggi, Learning from History for Byzantine Robust Optimization
(ICML 2021), section 3, with their centre at zero.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

WEIGHT_CAP: Final = 2.0
"""Times the median claim of weight that the largest one counts."""
NEWCOMER_CAP: Final = 0.25
"""Times the median claim that a newcomer's counts at most."""
LOOSE: Final = 1.25
"""Times the median norm that a vector counts where the members have no state in common."""
TOLERANCE: Final = 1e-3
"""By how much more than announced a contribution may have, for sums that round unlike."""
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


@dataclass(frozen=True, slots=True)
class Terms:
    """What the contributors of a chunk come to; in their order."""

    shares: tuple[float, ...]
    """Coefficients of the contributions: weight over the sum of weights, times the factor."""
    weights: tuple[float, ...]
    """Weight over the sum of weights alone."""
    bound: float
    """The largest norm of the part that an honest sum of them can have."""


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


def terms(claims: Sequence[Stated], looseness: float = 1.0) -> Terms:
    """Return what the contributors of a chunk come to. `looseness`: `LOOSE` without a state in common."""
    weights, cap = weights_of(claims), cap_of(claims, looseness)
    total = sum(weights)
    shares, bound = [], 0.0
    for claim, weight in zip(claims, weights, strict=True):
        counted = min(claim.norm, cap)
        shares.append(weight / total * (counted / claim.norm if claim.norm > cap else 1.0))
        bound += weight / total * counted
    return Terms(tuple(shares), tuple(weight / total for weight in weights), bound)


def agreed_base(bases: Sequence[bytes]) -> bytes:
    """Return the state that half of the members or more start from; empty if there is none.

    `bases`: a name of each member's state, empty where it takes the states to differ. Half is enough, so that
    one of two cannot loosen the bounds; of two such states the larger name is taken.
    """
    name, count = max(Counter(bases).items(), key=lambda each: (each[1], each[0]), default=(b"", 0))
    return name if 2 * count >= len(bases) else b""


def _established(claims: Sequence[Stated]) -> Sequence[Stated]:
    return [claim for claim in claims if not claim.is_newcomer] or claims
