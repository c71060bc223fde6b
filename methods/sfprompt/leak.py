"""How much of the inputs a host could compute from activations: what a linear decoder finds, as a share.

The decoder is fitted on one half of a node's examples, with both sides known, and judged on the other half.
It is the least that somebody can do who has some examples of the kind: R² of 1 means that the activations
tell the inputs, and one of 0 does not mean that they are safe.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]

MOST_EXAMPLES: Final = 512
LEAST_EXAMPLES: Final = 20
RIDGE: Final = 1e-3
"""Of the mean square of the activations."""


def decoded_share(activations: Rows, inputs: Rows) -> float | None:
    """Return R² of a linear decoder from activations [n, ...] to inputs [n, ...], 0 at least.

    Each input counts alike, whatever its scale; those that never change count for nothing. None: there are
    fewer than 20 examples, or the inputs never change.
    """
    n = min(len(inputs), MOST_EXAMPLES)
    if n < LEAST_EXAMPLES:
        return None
    a = activations[:n].reshape(n, -1).astype(np.float64)
    x = inputs[:n].reshape(n, -1).astype(np.float64)
    half = n // 2
    spread = x[:half].std(axis=0)
    x = (x[:, spread > 0] - x[:half, spread > 0].mean(axis=0)) / spread[spread > 0]
    if not x.shape[1]:
        return None
    a -= a[:half].mean(axis=0)
    left = float(np.square(x[half:] - _ridge(a[:half], x[:half], a[half:])).sum())
    return max(0.0, 1.0 - left / float(np.square(x[half:]).sum()))


def _ridge(a: npt.NDArray[Any], x: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what a ridge regression of x on a says for other rows; solved among rows, which are few."""
    kernel = a @ a.T
    ridge = RIDGE * max(float(np.trace(kernel)), 1e-12) * np.eye(len(a))
    found: npt.NDArray[Any] = others @ (a.T @ np.linalg.solve(kernel + ridge, x))
    return found
