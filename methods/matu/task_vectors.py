"""Task vectors: what fine-tuning on a task adds to a model, and how several fit into one.

Unifying is EMR-Merging's (Huang, Ye, Chen, He, Yue, Ouyang, "EMR-Merging: Tuning-Free High-Performance
Model Merging", NeurIPS 2024, https://arxiv.org/abs/2405.17461):

    γ   = sign Σ_t τ_t                       the elected direction; sign 0 is + here
    τ   = γ · max_t |τ_t| over those t that agree with γ, 0 where none does
    m_t = [τ_t · τ > 0]                      a bit per number
    λ_t = Σ|τ_t| / Σ|m_t ⊙ τ|                one number
    τ_t ≈ λ_t · m_t ⊙ τ                      exact for a single task, and where the supports are disjoint

The signs of all τ_t are in (τ, m_t) too: where a bit is cleared, the sign is the opposite of τ's, or the
number is zero. Similarity of tasks must be computed from these sign planes. Reconstructed vectors have
zeros where tasks disagree, so that tasks on one peer could never be found unlike.

All that peers must agree on bit for bit is made here of single float32 operations, of integers, and of
sums in fixed point.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from shoal.gossip.events import Vector
from shoal.gossip.policies.caps import cap, longest_of, norm, shortened
from shoal.methods.coding.bit_coding import Bits
from shoal.methods.coding.fixed_point import weighted_mean

Signs: TypeAlias = npt.NDArray[np.int8]

MAX_SCALE: Final = 8.0
"""λ multiplies everything; an honest one is seldom above 3."""
CLIP: Final = 3.0
"""A vector counts with at most this many times the median length."""


@dataclass(frozen=True, slots=True)
class Unified:
    """Several task vectors as one."""

    tau: Vector
    masks: tuple[Bits, ...]
    scales: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Combined:
    """A task's vector over its holders."""

    vector: Vector
    agreement: Vector
    """1 where enough holders agree on the sign, else the share by which those who agree are more."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one holder says about a task."""

    vector: Vector
    """Reconstructed: λ m τ."""
    examples: int
    length: float
    """Of the vector."""

    @classmethod
    def of(cls, vector: Vector, examples: int) -> "Contribution":
        """Return it with its length measured, which takes longer than all else that is done with it."""
        return cls(vector, examples, norm(vector))


def unify(vectors: Sequence[Vector]) -> Unified:
    """Return task vectors as one vector with a mask and a scale for each."""
    stacked = np.stack(vectors).astype(np.float32)
    direction = np.where(stacked.sum(axis=0, dtype=np.float64) >= 0, np.float32(1), np.float32(-1))
    tau = direction * np.maximum(stacked * direction, 0).max(axis=0)
    masks = tuple((np.sign(vector) == np.sign(tau)) & (tau != 0) for vector in stacked)
    return Unified(tau, masks, tuple(_scale(v, m, tau) for v, m in zip(stacked, masks, strict=True)))


def reconstruct(tau: Vector, mask: Bits, scale: float) -> Vector:
    """Return what a unified vector holds of one task."""
    return np.multiply(np.float32(scale), np.where(mask, tau, np.float32(0)))


def sign_plane(tau: Vector, mask: Bits) -> Signs:
    """Return the signs of a task's own vector, those of masked numbers too; 0 where nothing is known."""
    signs = np.sign(tau).astype(np.int8)
    return np.where(mask, signs, -signs)


def majority(planes: Sequence[Signs]) -> Signs:
    """Return the sign of most holders for each number; 0 where they are even."""
    total = np.sum(planes, axis=0, dtype=np.int64)
    return np.sign(total).astype(np.int8)


def similarity(one: Signs, other: Signs) -> float:
    """Return 1 for equal signs everywhere, 0 for opposite ones, about ½ for tasks without relation."""
    agreeing = int((one.astype(np.int64) * other).sum())
    return (one.size + agreeing) / (2 * one.size)


def combine(contributions: Sequence[Contribution], rho: float) -> Combined:
    """Return a task's vector over its holders, in the order given.

    Their mean by examples; a number on whose sign fewer than `rho` of the holders agree counts only as
    much as they agree. Nobody is longer than `CLIP` times, nor has more examples than thrice, the median.
    """
    most = cap([c.examples for c in contributions])
    weights = [min(c.examples, most) for c in contributions]
    longest = longest_of([c.length for c in contributions], CLIP)
    clipped = [shortened(c.vector, c.length, longest) for c in contributions]
    mean = weighted_mean(clipped, weights)
    votes = np.sum([np.sign(c.vector).astype(np.int8) for c in contributions], axis=0, dtype=np.int64)
    agreement = np.abs(votes) / len(contributions)
    weight = np.where(agreement >= rho, 1.0, agreement).astype(np.float32)
    return Combined(np.multiply(mean, weight), weight)


def mix(tasks: Sequence[Combined], similarities: Vector, *, neighbours: int, least: float) -> list[Vector]:
    """Add to each task's vector the mean of its most similar ones, each as much as it is similar.

    `similarities` [n, n]; at most so many `neighbours`, each at `least` so similar. Ties go to the first.
    None counts as longer than `CLIP` times the task that it is mixed into: who holds a task alone gives it a
    vector of any length.
    """
    mixed, lengths = [], [norm(task.vector) for task in tasks]
    for i, task in enumerate(tasks):
        row = similarities[i].copy()
        row[i] = -1.0
        chosen = [j for j in np.argsort(-row, kind="stable")[:neighbours].tolist() if row[j] >= least]
        total = np.zeros_like(task.vector)
        for j in chosen:
            added = shortened(tasks[j].vector, lengths[j], CLIP * lengths[i])
            total = np.add(total, np.multiply(row[j], added))
        mean = np.divide(total, np.float32(max(1, len(chosen))))
        mixed.append(np.add(task.vector, np.multiply(task.agreement, mean)))
    return mixed


def _scale(vector: Vector, mask: Bits, tau: Vector) -> float:
    kept = float(np.abs(tau[mask]).sum(dtype=np.float64))
    scale = float(np.abs(vector).sum(dtype=np.float64)) / kept if kept else 0.0
    return min(float(np.float32(scale)), MAX_SCALE)
