"""Checkpoints are the old state or the new one, whatever is cut, flipped, killed or full."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from shoal.gossip.state.tree_hash import CHUNK_BYTES, leaves, state_hash
from shoal.node.storage.checkpoint import Checkpoint, DiskFull, Overwritten, load_newest, save

RUN = bytes(range(32))
OTHER_RUN = bytes(range(1, 33))


def checkpoint(round_: int, *, run: bytes = RUN, numel: int = 300) -> Checkpoint:
    vector = np.random.default_rng(round_).standard_normal(numel, dtype=np.float32)
    return Checkpoint(run, round_, state_hash(vector.data), bytes([round_ % 256]) * 32, vector)


def equal(left: Checkpoint | None, right: Checkpoint) -> bool:
    return (
        left is not None
        and (left.run_id, left.round, left.state_hash, left.previous_hash)
        == (right.run_id, right.round, right.state_hash, right.previous_hash)
        and np.array_equal(left.vector, right.vector)
    )


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(7))
    assert equal(load_newest(tmp_path, RUN, numel=300), checkpoint(7))


def test_a_state_that_is_not_finite_is_skipped_for_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(7))
    vector = checkpoint(8).vector
    vector[-1] = np.nan
    save(tmp_path, Checkpoint(RUN, 8, state_hash(vector.data), bytes(32), vector))
    said: list[str] = []
    assert equal(load_newest(tmp_path, RUN, on_skip=lambda _, text: said.append(text)), checkpoint(7))
    assert said == ["it holds numbers that are not finite"]


def test_a_state_of_an_earlier_round_is_found(tmp_path: Path) -> None:
    for round_ in (7, 9, 8):
        save(tmp_path, checkpoint(round_))
    assert equal(load_newest(tmp_path, RUN, before=9), checkpoint(8))
    assert equal(load_newest(tmp_path, RUN, before=8), checkpoint(7))
    assert load_newest(tmp_path, RUN, before=7) is None


def test_nothing_is_loaded_where_nothing_was_saved(tmp_path: Path) -> None:
    assert load_newest(tmp_path, RUN) is None
    assert load_newest(tmp_path / "missing", RUN) is None


def test_any_safetensors_reader_opens_the_file_and_finds_the_named_vectors(tmp_path: Path) -> None:
    whole = checkpoint(1)
    path = save(tmp_path, whole, shared=[("momentum", 90), ("anchor", 10)])
    tensors = load_file(path)
    assert set(tensors) == {"params", "shared.momentum", "shared.anchor"}
    np.testing.assert_array_equal(tensors["params"], whole.vector[:200])
    np.testing.assert_array_equal(tensors["shared.momentum"], whole.vector[200:290])
    np.testing.assert_array_equal(tensors["shared.anchor"], whole.vector[290:])
    assert equal(load_newest(tmp_path, RUN), whole)


def test_the_last_three_of_a_run_are_kept_and_other_runs_are_left_alone(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(1, run=OTHER_RUN))
    for round_ in range(6):
        save(tmp_path, checkpoint(round_))
    assert [name.split("-")[2] for name in names(tmp_path) if name.startswith(RUN.hex()[:16])] == [
        "round3.safetensors",
        "round4.safetensors",
        "round5.safetensors",
    ]
    assert equal(load_newest(tmp_path, OTHER_RUN), checkpoint(1, run=OTHER_RUN))


def test_the_state_saved_last_wins_even_if_its_round_is_earlier(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(20))
    save(tmp_path, checkpoint(15))
    assert equal(load_newest(tmp_path, RUN), checkpoint(15))


def test_a_shared_vector_larger_than_the_state_is_our_own_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="larger than the whole state"):
        save(tmp_path, checkpoint(1), shared=[("momentum", 301)])


def test_a_write_cut_at_any_byte_leaves_the_old_state(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(1))
    written = save(tmp_path, checkpoint(2))
    whole = written.read_bytes()
    written.unlink()
    stray = written.with_name(written.name + ".tmp")
    for cut in range(0, len(whole) + 1, 7):
        stray.write_bytes(whole[:cut])
        assert equal(load_newest(tmp_path, RUN), checkpoint(1))
    save(tmp_path, checkpoint(3))
    assert stray.name not in names(tmp_path)


def test_a_file_cut_at_any_byte_after_its_rename_is_skipped_and_named(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(1))
    written = save(tmp_path, checkpoint(2))
    whole = written.read_bytes()
    skipped: list[Path] = []
    for cut in range(0, len(whole), 5):
        written.write_bytes(whole[:cut])
        skipped.clear()
        assert equal(load_newest(tmp_path, RUN, on_skip=lambda path, _: skipped.append(path)), checkpoint(1))
        assert skipped == [written]


def test_no_flipped_byte_is_believed(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(1))
    written = save(tmp_path, checkpoint(2))
    whole = written.read_bytes()
    for at in range(0, len(whole), 3):
        written.write_bytes(whole[:at] + bytes([whole[at] ^ 0x21]) + whole[at + 1 :])
        found = load_newest(tmp_path, RUN, on_skip=lambda *_: None)
        # Bytes that carry no meaning, such as padding, may differ; then it is the new state, in full.
        assert equal(found, checkpoint(1)) or equal(found, checkpoint(2))


@pytest.mark.parametrize("seed", range(50))
def test_garbage_is_skipped_and_never_raises(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    size = dice.choice([0, 1, 7, 8, 9, 100, 5000])
    announced = dice.choice([0, size, 1 << 20, 1 << 40, 2**63])
    garbage = announced.to_bytes(8, "little") + dice.randbytes(size)
    (tmp_path / f"{RUN.hex()[:16]}-0000000009-round9.safetensors").write_bytes(garbage)
    save(tmp_path, checkpoint(1)).rename(tmp_path / f"{RUN.hex()[:16]}-0000000001-round1.safetensors")
    assert equal(load_newest(tmp_path, RUN, on_skip=lambda *_: None), checkpoint(1))


def test_a_folder_or_dangling_link_of_the_right_name_is_skipped(tmp_path: Path) -> None:
    (tmp_path / f"{RUN.hex()[:16]}-0000000008-round8.safetensors").mkdir()
    (tmp_path / f"{RUN.hex()[:16]}-0000000009-round9.safetensors").symlink_to(tmp_path / "gone")
    assert load_newest(tmp_path, RUN, on_skip=lambda *_: None) is None


def test_a_state_of_another_size_or_run_under_our_name_is_skipped(tmp_path: Path) -> None:
    reasons: list[str] = []
    save(tmp_path, checkpoint(1, numel=200))
    assert load_newest(tmp_path, RUN, numel=300, on_skip=lambda _, why: reasons.append(why)) is None
    foreign = save(tmp_path, checkpoint(2, run=OTHER_RUN))
    foreign.rename(tmp_path / f"{RUN.hex()[:16]}-0000000009-round2.safetensors")
    assert load_newest(tmp_path, RUN, numel=300, on_skip=lambda _, why: reasons.append(why)) is None
    assert reasons == [
        "holds 200 numbers, the model has 300",
        "of another run",
        "holds 200 numbers, the model has 300",
    ]


@contextmanager
def files_at_most(n_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1, 100, 1000, 1500])
def test_a_disk_that_fills_while_writing_leaves_the_old_file_and_no_stray(tmp_path: Path, room: int) -> None:
    save(tmp_path, checkpoint(1))
    before = names(tmp_path)
    with files_at_most(room), pytest.raises(DiskFull, match="no space left for 0.0 MB in .*--home"):
        save(tmp_path, checkpoint(2))
    assert names(tmp_path) == before
    assert equal(load_newest(tmp_path, RUN), checkpoint(1))


def fail_with(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("shoal.node.storage.checkpoint.os.fsync", fsync)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_says_full_only_at_fsync_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    save(tmp_path, checkpoint(1))
    before = names(tmp_path)
    with monkeypatch.context() as patch:
        fail_with(number, patch)
        with pytest.raises(DiskFull) as caught:
            save(tmp_path, checkpoint(2))
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before
    assert equal(load_newest(tmp_path, RUN), checkpoint(1))


def test_a_broken_disk_is_not_called_full_and_leaves_no_stray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(errno.EIO, monkeypatch)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        save(tmp_path, checkpoint(2))
    assert names(tmp_path) == []


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from tests_node_checkpoint import checkpoint, save
round_ = int(sys.stdin.readline())
while True:
    save(Path(sys.argv[1]), checkpoint(round_, numel=200_000))
    print(round_, flush=True)
    round_ += 1
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_the_last_state_it_named_or_the_next(tmp_path: Path) -> None:
    here = tmp_path / "modules"
    here.mkdir()
    (here / "tests_node_checkpoint.py").symlink_to(__file__)
    root = Path(__file__).parents[3]
    dice = random.Random(3)
    round_ = 0
    for written in (0, 1, 3) * 5:
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "state"), str(here), str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{round_}\n")
        child.stdin.flush()
        for later in range(written + 1):
            assert int(child.stdout.readline()) == round_ + later
        round_ += written
        time.sleep(dice.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        acknowledged = [round_, *(int(line) for line in child.stdout.read().splitlines())][-1]
        child.wait()
        child.stdin.close()
        child.stdout.close()
        found = load_newest(tmp_path / "state", RUN, on_skip=lambda path, why: pytest.fail(f"{path}: {why}"))
        assert found is not None
        assert found.round in (acknowledged, acknowledged + 1)
        assert equal(found, checkpoint(found.round, numel=200_000))
        round_ = found.round + 1
    assert round_ >= 15 + 20


def large(value: float) -> Checkpoint:
    vector = np.full(3 * CHUNK_BYTES // 4 + 5, value, np.float32)
    hashes = leaves(vector.data)
    return Checkpoint(RUN, int(value), state_hash(vector.data), b"", vector, leaves=hashes)


def test_a_state_is_saved_from_where_it_lies_a_chunk_at_a_time(tmp_path: Path) -> None:
    state = large(1.0)
    tracemalloc.start()
    try:
        save(tmp_path, state)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * CHUNK_BYTES + 100_000
    found = load_newest(tmp_path, RUN)
    assert found is not None
    assert np.array_equal(found.vector, state.vector)


@pytest.mark.parametrize("at", [0, CHUNK_BYTES // 4, -1])
def test_a_state_that_is_overwritten_while_it_is_saved_leaves_the_old_one(tmp_path: Path, at: int) -> None:
    save(tmp_path, large(1.0))
    torn = large(2.0)
    torn.vector[at] = 3.0
    with pytest.raises(Overwritten):
        save(tmp_path, torn)
    found = load_newest(tmp_path, RUN)
    assert found is not None
    assert found.round == 1
    assert [path.name for path in tmp_path.iterdir()] == [f"{RUN.hex()[:16]}-0000000001-round1.safetensors"]
