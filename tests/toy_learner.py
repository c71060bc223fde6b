"""A learner whose local work can be done on paper: SGD on ½·|w − target|², without torch or batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.methods.base import Trained
from shoal.methods.overlap import Moved

Vector = npt.NDArray[np.float32]


class ToyLearner:
    """See `Learner`. Its data are one point, `target`, seen `examples` times."""

    def __init__(self, target: Sequence[float], examples: int = 1) -> None:
        """`target`: where it would go if left alone."""
        self.target = np.array(target, np.float32)
        self.examples = examples
        self.arrived: Callable[[], Moved | None] = lambda: None
        self.calls: list[dict[str, Any]] = []

    def train(
        self,
        params: Vector,
        *,
        steps: int,
        lr: float,
        batch_size: int,
        proximal: float = 0.0,
        optimizer: str = "task",
        memory: Mapping[str, Vector] | None = None,
        round_: int = 0,
        objective: Any = None,
        correction: Vector | None = None,
        ascent: float = 0.0,
    ) -> Trained:
        """See `Learner`; remembers how often it was called."""
        self.calls.append({"optimizer": optimizer, "round_": round_, "batch_size": batch_size})
        w = params.copy()
        added = np.zeros_like(w) if correction is None else correction
        for _ in range(steps):
            gradient = w - self.target
            if ascent:
                gradient = gradient + np.float32(ascent) * gradient / (np.linalg.norm(gradient) + 1e-7)
            w -= np.float32(lr) * (gradient + added + np.float32(proximal) * (w - params))
            moved = self.arrived()
            w = w if moved is None else self.carry(w, moved)
        count = (memory or {}).get("count", np.zeros(1, np.float32))
        loss = 0.5 * float(((w - self.target) ** 2).sum())
        return Trained(w, loss, steps * batch_size, steps, {"count": count + 1})

    def carry(self, params: Vector, moved: Moved) -> Vector:
        """See `Carrying`."""
        return moved.apply(params)
