"""Run the tests in tiers: what a change needs in seconds, before each commit, and as the gate.

    python scripts/run_tests.py core      # cores, crypto, methods by hand; neither torch nor trio: < 20 s
    python scripts/run_tests.py fast      # every test that is not marked slow, in parallel: < 2 min
    python scripts/run_tests.py test      # the fast tests, then one swarm of real processes: < 5 min
    python scripts/run_tests.py rest      # the slow tests that `test` leaves out
    python scripts/run_tests.py all       # test, then rest

What follows the tier is handed to pytest: `python scripts/run_tests.py fast -k config`.

Slow tests that start processes run one at a time, because they wait for real clocks and a second swarm would
take the processor from the first. They leave half of it idle. Slow tests that only compute take that half, at
the lowest priority; what they print comes when they have ended. A test that starts processes can fail because
the machine was busy, so it is run once more at the end, alone, and the last lines name it. The gate fails if
a test fails twice, or if more than two tests need a second run. No other test is ever repeated.

The last lines also say what failed and why, in short; and which test ran if pytest itself was killed.

Exit code: 0 if everything passed, else 1. The times above are for two idle cores.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

COMPUTING: Final = (
    "tests/crypto",
    "tests/gossip/averaging",
    "tests/gossip/matchmaking",
    "tests/gossip/member",
    "tests/gossip/membership",
    "tests/gossip/state",
    "tests/methods",
    "tests/node/trainer/test_fit_check.py",
    "tests/node/trainer/test_model_size.py",
    "tests/sim",
    "tests/test_reproduce.py",
    "tests/test_reproduce_bytes.py",
)
"""Folders and files whose tests start no nodes and read no clock, so that they may share the machine."""

CORE: Final = ("tests/crypto", "tests/gossip", "tests/methods")
NOT_CORE: Final = (
    "tests/crypto/test_keys.py::test_a_peer_id_is_the_one_that_libp2p_derives_and_holds_the_key",
    "tests/gossip/net",
    "tests/gossip/averaging/test_all_reduce_codecs.py",
    "tests/methods/coding/test_kmeans1d.py",
    "tests/methods/deltamask/test_method.py",
    "tests/methods/fedcompress/test_clustering.py",
    "tests/methods/fedcompress/test_method.py",
    "tests/methods/fedln/test_method.py",
    "tests/methods/fedstar",
    "tests/methods/learning",
    "tests/methods/matu/test_method.py",
    "tests/methods/tasks",
    "tests/methods/test_codecs_on_digits.py",
    "tests/methods/test_digits_bars.py",
    "tests/methods/test_overlap_on_digits.py",
)
"""Folders of `core`, and what in them needs torch or trio; tests/no_torch.py refuses to import these."""

SWARM: Final = "tests/processes/test_testnet.py::test_three_nodes_learn_together_what_none_learns_alone"
"""The one swarm of real processes that `test` runs."""

INTEGRATIONS: Final = "tests/integrations"
"""Slow tests in here start nodes beside training frameworks; ``make integrations`` runs them."""

MAX_SECOND_RUNS: Final = 2
"""Tests that may need a second run before the gate fails."""

CACHE: Final = ".pytest_cache/processes"
"""Where pytest keeps what failed in the runs over processes, apart from a developer's own `--lf`."""

NOTES: Final = ".pytest_cache/notes"
"""What tests/conftest.py notes of the tests of a stage, a line of JSON for each thing."""

PASSED: Final = 0
FAILED: Final = 1
INTERNAL_ERROR: Final = 3
NOTHING_COLLECTED: Final = 5
"""Exit codes of pytest."""

MAX_TOLD: Final = 10
"""Failures of a stage that the last lines tell of."""

PATIENT: Final = ("--patience", "5")
"""How many times as long a test may take that others leave little of the processor."""

Pytest = Callable[[Sequence[str]], int]
"""Runs pytest with arguments and returns its exit code."""

LEFT_OUT: Final = """\
left out: the slow tests (the other swarms of real processes, long simulations, methods that train to the
          accuracy of their papers). Run them with: make test-all"""


