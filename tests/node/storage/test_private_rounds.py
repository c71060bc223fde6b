"""Private states by round: which one belongs to a shared state, over restarts and disks that fail."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id
from shoal.methods.base import Array, Deferred
from shoal.node.storage.checkpoint import Checkpoint, save
from shoal.node.storage.private_rounds import LARGE, MAX_KEPT, WRITE_EVERY, Mark, PrivateRounds

SPEC = RunSpec(method="fedspeed", task="digits", tensors=(TensorSpec("w", "float32", (2,)),))
INITIAL: Mapping[str, Array] = {}


def store(folder: Path | None, *, matches_state: bool = True, spec: RunSpec = SPEC) -> PrivateRounds:
    made = PrivateRounds(INITIAL, spec, folder, matches_state=matches_state)
    made.restore()
    return made


def dual(value: float) -> dict[str, Array]:
    return {"dual": np.array([value, -value], np.float32)}


def value_of(private: Mapping[str, Array]) -> float:
    return float(private["dual"][0]) if private else 0.0


def mark(round_: int, state: bytes = b"") -> Mark:
    return Mark(round_, state or bytes([round_]) * 32)


def at(kept: PrivateRounds, round_: int, state: bytes = b"") -> tuple[float, int]:
    private, away = kept.at(mark(round_, state))
    return value_of(private), away


def run_rounds(kept: PrivateRounds, *rounds: int) -> None:
    for round_ in rounds:
        at(kept, round_)
        kept.made(mark(round_ + 1), dual(round_ + 1))


def checkpoint(folder: Path, round_: int) -> None:
    vector = np.zeros(2, np.float32)
    save(folder, Checkpoint(run_id(SPEC), round_, bytes(32), b"", vector))


@pytest.mark.parametrize("is_on_disk", [True, False])
def test_each_round_goes_on_from_what_the_last_one_made(is_on_disk: bool, tmp_path: Path) -> None:
    kept = store(tmp_path if is_on_disk else None)
    for round_ in range(5):
        assert at(kept, round_) == (round_, 0)
        kept.made(mark(round_ + 1), dual(round_ + 1))


def test_a_round_that_is_run_again_begins_with_the_same(tmp_path: Path) -> None:
    kept = store(tmp_path)
    run_rounds(kept, 0, 1)
    assert at(kept, 1) == (1, 0)
    assert at(store(tmp_path), 1) == (1, 0)


@pytest.mark.parametrize("restarts", [True, False])
def test_a_state_that_another_one_replaced_takes_its_private_state_with_it(
    restarts: bool, tmp_path: Path
) -> None:
    kept = store(tmp_path)
    run_rounds(kept, 0, 1)
    kept = store(tmp_path) if restarts else kept
    # The swarm made another state of round 2, without us.
    assert at(kept, 2, b"other") == (1, 1)
    assert at(kept, 5) == (1, 4)
    # And if it was ours after all, then so is what we made.
    assert at(kept, 2) == (2, 0)


def test_what_was_made_beside_the_swarm_is_given_up_with_the_next_round(tmp_path: Path) -> None:
    kept = store(tmp_path)
    run_rounds(kept, 0, 1)
    at(kept, 4)
    kept.made(mark(5), dual(5))
    kept = store(tmp_path)
    assert at(kept, 2) == (1, 1)
    assert at(kept, 5) == (5, 0)


def test_a_newcomer_has_what_is_before_round_0_and_missed_all_others(tmp_path: Path) -> None:
    assert at(store(tmp_path), 7) == (0, 7)


def test_no_private_state_of_a_later_round_is_used(tmp_path: Path) -> None:
    kept = store(tmp_path)
    run_rounds(kept, 0, 1, 2, 3)
    checkpoint(tmp_path, 3)
    run_rounds(kept, 4)
    assert at(kept, 2, b"other") == (0, 2)


def test_what_a_checkpoint_on_a_slow_disk_needs_is_kept_until_a_later_one_is_there(tmp_path: Path) -> None:
    kept = store(tmp_path)
    run_rounds(kept, 0)
    checkpoint(tmp_path, 1)
    run_rounds(kept, 1, 2, 3)
    # All nodes were killed at once, and the last that is on disk is the state of round 1.
    assert at(store(tmp_path), 1) == (1, 0)
    checkpoint(tmp_path, 4)
    kept = store(tmp_path)
    run_rounds(kept, 4, 5)
    assert [path.name.split("-")[3] for path in sorted(tmp_path.glob("private-*"))] == [
        "round4",
        "round5",
        "round6",
    ]


def test_a_disk_that_takes_no_checkpoints_is_not_filled(tmp_path: Path) -> None:
    kept = store(tmp_path)
    run_rounds(kept, *range(3 * MAX_KEPT))
    assert len(list(tmp_path.iterdir())) == MAX_KEPT
    assert at(store(tmp_path), 3 * MAX_KEPT) == (3 * MAX_KEPT, 0)


@pytest.mark.parametrize("cut", range(0, 200, 20))
def test_a_torn_file_is_said_and_gone_without(
    cut: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_rounds(store(tmp_path), 0, 1)
    (path,) = tmp_path.glob("private-*-round2-*")
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole) - 1)])
    with caplog.at_level(logging.WARNING):
        assert at(store(tmp_path), 2) == (1, 1)
    assert "going on without it" in caplog.text
    assert len(list(tmp_path.glob("*.unusable"))) == 1


def test_what_is_of_no_use_is_set_aside_and_not_used_again(tmp_path: Path) -> None:
    kept = store(tmp_path)
    run_rounds(kept, 0, 1)
    assert at(kept, 2) == (2, 0)
    kept.set_aside("is of no use")
    assert at(kept, 2) == (1, 1)
    assert len(list(tmp_path.glob("*-round2-*.unusable"))) == 1


def test_a_disk_that_cannot_be_written_keeps_the_trainer_going(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = store(tmp_path / "gone")
    run_rounds(kept, 0, 1)
    assert at(kept, 2) == (2, 0)
    assert "cannot be written (No such file or directory)" in caplog.text


def test_half_a_file_of_a_killed_trainer_is_no_private_state_and_goes(tmp_path: Path) -> None:
    kept = store(tmp_path)
    run_rounds(kept, 0)
    (path,) = tmp_path.iterdir()
    stray = path.with_name(path.name + ".abc.tmp")
    stray.write_bytes(path.read_bytes()[:10])
    kept = store(tmp_path)
    run_rounds(kept, 1)
    assert not stray.exists()


def test_another_run_has_files_of_its_own(tmp_path: Path) -> None:
    run_rounds(store(tmp_path), 0)
    other = RunSpec(method="fedspeed", task="digits", tensors=SPEC.tensors, name="other")
    assert at(store(tmp_path, spec=other), 1) == (0, 1)


def test_what_is_not_restored_goes_with_the_next_state(tmp_path: Path) -> None:
    run_rounds(store(tmp_path), 0, 1, 2)
    anew = PrivateRounds(INITIAL, SPEC, tmp_path, matches_state=True)
    run_rounds(anew, 0)
    assert [path.name.split("-")[3] for path in tmp_path.iterdir()] == ["round1"]


def test_nothing_private_writes_no_file(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.at(mark(0))
    kept.made(mark(1), {})
    assert list(tmp_path.iterdir()) == []


def test_moments_are_of_use_beside_any_state_and_the_newest_are_taken(tmp_path: Path) -> None:
    kept = store(tmp_path, matches_state=False)
    for round_ in range(3):
        assert value_of(kept.at(Mark(round_))[0]) == round_
        kept.made(Mark(round_ + 1), dual(round_ + 1))
    assert value_of(store(tmp_path, matches_state=False).at(Mark(2))[0]) == 2
    private, away = store(tmp_path, matches_state=False).at(Mark(9))
    assert (value_of(private), away) == (3, 6)


class Live(Deferred):
    """Moments of an optimizer that lives on: what is read is how they are then."""

    reads = 0

    def __init__(self, value: float, nbytes: int) -> None:
        self.value, self._nbytes = value, nbytes

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def __getitem__(self, name: str) -> Array:
        type(self).reads += 1
        return np.array([self.value, 0], np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(("dual",))

    def __len__(self) -> int:
        return 1


def run_live(kept: PrivateRounds, first: int, last: int, nbytes: int = LARGE) -> None:
    for round_ in range(first, last):
        kept.at(Mark(round_))
        kept.made(Mark(round_ + 1), Live(round_ + 1, nbytes))


def on_disk(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-round")[1].split("-")[0]) for path in folder.glob("private-*"))


def test_large_moments_are_written_now_and_then_and_there_is_always_a_file(tmp_path: Path) -> None:
    kept = store(tmp_path, matches_state=False)
    seen = []
    for round_ in range(2 * WRITE_EVERY + 1):
        run_live(kept, round_, round_ + 1)
        seen.append(on_disk(tmp_path)[-1])
        checkpoint(tmp_path, round_ + 1)
    assert seen == [1] * WRITE_EVERY + [1 + WRITE_EVERY] * WRITE_EVERY + [1 + 2 * WRITE_EVERY]
    again = store(tmp_path, matches_state=False)
    assert value_of(again.at(Mark(2 * WRITE_EVERY + 3))[0]) == 1 + 2 * WRITE_EVERY


def test_what_was_made_last_is_written_when_the_trainer_ends(tmp_path: Path) -> None:
    kept = store(tmp_path, matches_state=False)
    run_live(kept, 0, 4)
    assert on_disk(tmp_path) == [1]
    kept.settle()
    assert on_disk(tmp_path)[-1] == 4
    assert value_of(store(tmp_path, matches_state=False).at(Mark(4))[0]) == 4


def test_moments_that_are_not_written_are_not_read_either_and_go_on_from_round_to_round(
    tmp_path: Path,
) -> None:
    kept = store(tmp_path, matches_state=False)
    run_live(kept, 0, 1)
    Live.reads = 0
    run_live(kept, 1, 5)
    assert Live.reads == 0
    assert isinstance(kept.at(Mark(5))[0], Live)


@pytest.mark.parametrize(("nbytes", "matches_state"), [(LARGE - 1, False), (LARGE, True)])
def test_small_moments_and_those_of_one_state_are_written_every_round(
    nbytes: int, matches_state: bool, tmp_path: Path
) -> None:
    kept = store(tmp_path, matches_state=matches_state)
    for round_ in range(3):
        run_live(kept, round_, round_ + 1, nbytes)
        assert on_disk(tmp_path)[-1] == round_ + 1
