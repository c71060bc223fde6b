"""Effective rank: how many directions a representation really uses, from sums of Gram matrices.

Roy, Vetterli, "The effective rank: A measure of effective dimensionality", EUSIPCO 2007. With singular
values s of the stacked embeddings, rows normalised, and p = s / sum(s):

    E = exp(- sum p log p)         1 where all rows are parallel, the dimension where all s are equal

The embeddings of local data are private, but E depends only on ZᵀZ, whose eigenvalues are s²: every peer
tells its own ZᵀZ, in fixed point, and all add them.

All peers must come to the same E. LAPACK's last bits depend on the machine, so the eigenvalues are found
by Jacobi's rotations (Golub, Van Loan, "Matrix Computations", 8.5) in operations that IEEE 754 defines one
by one, pairs that share no row turned at once; logarithms and the exponential by `decimal`, which rounds
correctly.
"""

from collections.abc import Sequence
from decimal import Context, Decimal
from math import fsum
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.gossip.errors import RemoteViolation

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FRACTION_BITS: Final = 30
"""Of a mean Gram matrix, none of whose entries is above 1: they fit in an int32."""
NOISE: Final = 2.0 ** (4 - FRACTION_BITS)
"""Eigenvalues below this share of their sum are rounding, not directions: p rows rounded to 2^-31 move
an eigenvalue by about sqrt(p) 2^-30 of the sum."""
WIRE_BITS: Final = 14
"""Fraction bits of a matrix that travels, in int16: at 32 bits it would be a sixth of a small update."""
WIRE_NOISE: Final = 2.0 ** (3 - WIRE_BITS)
SWEEPS: Final = 30
"""Jacobi's method needs about ten; the bound keeps a matrix of a liar from turning for ever."""
RESOLUTION: Final = 10_000
"""Effective ranks are told apart to 1e-4."""


def gram(embeddings: npt.NDArray[np.float32]) -> Integers:
    """Return the mean Gram matrix of the rows, each normalised, in fixed point; int64 [p, p]."""
    rows = embeddings.astype(np.float64)
    lengths = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    mean = rows.T @ rows / max(1, len(rows))
    fixed: Integers = np.rint(np.ldexp((mean + mean.T) / 2, FRACTION_BITS)).astype(np.int64)
    return fixed


def pack(gram: Integers) -> bytes:
    """Return a Gram matrix as bytes: its upper triangle, rounded to int16."""
    shift = FRACTION_BITS - WIRE_BITS
    rounded = (gram[np.triu_indices(len(gram))] + (1 << (shift - 1))) >> shift
    return rounded.astype("<i2").tobytes()


def unpack(data: bytes, width: int) -> Integers:
    """Return a peer's Gram matrix, int64 [width, width].

    Raises:
        RemoteViolation: it is of another size, or none of normalised rows.
    """
    rows, columns = np.triu_indices(width)
    if len(data) != 2 * len(rows):
        raise RemoteViolation("Gram matrix is of another size")
    gram = np.zeros((width, width), np.int64)
    gram[rows, columns] = gram[columns, rows] = np.frombuffer(data, "<i2")
    diagonal = np.diag(gram)
    if np.abs(gram).max(initial=0) > 1 << WIRE_BITS or (diagonal < 0).any():
        raise RemoteViolation("Gram matrix is none of normalised rows")
    if diagonal.sum() > (1 << WIRE_BITS) + width:
        raise RemoteViolation("Gram matrix is none of normalised rows")
    return gram << (FRACTION_BITS - WIRE_BITS)


def merged(grams: Sequence[Integers], counts: Sequence[int]) -> Floats:
    """Return the Gram matrix of all rows; exact, whatever the order. The counts' sum is below 2^32."""
    total = np.zeros_like(grams[0])
    for each, count in zip(grams, counts, strict=True):
        total += count * each
    return total.astype(np.float64)


def effective_rank(matrix: Floats, noise: float = NOISE) -> float:
    """Return the effective rank of rows with this Gram matrix, rounded to 1e-4; 0 if they are all zero."""
    eigenvalues = np.maximum(jacobi_eigenvalues(matrix), 0.0)
    least = noise * fsum(eigenvalues.tolist())
    if not least > 0:
        return 0.0
    singular = np.sqrt(eigenvalues[eigenvalues > least])
    total = fsum(singular.tolist())
    context = Context(prec=30)
    entropy = Decimal(0)
    for value in sorted(np.divide(singular, total).tolist()):
        share = Decimal(value)
        entropy = context.subtract(entropy, context.multiply(share, context.ln(share)))
    return round(float(context.exp(entropy)) * RESOLUTION) / RESOLUTION


def jacobi_eigenvalues(matrix: Floats) -> Floats:
    """Return the eigenvalues of a symmetric matrix, unsorted; the same bits on every machine."""
    size = len(matrix)
    # An odd one out is paired with a row of zeros, which no rotation touches.
    a = np.zeros((size + size % 2,) * 2)
    a[:size, :size] = matrix
    tolerance = np.abs(a).max() * 2.0**-50
    for _ in range(SWEEPS):
        for p, q in _pairings(len(a)):
            _rotate(a, p, q)
        if not np.abs(a - np.diag(np.diag(a))).max() > tolerance:
            break
    return np.diag(a)[:size].copy()


def _pairings(size: int) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Return every pair once, in turns in which nobody is in two, as a round-robin tournament has them."""
    ring = list(range(1, size))
    turns = []
    for shift in range(size - 1):
        order = [0, *ring[shift:], *ring[:shift]]
        first, second = order[: size // 2], order[: size // 2 - 1 : -1]
        turns.append((np.array(first), np.array(second)))
    return turns


def _rotate(a: Floats, p: npt.NDArray[np.int64], q: npt.NDArray[np.int64]) -> None:
    """Turn the planes (p, q) so that a[p, q] becomes 0."""
    off = a[p, q]
    active = off != 0
    safe = np.where(active, off, 1.0)
    theta = np.divide(a[q, q] - a[p, p], 2.0 * safe)
    # Beyond this, theta² overflows and t = 1 / (2 theta) to the last bit.
    theta = np.clip(theta, -1e100, 1e100)
    t = np.divide(np.where(theta < 0, -1.0, 1.0), np.abs(theta) + np.sqrt(theta * theta + 1.0))
    t = np.where(active, t, 0.0)
    c = np.divide(1.0, np.sqrt(t * t + 1.0))
    s = t * c
    rows_p, rows_q = a[p], a[q]
    a[p], a[q] = (
        c[:, None] * rows_p - s[:, None] * rows_q,
        s[:, None] * rows_p + c[:, None] * rows_q,
    )
    columns_p, columns_q = a[:, p], a[:, q]
    a[:, p], a[:, q] = c * columns_p - s * columns_q, s * columns_p + c * columns_q
    a[p, q] = a[q, p] = 0.0