def run_pytest(arguments: Sequence[str]) -> int:
    """Run pytest in a process of its own, from the root of the repository."""
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, check=False).returncode


class Low:
    """Runs pytest with what others leave of the processor, and prints its output at the end."""

    def __init__(self) -> None:
        """Nothing runs."""
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, arguments: Sequence[str]) -> int:
        """Run pytest; return its exit code."""
        command = ["nice", "-n", "19", sys.executable, "-m", "pytest", *PATIENT, *arguments]
        self._process = process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        # Linux shares the processor among sessions first: a session has a priority of its own.
        with suppress(OSError):
            Path(f"/proc/{process.pid}/autogroup").write_text("19")
        print(process.communicate()[0], end="", flush=True)
        return process.returncode

    def end(self) -> None:
        """End what runs."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)


def told(path: Path, code: int) -> list[str]:
    """Return what failed in a stage, and why, by the notes that were taken; or what ran when pytest ended."""
    notes = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    why = {note["failed"]: note["why"] for note in notes if "failed" in note}
    lines = [f"  {name}\n    " + why[name].replace("\n", "\n    ") for name in list(why)[:MAX_TOLD]]
    if len(why) > MAX_TOLD:
        lines.append(f"  and {len(why) - MAX_TOLD} more; see above")
    ended = {note["ended"] for note in notes if "ended" in note}
    running = [note["began"] for note in notes if "began" in note and note["began"] not in ended]
    if code not in (PASSED, FAILED) or not why:
        lines.append(
            f"  pytest ended with {code}" + "".join(f", in the middle of {each}" for each in running)
        )
    return lines


@dataclass
class Gate:
    """Runs the stages of a tier, and remembers what failed and what needed a second run."""

    pytest: Pytest = run_pytest
    root: Path = ROOT
    low: Pytest = field(default_factory=Low)
    """Runs pytest beside another."""
    more: Sequence[str] = ()
    """Arguments that the caller added; with a selection among them a stage may collect nothing."""
    failures: list[str] = field(default_factory=list)
    """Some lines per stage that failed."""
    second_runs: list[str] = field(default_factory=list)
    """Node ids of the tests that failed once."""
    first_failures: list[str] = field(default_factory=list)
    """What was wrong with them."""
    earlier: int = 0
    """How many tests needed a second run in the tier before, which belongs to the same gate."""

    def stage(self, title: str, *arguments: str) -> None:
        """Run tests that are never repeated."""
        print(f"== {title}", flush=True)
        notes = self._notes("stage")
        self._judge(title, self.pytest([f"--notes={notes}", *arguments, *self.more]), notes)

    def processes(self, title: str, *arguments: str) -> None:
        """Run tests that start processes; a test that fails is kept for `run_again`."""
        print(f"== {title}", flush=True)
        last_failed = self.root / CACHE / "v/cache/lastfailed"
        last_failed.unlink(missing_ok=True)
        notes = self._notes("processes")
        code = self.pytest([f"--notes={notes}", "-o", f"cache_dir={CACHE}", *arguments, *self.more])
        failed = list(json.loads(last_failed.read_text())) if last_failed.exists() else []
        # A file that cannot be imported is listed without a test's name. A second run would not mend it.
        if code == FAILED and failed and all("::" in each for each in failed):
            self.second_runs += failed
            self.first_failures += told(notes, code)
        else:
            self._judge(title, code, notes)

    @contextmanager
    def beside(self, title: str, *arguments: str) -> Iterator[None]:
        """Run tests that are never repeated, beside what is done meanwhile; print them afterwards."""
        codes = [INTERNAL_ERROR]  # unless the thread comes to its end
        notes = self._notes("beside")
        given = [f"--notes={notes}", *arguments, *self.more]
        thread = threading.Thread(target=lambda: codes.insert(0, self.low(given)))
        print(f"== {title}: they have begun", flush=True)
        thread.start()
        try:
            yield
        except BaseException:
            if isinstance(self.low, Low):
                self.low.end()
            raise
        print(f"== {title}", flush=True)
        thread.join()
        self._judge(title, codes[0], notes)

    def run_again(self) -> None:
        """Run what failed over processes once more, alone."""
        if not self.second_runs:
            return
        count = len(self.second_runs) + self.earlier
        if count > MAX_SECOND_RUNS:
            line = f"{count} tests over processes failed; at most {MAX_SECOND_RUNS} are run again"
            self.failures.append("\n".join([line, *self.first_failures]))
            return
        for test in self.second_runs:
            print(f"== once more, alone: {test}", flush=True)
            notes = self._notes("again")
            code = self.pytest([f"--notes={notes}", "-o", f"cache_dir={CACHE}", test])
            if code != PASSED:
                self.failures.append("\n".join([f"failed twice: {test}", *told(notes, code)]))

    def verdict(self) -> int:
        """Print what needed a second run and what failed; return the exit code."""
        print()
        for test in self.second_runs:
            print(f"needed a second run: {test}")
        if self.second_runs and not self.failures:
            print(*self.first_failures, sep="\n")
        for line in self.failures:
            print(f"FAILED: {line}")
        if not self.failures:
            print("passed")
        return FAILED if self.failures else PASSED

    def _notes(self, name: str) -> Path:
        path = self.root / f"{NOTES}-{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        return path

    def _judge(self, title: str, code: int, notes: Path) -> None:
        if code != PASSED and not (code == NOTHING_COLLECTED and self.more):
            self.failures.append("\n".join([title, *told(notes, code)]))


def parallel(how: str) -> tuple[str, ...]:
    """Return pytest's arguments for one process per core."""
    return ("-n", "auto", "--dist", how)


