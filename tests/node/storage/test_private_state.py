"""The private state on disk."""

import logging
from pathlib import Path

import numpy as np
import pytest

from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.node.storage.private_state import PrivateState

SPEC = RunSpec(method="diloco", task="digits", tensors=(TensorSpec("w", "float32", (2,)),))
VECTORS = {"exp_avg": np.array([1, 2], np.float32), "step": np.array([3], np.float32)}


def test_what_was_saved_last_is_loaded(tmp_path: Path) -> None:
    store = PrivateState(tmp_path, SPEC, "feedback")
    assert store.load() is None
    store.save({"step": np.zeros(1, np.float32)})
    store.save(VECTORS)
    found = PrivateState(tmp_path, SPEC, "feedback").load()
    assert found is not None
    assert {name: vector.tolist() for name, vector in found.items()} == {"exp_avg": [1, 2], "step": [3]}
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_another_run_has_a_file_of_its_own(tmp_path: Path) -> None:
    PrivateState(tmp_path, SPEC, "feedback").save(VECTORS)
    other = RunSpec(method="diloco", task="digits", tensors=SPEC.tensors, name="other")
    assert PrivateState(tmp_path, other, "feedback").load() is None


def test_nothing_private_writes_no_file(tmp_path: Path) -> None:
    PrivateState(tmp_path, SPEC, "feedback").save({})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", range(0, 200, 20))
def test_a_torn_file_is_said_and_gone_without(
    cut: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = PrivateState(tmp_path, SPEC, "feedback")
    store.save(VECTORS)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole) - 1)])
    with caplog.at_level(logging.WARNING):
        assert store.load() is None
    assert "going on without it" in caplog.text


def test_a_disk_that_cannot_be_written_keeps_the_trainer_going(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    PrivateState(tmp_path / "gone", SPEC, "feedback").save(VECTORS)
    assert "cannot be written (No such file or directory)" in caplog.text
