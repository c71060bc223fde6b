"""Products: the exact mean of low-rank changes, as a low-rank change again.

The mean of products B_k · A_k is no product of the means. Stacked, Σ w_k B_k A_k is one product of rank
K · r; its best approximation of rank r, by the singular values, is what is kept (Eckart and Young).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.gossip.policies.caps import longest_of
from shoal.methods.base import Array

Factors = tuple[Array, Array]
"""(A [r, in], B [out, r])."""


def norm_of(factors: Factors) -> float:
    """Return the Euclidean norm of a product."""
    a, b = (each.astype(np.float64) for each in factors)
    return float(np.sqrt(max(0.0, np.sum((b.T @ b) * (a @ a.T)))))


def mean_product(factors: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return factors of the weighted mean of products, of the rank that each of them has; float32.

    No product counts for more than the lower median of their norms. `weights`: their sum is 1.
    """
    norms = [norm_of(each) for each in factors]
    most = longest_of(norms, 1.0)
    shares = [w * (min(1.0, most / norm) if norm else 1.0) for w, norm in zip(weights, norms, strict=True)]
    rank = factors[0][0].shape[0]
    rows = np.concatenate([a.astype(np.float64) for a, _ in factors])
    columns = np.concatenate([s * b.astype(np.float64) for s, (_, b) in zip(shares, factors, strict=True)], 1)
    return best_of_rank(rows, columns, rank)


def best_of_rank(rows: npt.NDArray[Any], columns: npt.NDArray[Any], rank: int) -> Factors:
    """Return factors of the best approximation of columns · rows with this rank; float32."""
    left, r_left = np.linalg.qr(columns)
    right, r_right = np.linalg.qr(rows.T)
    u, values, v = np.linalg.svd(r_left @ r_right.T)
    root = np.sqrt(values[:rank])
    b, a = left @ u[:, :rank] * root, (root * (right @ v[:rank].T)).T
    # Of the two signs of a direction, the one with which its largest number is positive.
    largest = np.abs(a).argmax(1)
    signs = np.where(a[np.arange(len(a)), largest] < 0, -1.0, 1.0)
    a, b = signs[:, None] * a, b * signs
    short = rank - len(a)
    a, b = np.pad(a, ((0, short), (0, 0))), np.pad(b, ((0, 0), (0, short)))
    return a.astype(np.float32), b.astype(np.float32)
