"""Posterior: the chance of every weight to be kept, as whole numbers of votes.

    θ = (α - 1) / (α + β - 2)      the mode of Beta(α, β);  α = λ + votes for keeping, β = λ + votes against

With λ = 1 this is the mean of the votes. Every weight gets every vote, so that one count of all votes will
do for all. Chances are 32-bit integers, made of the counts by integer arithmetic: two peers with the same
votes have the same chances, whatever the order in which the votes came.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.gossip.events import Vector
from shoal.methods.coding.bit_coding import Bits
from shoal.methods.coding.keystream import Words

ONE: Final = 1 << 32
"""The chance 1, as an integer."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed before any vote."""

    theta: float
    """The chance until the first vote."""
    strength: int
    """λ."""
    floor: float
    """Chances are held this far from 0 and 1."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """Votes on every weight."""

    prior: Prior
    kept: Vector
    """For keeping it; whole numbers below 2^24."""
    votes: int
    """On each."""

    def after(self, masks: Iterable[Bits]) -> "Posterior":
        """Return the posterior after one more vote for each mask."""
        kept, votes = self.kept.astype(np.int64), self.votes
        for mask in masks:
            kept += mask
            votes += 1
        return replace(self, kept=kept.astype(np.float32), votes=votes)

    def restarted(self) -> "Posterior":
        """Return the posterior without a vote."""
        return replace(self, kept=np.zeros_like(self.kept), votes=0)

    def chances(self) -> Words:
        """Return θ · 2^32, rounded down, for every weight."""
        lowest, highest = int(self.prior.floor * ONE), int((1.0 - self.prior.floor) * ONE)
        ahead = self.prior.strength - 1
        total = 2 * ahead + self.votes
        if self.votes == 0:
            theta = np.full(self.kept.shape, int(self.prior.theta * ONE), np.uint64)
        else:
            theta = ((self.kept.astype(np.uint64) + np.uint64(ahead)) << np.uint64(32)) // np.uint64(total)
        return np.clip(theta, lowest, highest).astype(np.uint32)


def from_scores(scores: Vector) -> Words:
    """Return the chances of logits; not to the last bit the same on all machines, so never agreed upon."""
    theta = 1 / (1 + np.exp(-scores.astype(np.float64)))
    return np.clip(np.floor(theta * ONE), 0, ONE - 1).astype(np.uint32)


def to_scores(chances: Words) -> Vector:
    """Return the logits of chances strictly between 0 and 1."""
    theta = chances / ONE
    return np.log(theta / (1 - theta)).astype(np.float32)


def divergence(mine: Words, agreed: Words) -> npt.NDArray[np.float64]:
    """Return KL(Bernoulli(mine) ‖ Bernoulli(agreed)) for every weight; a chance in `mine` may be 0."""
    p, q = mine / ONE, agreed / ONE
    tiny = 1.0 / ONE
    kl: npt.NDArray[np.float64] = p * np.log(np.maximum(p, tiny) / q) + (1 - p) * np.log(
        np.maximum(1 - p, tiny) / (1 - q)
    )
    return kl
