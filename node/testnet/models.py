"""How far apart the models of a testnet's nodes are at its end, as their disks tell."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from shoal.node.storage.checkpoint import load_newest


def models_apart(state_dirs: Iterable[Path], run: bytes) -> float | None:
    """Return the largest distance of a model to the mean of all, relative to that mean's length.

    None where a node has stored no state of the run.
    """
    found = [load_newest(directory, run) for directory in state_dirs]
    models = [checkpoint.vector.astype(np.float64) for checkpoint in found if checkpoint is not None]
    if not models or len(models) < len(found) or len({model.size for model in models}) > 1:
        return None
    mean = np.mean(models, axis=0)
    length = float(np.linalg.norm(mean)) or 1.0
    return max(float(np.linalg.norm(model - mean)) for model in models) / length