def run_core(gate: Gate) -> None:
    """Test cores, crypto and methods by hand, without torch and trio."""
    left_out = [f"--{'deselect' if '::' in each else 'ignore'}={each}" for each in NOT_CORE]
    arguments = ("-p", "tests.no_torch", "-m", "not slow", *parallel("loadfile"), *left_out, *CORE)
    gate.stage("cores, crypto, methods by hand", *arguments)


def run_fast(gate: Gate) -> None:
    """Run every test that is not slow."""
    gate.stage("fast tests", "-m", "not slow", *parallel("loadfile"))


def run_test(gate: Gate) -> None:
    """Run the fast tests and one swarm."""
    run_fast(gate)
    gate.processes("one swarm of real processes", SWARM)


def run_rest(gate: Gate) -> None:
    """Run the slow tests that `run_test` leaves out."""
    ignored = [f"--ignore={each}" for each in (*COMPUTING, INTEGRATIONS)]
    with gate.beside(
        "slow tests that only compute", "-m", "slow", "--durations=30", *parallel("worksteal"), *COMPUTING
    ):
        gate.processes(
            "slow tests over processes, one at a time",
            "-m",
            "slow",
            "--durations=60",
            f"--deselect={SWARM}",
            *ignored,
        )


def run_all(gate: Gate) -> None:
    """Run every test."""
    run_test(gate)
    run_rest(gate)


TIERS: Final[dict[str, Callable[[Gate], None]]] = {
    "core": run_core,
    "fast": run_fast,
    "test": run_test,
    "rest": run_rest,
    "all": run_all,
}


def leave_count(gate: Gate) -> None:
    """Keep how many second runs `test` needed, for `rest`."""
    path = gate.root / CACHE / "second_runs"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(len(gate.second_runs)))


def take_count(gate: Gate) -> None:
    """Take over how many second runs `test` needed."""
    path = gate.root / CACHE / "second_runs"
    if path.exists():
        gate.earlier = int(path.read_text())
        path.unlink()


def main(arguments: Sequence[str], pytest: Pytest = run_pytest, root: Path = ROOT) -> int:
    """Run a tier; return the exit code."""
    if not arguments or arguments[0] not in TIERS:
        print(f"usage: python scripts/run_tests.py {'|'.join(TIERS)} [arguments of pytest]", file=sys.stderr)
        return 2
    tier = arguments[0]
    gate = Gate(pytest, root, Low() if pytest is run_pytest else pytest, arguments[1:])
    if tier == "rest":
        take_count(gate)
    TIERS[tier](gate)
    gate.run_again()
    if tier == "test":
        leave_count(gate)
        print(LEFT_OUT)
    return gate.verdict()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
