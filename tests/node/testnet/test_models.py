"""How far apart models are, told from state files."""

from pathlib import Path

import numpy as np
import pytest

from shoal.gossip.state.tree_hash import state_hash
from shoal.node.storage.checkpoint import Checkpoint, save
from shoal.node.testnet.verdict import models_apart

RUN = b"r" * 32


def store(directory: Path, values: list[float]) -> Path:
    vector = np.array(values, dtype=np.float32)
    directory.mkdir()
    save(directory, Checkpoint(RUN, 3, state_hash(vector.data), b"", vector))
    return directory


def test_the_farthest_model_is_measured_from_the_mean_of_all(tmp_path: Path) -> None:
    paths = [store(tmp_path / str(i), [3.0, 4.0 + step]) for i, step in enumerate((-1.0, 0.0, 1.0))]
    assert models_apart(paths, RUN) == pytest.approx(1 / 5)
    assert models_apart(paths[:1], RUN) == 0.0


def test_a_node_without_a_model_leaves_nothing_to_tell(tmp_path: Path) -> None:
    assert models_apart([store(tmp_path / "one", [1.0]), tmp_path / "none"], RUN) is None
    assert models_apart([], RUN) is None
