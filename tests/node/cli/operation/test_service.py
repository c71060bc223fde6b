"""`shoal service`: the file it writes, what it says, and what it refuses."""

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.node.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shoal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name in os.environ:
        if name.startswith("SHOAL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["service", *arguments])
        return code, *capsys.readouterr()

    return run


def test_a_service_is_written_told_how_to_start_and_removed(shoal: Run, tmp_path: Path) -> None:
    code, out, _ = shoal("install", "--systemd", "--", "--task", "digits", "--rounds", "7")
    file = tmp_path / "config/systemd/user/shoal.service"
    assert code == 0
    assert f"wrote {file}" in out
    assert "systemctl --user daemon-reload && systemctl --user enable --now shoal" in out
    assert "loginctl enable-linger" in out
    (line,) = [line for line in file.read_text().splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(line.removeprefix("ExecStart="))
    assert words[words.index("start") :] == [
        *("start", "--home", str(tmp_path / "home"), "--task", "digits", "--rounds", "7"),
    ]
    assert file.stat().st_mode & 0o077 == 0
    code, out, _ = shoal("uninstall", "--systemd")
    assert code == 0
    assert not file.exists()
    code, _, err = shoal("uninstall", "--systemd")
    assert code == 1
    assert "see: shoal service install" in err


def test_an_agent_of_launchd_lies_where_launchd_looks(shoal: Run, tmp_path: Path) -> None:
    code, out, _ = shoal("install", "--launchd", "--name", "second", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["file"] == str(tmp_path / "Library/LaunchAgents/org.second.plist")
    assert told["start"].startswith("launchctl bootstrap gui/")
    assert not told["started"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "--", "--tsk", "digits"], "--tsk"),
        (["show", "--", "--rounds", "-1"], "--rounds: expected int >= 0"),
        (["show", "--", "--home", "x"], "--home stands before the --"),
        (["show", "--systemd", "--launchd"], "give one of them"),
        (["show", "--name", "a b"], "small letters"),
        (["show", "--launchd", "--system"], "--system is for systemd"),
    ],
)
def test_what_would_not_start_is_refused_before_it_is_a_service(
    shoal: Run, arguments: list[str], words: str
) -> None:
    code, out, err = shoal(*arguments)
    assert code == 2
    assert out == ""
    assert words in err


def test_settings_of_the_environment_are_part_of_the_service(
    shoal: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_RUN_SEED", "3")
    _, out, _ = shoal("show", "--systemd")
    assert "Environment=SHOAL_RUN_SEED=3" in out
    assert "SHOAL_HOME" not in out
