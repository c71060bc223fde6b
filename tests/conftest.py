"""What tests of several folders share."""

import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# An example's time says how busy the machine is, not whether it is right; pytest-timeout ends what hangs.
settings.register_profile("shoal", deadline=None)
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
