"""Kept states: few, evenly over a run, and whole at any moment."""

from pathlib import Path

import numpy as np
import pytest

from shoal.crypto.keys import key_from_seed
from shoal.gossip.state.tree_hash import state_hash
from shoal.node.retraining.kept_states import FOLDER, StateKeeper, chosen, kept
from shoal.node.storage.checkpoint import Checkpoint, read_state, save
from shoal.node.storage.database import Store

RUN = bytes(range(32))


def checkpoint(round_: int, run: bytes = RUN) -> Checkpoint:
    vector = np.full(5, round_, np.float32)
    return Checkpoint(run, round_, state_hash(vector.data), b"", vector)


def keeper(state_dir: Path, most: int) -> StateKeeper:
    return StateKeeper(state_dir, Store(state_dir / "shoal.db"), key_from_seed(bytes(32)), most)


@pytest.mark.parametrize("most", [1, 2, 5, 16])
@pytest.mark.parametrize("skipped", [(), range(1, 40), range(3, 400, 3)])
def test_no_more_are_kept_than_was_said_and_each_round_has_one_not_far_before(
    most: int, skipped: tuple[int, ...]
) -> None:
    there = set[int]()
    for round_ in range(300):
        if round_ in skipped:
            continue
        there = chosen({*there, round_}, most)
        assert len(there) <= most
        assert min(there) == 0
        stretch = 1
        while round_ // stretch >= most:
            stretch *= 2
        saved = [each for each in range(round_ + 1) if each not in skipped]
        for at in saved:
            before = max(each for each in there if each <= at)
            # Of the stretch that a round is in the first state that was saved is there, or an earlier one.
            assert len([each for each in saved if before < each <= at]) < 2 * stretch


def test_what_was_saved_is_kept_under_a_second_name_when_the_saved_files_are_gone(tmp_path: Path) -> None:
    keeps = keeper(tmp_path, 3)
    for round_ in range(12):
        keeps.keep(save(tmp_path, checkpoint(round_), keep=1), checkpoint(round_))
    found = kept(tmp_path, RUN)
    assert list(found) == [0, 4, 8]
    for round_, path in found.items():
        assert read_state(path)[0].vector.tolist() == [round_] * 5
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_state_that_is_kept_twice_is_there_once_and_leaves_nothing_beside(tmp_path: Path) -> None:
    keeps = keeper(tmp_path, 3)
    saved = save(tmp_path, checkpoint(0))
    keeps.keep(saved, checkpoint(0))
    keeps.keep(saved, checkpoint(0))
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == [f"{RUN.hex()[:16]}-round0.safetensors"]


def test_another_run_is_kept_apart(tmp_path: Path) -> None:
    keeps, other = keeper(tmp_path, 1), bytes(32)
    for run in (RUN, other):
        keeps.keep(save(tmp_path, checkpoint(0, run)), checkpoint(0, run))
    assert list(kept(tmp_path, RUN)) == list(kept(tmp_path, other)) == [0]


def test_where_files_have_one_name_alone_they_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    keeper(tmp_path, 1).keep(save(tmp_path, checkpoint(0)), checkpoint(0))
    assert read_state(kept(tmp_path, RUN)[0])[0].round == 0


@pytest.mark.parametrize("at", ["os.link", "pathlib.Path.replace", "pathlib.Path.unlink"])
def test_killed_while_it_keeps_a_state_a_node_has_whole_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    class Killed(BaseException):
        """The process ends here."""

    keeps = keeper(tmp_path, 2)
    for round_ in range(2):
        keeps.keep(save(tmp_path, checkpoint(round_)), checkpoint(round_))
    saved = save(tmp_path, checkpoint(2))

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(at, kill)
        with pytest.raises(Killed):
            keeps.keep(saved, checkpoint(2))
    assert {read_state(path)[0].round for path in kept(tmp_path, RUN).values()} >= {0, 1}
    keeps.keep(saved, checkpoint(2))
    assert list(kept(tmp_path, RUN)) == [0, 2]
    assert len(list((tmp_path / FOLDER).iterdir())) == 2
