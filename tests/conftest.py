"""What tests of several folders share."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# An example's time says how busy the machine is, not whether it is right; pytest-timeout ends what hangs.
# Every run tries the same examples, so that a change is judged by what it changes. To look for others:
# pytest --hypothesis-profile=search
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", _PATIENT, max_examples=1000)
settings.register_profile("shoal", _PATIENT, derandomize=True)
settings.load_profile("shoal")

# Under nohup, or a runner that ignores these, the processes that tests start would begin with them ignored
# and could not be interrupted. A handler, in place of none, is not inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for a run that has little of the processor."""
    parser.addoption("--patience", type=float, default=1.0, help="how many times as long a test may take")
    parser.addoption("--notes", help="a file in which to note what begins, what ends and what fails")


class Notes:
    """Writes down at once what happens, so that it is known whatever becomes of pytest."""

    def __init__(self, path: Path) -> None:
        """`path`: gets a line of JSON for each thing."""
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins; under xdist, in one of its processes."""
        self._note(began=nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """It has ended, in whatever way."""
        self._note(ended=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A part of it has ended."""
        if report.failed:
            self._note(failed=report.nodeid, why=in_short(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file was read."""
        if report.failed:
            self._note(failed=report.nodeid, why=in_short(report))

    def _note(self, **what: str) -> None:
        self._file.write(json.dumps(what) + "\n")


def in_short(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return what was wrong in a few lines, with the place where pytest knows one."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return "\n".join(report.longreprtext.splitlines()[-3:])
    return "\n".join(crash.message.splitlines()[:6]) + f"\n{crash.path}:{crash.lineno}"


def pytest_configure(config: pytest.Config) -> None:
    """Take notes where that is asked for; under xdist in the first process alone, which hears of all."""
    path = config.getoption("--notes")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Notes(Path(path)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give every test the time that `--patience` says."""
    patience = config.getoption("--patience")
    if patience == 1:
        return
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = float(marker.args[0] if marker else config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(patience * seconds), append=False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for torch in this process, if it is loaded at all: tests share the cores."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
