"""Privacy: clip what a node gives, and add noise, so that it tells little of the node's data.

    local          clip the change, add all of the noise, then the exchange as ever
    distributed    clip the change, add a share of the noise, mask: only the sum is seen, with all shares
    examples       noise in every step of training (methods/learning/private_steps.py), none here

The change is put on a grid of whole numbers first, and the noise is discrete Gaussian, so that no last bit
of a float tells what was below it (crypto/discrete_gaussian.py). Rounding makes a change longer by up to half
the root of how many numbers it has; the noise is made wider by the same, so the multiplier holds exactly.

Shares: of `threshold` members that open a sum, one may be the curious one, who knows its own share. The
others' shares together come to the whole noise, though members vanish: fewer never open. Kairouz, Liu,
Steinke, The Distributed Discrete Gaussian Mechanism, ICML 2021, https://arxiv.org/abs/2102.06387.

What is protected is that a node's data was there or not: its change, or none in its place. For one set of
data in the place of another, the noise counts half.
"""

from math import sqrt
from typing import Final

import msgspec
import numpy as np
from nacl.utils import random

from shoal.crypto.discrete_gaussian import Integers, discrete_gaussian
from shoal.crypto.shamir import Entropy
from shoal.gossip.events import Vector
from shoal.gossip.run_spec import PrivacyKind, RunSettings

PIECE: Final = 65_536
"""Numbers that are worked on at a time: what is in between stays in the cache."""
STEPS: Final = 1 << 18
"""Steps of the grid from zero to the clip norm."""
TAIL: Final = 11.0
"""Standard deviations to which noise is cut under masks. Farther out is one number of 10^26."""


class Privacy(msgspec.Struct, frozen=True, kw_only=True):
    """What a run does for privacy. Equal on all peers."""

    kind: PrivacyKind = "none"
    clip_norm: float = 1.0
    noise_multiplier: float = 1.0

    @property
    def is_of_changes(self) -> bool:
        """Whether changes are clipped, and noise is added to them."""
        return self.kind in ("local", "distributed")

    @property
    def step(self) -> float:
        """The distance of neighbours on the grid."""
        return self.clip_norm / STEPS

    def sigma(self, numel: int, threshold: int = 2) -> float:
        """Return the standard deviation of a member's noise, in steps of the grid.

        `numel`: numbers of the change. `threshold`: members that open a sum; of two, one adds all.
        """
        return self.noise_multiplier * (STEPS + sqrt(numel) / 2) / sqrt(max(1, threshold - 1))


NO_PRIVACY: Final = Privacy()


def privacy_of(run: RunSettings) -> Privacy:
    """Return what a run does for privacy."""
    return Privacy(kind=run.privacy, clip_norm=run.clip_norm, noise_multiplier=run.noise_multiplier)


def shrink_of(vector: Vector, origin: Vector | None, clip_norm: float) -> float:
    """Return by what a change is to be multiplied for its norm to be at most this; 0 if it is not finite.

    `vector`: float32 [n]. `origin`: what it is measured from, as long; nothing stands for zero.
    """
    squared = 0.0
    for at in range(0, vector.size, PIECE):
        apart = _apart(vector, origin, at)
        squared += float(np.dot(apart, apart))
    norm = sqrt(squared) if np.isfinite(squared) else np.inf
    return min(1.0, clip_norm / norm) if norm > 0 else 1.0


def on_grid(vector: Vector, origin: Vector | None, shrink: float, step: float) -> Integers:
    """Return a change as whole steps of the grid, int64 [n], of a norm of `STEPS` + sqrt(n) / 2 at most."""
    codes = np.empty(vector.size, np.int64)
    for at in range(0, vector.size, PIECE):
        piece = _apart(vector, origin, at)
        # What is not finite has shrunk to nothing.
        codes[at : at + piece.size] = np.rint(piece * (shrink / step)) if shrink else 0
    return codes


def _apart(vector: Vector, origin: Vector | None, at: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Return a piece of a change, float64."""
    piece = vector[at : at + PIECE].astype(np.float64)
    return piece if origin is None else piece - origin[at : at + PIECE]


def privatise(vector: Vector, origin: Vector | None, privacy: Privacy, entropy: Entropy = random) -> None:
    """Clip a contribution and add the noise of one release, in place: for `local`.

    `vector`: float32 [n]. `origin`: float32 [n], what it is measured from; nothing stands for zero.
    """
    shrink = shrink_of(vector, origin, privacy.clip_norm)
    codes = on_grid(vector, origin, shrink, privacy.step)
    codes += discrete_gaussian(vector.size, privacy.sigma(vector.size), entropy)
    for at in range(0, vector.size, PIECE):
        change = codes[at : at + PIECE] * privacy.step
        vector[at : at + PIECE] = change if origin is None else origin[at : at + PIECE] + change
