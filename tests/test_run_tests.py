"""The runner of the tests repeats what failed over processes once, and nothing else."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.run_tests import (
    CACHE,
    FAILED,
    INTERNAL_ERROR,
    MAX_TOLD,
    NOTHING_COLLECTED,
    PASSED,
    SWARM,
    Low,
    main,
    told,
)


class FakePytest:
    """Answers for pytest: tests over processes fail as often as is told, then pass."""

    def __init__(
        self,
        root: Path,
        failing: dict[str, int] | None = None,
        fast: int = PASSED,
        processes: int | None = None,
    ) -> None:
        self.root = root
        self.failing = dict(failing or {})
        self.fast = fast
        self.processes = processes
        self.calls: list[list[str]] = []

    def __call__(self, arguments: Sequence[str]) -> int:
        self.calls.append(list(arguments))
        (notes,) = (each.removeprefix("--notes=") for each in arguments if each.startswith("--notes="))
        self.notes = Path(notes)
        if not any(each == f"cache_dir={CACHE}" for each in arguments):
            return self.fast
        failed = [test for test, times in self.failing.items() if times > 0 and self._runs(test, arguments)]
        for test in failed:
            self.failing[test] -= 1
        self.notes.write_text("".join(note(failed=test, why="assert 1 == 2\ntest.py:7") for test in failed))
        if failed:
            cache = self.root / CACHE / "v/cache"
            cache.mkdir(parents=True, exist_ok=True)
            (cache / "lastfailed").write_text(json.dumps(dict.fromkeys(failed, True)))
        if self.processes is not None:
            return self.processes
        return FAILED if failed else PASSED

    @staticmethod
    def _runs(test: str, arguments: Sequence[str]) -> bool:
        return test in arguments or "slow" in arguments

    def again(self) -> list[str]:
        """Return the tests that were run by name at the end."""
        return [call[-1] for call in self.calls if len(call) == 4 and call[-1] != SWARM]


def note(**what: str) -> str:
    return json.dumps(what) + "\n"


def over_processes(count: int) -> list[str]:
    return [f"tests/processes/test_swarm.py::test_{index}" for index in range(count)]


def test_all_green_repeats_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakePytest(tmp_path)
    assert main(["all"], fake, tmp_path) == 0
    assert len(fake.calls) == 4
    assert "second run" not in capsys.readouterr().out


def test_two_tests_over_processes_may_fail_once_and_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakePytest(tmp_path, dict.fromkeys(over_processes(2), 1))
    assert main(["rest"], fake, tmp_path) == 0
    assert fake.again() == over_processes(2)
    out = capsys.readouterr().out
    assert all(f"needed a second run: {test}" in out for test in over_processes(2))


def test_a_second_failure_fails_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakePytest(tmp_path, {over_processes(1)[0]: 2})
    assert main(["rest"], fake, tmp_path) == 1
    assert fake.again() == over_processes(1)
    assert f"FAILED: failed twice: {over_processes(1)[0]}" in capsys.readouterr().out


def test_more_than_two_that_fail_once_fail_the_gate_without_another_run(tmp_path: Path) -> None:
    fake = FakePytest(tmp_path, dict.fromkeys(over_processes(3), 1))
    assert main(["rest"], fake, tmp_path) == 1
    assert fake.again() == []


def test_the_swarm_of_the_test_before_counts_among_the_two(tmp_path: Path) -> None:
    fake = FakePytest(tmp_path, {SWARM: 1, **dict.fromkeys(over_processes(2), 1)})
    assert main(["test"], fake, tmp_path) == 0
    assert main(["rest"], fake, tmp_path) == 1
    fresh = FakePytest(tmp_path, dict.fromkeys(over_processes(2), 1))
    assert main(["rest"], fresh, tmp_path) == 0


@pytest.mark.parametrize("tier", ["core", "fast", "test", "all"])
def test_a_fast_test_that_fails_is_never_repeated(tmp_path: Path, tier: str) -> None:
    fake = FakePytest(tmp_path, fast=FAILED)
    assert main([tier], fake, tmp_path) == 1
    assert fake.again() == []


@pytest.mark.parametrize("code", [2, INTERNAL_ERROR, NOTHING_COLLECTED])
def test_a_run_that_ends_otherwise_than_by_failed_tests_is_not_repeated(tmp_path: Path, code: int) -> None:
    fake = FakePytest(tmp_path, dict.fromkeys(over_processes(1), 1), processes=code)
    assert main(["rest"], fake, tmp_path) == 1
    assert fake.again() == []


def test_a_file_that_cannot_be_imported_is_not_repeated(tmp_path: Path) -> None:
    fake = FakePytest(tmp_path, {"tests/processes/test_swarm.py": 1})
    assert main(["rest"], fake, tmp_path) == 1
    assert fake.again() == []


def test_failures_of_an_earlier_run_are_forgotten(tmp_path: Path) -> None:
    assert main(["rest"], FakePytest(tmp_path, {over_processes(1)[0]: 2}), tmp_path) == 1
    fake = FakePytest(tmp_path, processes=FAILED)
    assert main(["rest"], fake, tmp_path) == 1
    assert fake.again() == []


def test_a_selection_of_the_caller_may_leave_a_stage_without_over_processes(tmp_path: Path) -> None:
    nothing = FakePytest(tmp_path, processes=NOTHING_COLLECTED)
    assert main(["test", "-k", "config"], nothing, tmp_path) == 0
    assert main(["test"], nothing, tmp_path) == 1


def test_a_failure_beside_others_fails_the_gate_and_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakePytest(tmp_path, fast=FAILED)
    assert main(["rest"], fake, tmp_path) == 1
    assert fake.again() == []
    assert "FAILED: slow tests that only compute" in capsys.readouterr().out


def test_the_last_lines_say_what_failed_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice, once = over_processes(2)
    assert main(["rest"], FakePytest(tmp_path, {twice: 2, once: 1}), tmp_path) == 1
    last = capsys.readouterr().out.splitlines()[-4:]
    assert last == [f"FAILED: failed twice: {twice}", f"  {twice}", "    assert 1 == 2", "    test.py:7"]


def test_of_many_failures_the_first_are_told(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("".join(note(failed=f"test_{index}", why="no") for index in range(MAX_TOLD + 2)))
    lines = told(path, FAILED)
    assert lines[0] == "  test_0\n    no"
    assert lines[MAX_TOLD:] == ["  and 2 more; see above"]


@pytest.mark.parametrize("code", [-9, INTERNAL_ERROR, FAILED])
def test_a_run_that_was_killed_says_in_the_middle_of_what(tmp_path: Path, code: int) -> None:
    path = tmp_path / "notes"
    assert told(path, code) == [f"  pytest ended with {code}"]
    path.write_text(note(began="test_a") + note(ended="test_a") + note(began="test_b"))
    assert told(path, code) == [f"  pytest ended with {code}, in the middle of test_b"]


TESTS = """
import os
def test_passes(): pass
def test_fails(): assert 1 == 2
def test_dies(): os._exit(7)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_parallel", [True, False])
def test_what_pytest_does_is_noted_whatever_becomes_of_it(tmp_path: Path, is_parallel: bool) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    notes = tmp_path / "notes"
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-c", os.devnull, f"--notes={notes}"]
    command += ["-n", "1"] if is_parallel else []
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    ran = subprocess.run(
        [*command, "test_it.py"], cwd=tmp_path, env=environ, capture_output=True, check=False
    )
    found = "\n".join(told(notes, ran.returncode))
    assert "test_it.py::test_fails\n    assert 1 == 2\n" in found
    assert "test_passes" not in found
    if is_parallel:
        assert "crashed while running 'test_it.py::test_dies'" in found
    else:
        assert "pytest ended with 7, in the middle of test_it.py::test_dies" in found


@pytest.mark.slow
@pytest.mark.timeout(600)  # with what others leave of the processor
def test_what_runs_beside_others_prints_its_output_and_tells_its_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert Low()(["--patience", "2", "--co", "-q", __file__]) == PASSED
    assert "test_run_tests.py" in capsys.readouterr().out


def test_the_short_run_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test"], FakePytest(tmp_path), tmp_path)
    assert "make test-all" in capsys.readouterr().out


def test_an_unknown_tier_is_told_which_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slow"], FakePytest(tmp_path), tmp_path) == 2
    assert "core|fast|test|rest|all" in capsys.readouterr().err
