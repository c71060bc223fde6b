"""The runner of the tests repeats what failed over processes once, and nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.run_tests import CACHE, FAILED, NOTHING_COLLECTED, PASSED, SWARM, Low, main

INTERNAL_ERROR = 3


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
        if not any(each == f"cache_dir={CACHE}" for each in arguments):
            return self.fast
        failed = [test for test, times in self.failing.items() if times > 0 and self._runs(test, arguments)]
        for test in failed:
            self.failing[test] -= 1
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
        return [call[-1] for call in self.calls if len(call) == 3 and call[-1] != SWARM]


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


@pytest.mark.slow
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
