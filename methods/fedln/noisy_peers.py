"""Noisy peers: who of a group has labels so wrong that it stands apart from the rest.

Every peer tells one number, the share of its labels that seems wrong. Where examples of one class do not lie
together, neighbours disagree about right labels too, and clean peers tell 0.25 to 0.6: no fixed threshold
serves all data. So the numbers are split in two, where the squared distances to the two means are least, and

    clean = mean of the lower part,  noisy = mean of the upper,  s = the spread within both

The upper part is noisy if noisy - clean is at least `excess` and at least three times s; of it, who is above
clean + excess. Else nobody is: numbers alike say that all are clean, or all are noisy, or that the estimate
tells nothing, and in none of these cases does one peer deserve to count less than another.

A median and its deviation would not do: most peers may be noisy. All is computed exactly, so that peers who
were told the same numbers agree.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from typing import Final

NOBODY: Final = 256
"""A threshold that no level reaches."""
SPREADS: Final = 3
"""Spreads within the parts by which these lie apart at least; two halves of one bell curve lie 2.6 apart."""
SMALLEST_PART: Final = 5
"""The clean are at least one in so many, or a liar alone could make all others noisy."""


def noisy_from(levels: Sequence[int], excess: int) -> int:
    """Return the level from which on a peer counts as noisy; `NOBODY` where none stands apart.

    `levels`: what the peers tell, in 255ths. `excess`: by how much noisy peers lie above clean ones at least.
    """
    told = sorted(levels)
    least = -(-len(told) // SMALLEST_PART)
    cuts = range(least, len(told))
    if not cuts:
        return NOBODY
    cut = min(cuts, key=lambda cut: _squares(told[:cut]) + _squares(told[cut:]))
    lower, upper = told[:cut], told[cut:]
    clean, apart = _mean(lower), _mean(upper) - _mean(lower)
    within = (_squares(lower) + _squares(upper)) / max(1, len(told) - 2)
    if apart < excess or apart**2 < SPREADS**2 * within:
        return NOBODY
    return max(upper[0], ceil(clean + excess))


def _mean(levels: Sequence[int]) -> Fraction:
    return Fraction(sum(levels), len(levels))


def _squares(levels: Sequence[int]) -> Fraction:
    """Return the sum of the squared distances to the mean."""
    return sum(level * level for level in levels) - len(levels) * _mean(levels) ** 2
