"""A base on the disk: written, mapped, fetched into its place, resumed; damage is found, room looked for."""

from pathlib import Path

import numpy as np
import pytest

from shoal.gossip.run_spec import TensorSpec
from shoal.gossip.state.pinned_hash import BLOCK_BYTES, pinned_hash
from shoal.node.storage.base_file import BaseFile

SPECS = (TensorSpec("a", "int8", (5,)), TensorSpec("b", "float32", (3, BLOCK_BYTES // 4)))
TENSORS = [np.random.default_rng(1).bytes(5), np.random.default_rng(2).bytes(3 * BLOCK_BYTES)]
NAME = pinned_hash(zip(SPECS, TENSORS, strict=True))


def written(folder: Path) -> BaseFile:
    file = BaseFile(folder, NAME, SPECS)
    file.write(iter(TENSORS))
    return file


def test_what_is_written_is_mapped_with_its_leaves(tmp_path: Path) -> None:
    base = written(tmp_path / "state").open()
    assert base is not None
    assert base.tree.root(base.leaves) == NAME
    assert [bytes(base.data[where]) for _, where in base.tree.tensors()] == TENSORS


def test_a_fetch_goes_on_with_the_blocks_that_verify(tmp_path: Path) -> None:
    given = written(tmp_path / "giver").open()
    assert given is not None
    file = BaseFile(tmp_path / "newcomer", NAME, SPECS)
    first = file.begin()
    assert (first.leaves, first.have) == (b"", frozenset())
    file.keep_leaves(given.leaves)
    for chunk in (0, 2):
        first.data[first.tree.span(chunk)] = given.data[given.tree.span(chunk)]
    first.data[first.tree.span(3)] = bytes(BLOCK_BYTES)  # torn
    second = BaseFile(tmp_path / "newcomer", NAME, SPECS).begin()
    assert (second.leaves, second.have) == (given.leaves, frozenset({0, 2}))
    for chunk in (1, 3):
        second.data[second.tree.span(chunk)] = given.data[given.tree.span(chunk)]
    assert not file.is_whole
    file.finish(second)
    whole = file.open()
    assert whole is not None
    assert [bytes(whole.data[where]) for _, where in whole.tree.tensors()] == TENSORS


def test_leaves_of_another_base_are_not_believed(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.keep_leaves(bytes(32 * file.tree.n_chunks))
    assert file.open() is None
    assert file.begin().leaves == b""


def test_a_full_disk_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": BLOCK_BYTES * 5})())
    with pytest.raises(OSError, match=r"less than 1\.57 MB are free"):
        written(tmp_path)
    assert list(tmp_path.iterdir()) == []
