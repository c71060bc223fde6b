"""Kappa: how many clusters FedCompress uses, and when it takes one more.

With A_r and E_r the means of the last `window` validation accuracies and effective ranks, kappa grows by
one when both stand still,

    A_r - A_{r-1} <= t_A,   E_r - E_{r-1} <= t_E,     t_A = limit / (2 (kappa - kappa_0)),   t_E = 10 t_A

(the divisor is 1 where it would be 0), and at least `patience` rounds have passed at this kappa and
`warmup` in all. It never falls. The more clusters there are, the less progress counts as standing still.

The rule is on where `kappa_max` says so. It is off by default, which is ours: it keeps a tenth of the
examples out of training, each body carries a Gram matrix, and more clusters take more bits; on our data it
gained no accuracy.

Everything here is integers and fractions of them, so that all peers move together.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Final

import msgspec
import numpy as np

from shoal.gossip.events import Vector

ACCURACY_UNIT: Final = 1_000_000
"""Accuracies are kept in millionths, which a float32 holds exactly."""
RANK_UNIT: Final = 10_000
"""Effective ranks in ten-thousandths, up to 1,677."""
FIRST: Final = 8
"""The paper's kappa_0."""
FIRST_OF_SMALL: Final = 6
"""Codebooks weigh more beside a small model: among five peers it gains 4.1 times with 8, 4.7 with 6."""
SMALL: Final = 10_000
"""Numbers from which on a model is none."""
EXACT: Final = 1 << 24
"""Integers up to here are float32 numbers."""


class KappaConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of the rule; the defaults are the paper's code's unless said otherwise."""

    kappa_min: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    """Clusters per tensor at first; 0: the paper's 8, or with the rule off 6 below 10,000 numbers."""
    kappa_max: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    """Clusters per tensor at most, by the rule; the paper's 30. 0: the rule is off, and kappa stays."""
    patience: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 4
    """Rounds at one kappa before it may grow."""
    window: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    """Rounds in the means."""
    warmup: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 3
    """Rounds before the first growth."""
    limit: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01
    """Progress per round that counts as standing still at the first kappa."""

    @property
    def is_adaptive(self) -> bool:
        """Whether kappa may grow."""
        return self.kappa_max > (self.kappa_min or FIRST)

    def first(self, numel: int) -> int:
        """Return kappa_0 for a model of so many numbers."""
        if self.kappa_min:
            return self.kappa_min
        if self.kappa_max:
            return min(FIRST, self.kappa_max)
        return FIRST_OF_SMALL if numel < SMALL else FIRST


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands. `accuracies` and `ranks` are integers, the newest last, window + 1 at most."""

    kappa: int
    waited: int = 0
    """Rounds at this kappa."""
    accuracies: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()

    def write(self, window: int) -> Vector:
        """Return it as a vector of the shared state, float32 [3 + 2 (window + 1)], exactly."""
        out = np.zeros(3 + 2 * (window + 1), np.float32)
        length = len(self.ranks)
        out[:3] = self.kappa, self.waited, length
        out[3 : 3 + length] = self.accuracies
        out[4 + window : 4 + window + length] = self.ranks
        return out

    @classmethod
    def read(cls, vector: Vector, window: int) -> "Progress":
        """Return what `write` wrote."""
        numbers = [int(number) for number in vector]
        length = numbers[2]
        accuracies = numbers[3 : 3 + length]
        ranks = numbers[4 + window : 4 + window + length]
        return cls(numbers[0], numbers[1], tuple(accuracies), tuple(ranks))


def advance(before: Progress, accuracy: Fraction, rank: float, config: KappaConfig) -> Progress:
    """Return the progress after a round with this validation accuracy and effective rank."""
    keep = config.window + 1
    accuracies = (*before.accuracies, min(int(accuracy * ACCURACY_UNIT), EXACT))[-keep:]
    ranks = (*before.ranks, min(round(rank * RANK_UNIT), EXACT))[-keep:]
    # Counted no further than anybody asks, so that it stays exact for ever.
    waited = min(before.waited + 1, config.patience + config.warmup)
    after = Progress(before.kappa, waited, accuracies, ranks)
    if before.kappa < config.kappa_max and _stands_still(after, config):
        return Progress(before.kappa + 1, 0, accuracies, ranks)
    return after


def _stands_still(progress: Progress, config: KappaConfig) -> bool:
    # The rule is on, so that kappa_0 is no matter of the model's size.
    first = config.first(SMALL)
    # Before the first growth, the rounds at this kappa are all there were.
    patience = max(config.patience, config.warmup) if progress.kappa == first else config.patience
    if progress.waited < patience:
        return False
    threshold = Fraction(config.limit) / (2 * (progress.kappa - first) or 1)
    return (
        _growth(progress.accuracies, config.window) <= threshold * ACCURACY_UNIT
        and _growth(progress.ranks, config.window) <= 10 * threshold * RANK_UNIT
    )


def _growth(values: tuple[int, ...], window: int) -> Fraction:
    """Return the mean of the last `window` values less the mean of those before the last."""
    now, before = values[-window:], values[:-1][-window:]
    if not before:
        return Fraction(0)
    return Fraction(sum(now), len(now)) - Fraction(sum(before), len(before))
