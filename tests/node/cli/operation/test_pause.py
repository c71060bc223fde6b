"""`shoal pause` and `shoal resume`: what reaches the node, and what its user is told."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_node import FakeNode, make_status

from shoal.node.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shoal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--home", str(tmp_path / "home")])
        return code, *capsys.readouterr()

    return run


def test_a_pause_reaches_the_node_with_its_length(shoal: Run, tmp_path: Path) -> None:
    with FakeNode(tmp_path / "home", make_status, tmp_path) as node:
        assert shoal("pause") == (0, "paused until: shoal resume\n", "")
        assert shoal("pause", "--for", "2h") == (0, "paused for 2.0 h, or until: shoal resume\n", "")
        assert shoal("resume") == (0, "goes on\n", "")
        assert node.control.told == ["pause None", "pause 7200.0", "resume"]


def test_what_keeps_a_node_from_training_all_the_same_is_told(shoal: Run, tmp_path: Path) -> None:
    status = make_status(phase="paused", pause="the machine runs on its battery: schedule.on_battery")
    with FakeNode(tmp_path / "home", lambda: status, tmp_path):
        _, out, _ = shoal("resume")
        assert out == "still not training: the machine runs on its battery: schedule.on_battery\n"
        _, out, _ = shoal("status")
        assert "paused" in out
        assert "runs on its battery" in out


def test_a_time_that_is_none_is_refused_before_the_node_is_asked(shoal: Run) -> None:
    code, out, err = shoal("pause", "--for", "2 hours")
    assert (code, out) == (2, "")
    assert err.startswith("error: --for: '2 hours' is no time; write 90s, 30m, 2h or 1d")
    code, _, err = shoal("resume")
    assert code == 1
    assert "shoal start" in err
