"""shoal runs: what a node has heard of, as a table and as JSON."""

import json
import os
from pathlib import Path

import msgspec
import pytest
from fake_node import HOSTILE, make_status

from shoal.node.cli import main as cli
from shoal.node.status import HeardRunStatus

OURS = HeardRunStatus(
    name="ours", run_id="aa", peers=2, linked=2, round=7, ours=True, task="digits", method="fedavg",
    mode="invite", rounds=20, accuracy=0.91,
)  # fmt: skip
OPEN = HeardRunStatus(
    name="other", run_id="bb", peers=5, linked=1, round=3, ours=False, task="shapes", method="diloco",
    mode="open",
)  # fmt: skip
FAR = HeardRunStatus(name=HOSTILE, run_id="cc", peers=1, linked=0, round=0, ours=False)


def shown(
    capsys: pytest.CaptureFixture[str],
    patch: pytest.MonkeyPatch,
    tmp_path: Path,
    *runs: HeardRunStatus,
    flag: str = "",
) -> str:
    for name in [name for name in os.environ if name.startswith("SHOAL_")]:
        patch.delenv(name)
    patch.setenv("SHOAL_HOME", str(tmp_path))
    patch.setenv("COLUMNS", "200")
    status = msgspec.structs.replace(make_status(), runs=list(runs))
    patch.setattr("shoal.node.web.client.fetch_status", lambda home: status)
    assert cli.main(["runs", *([flag] if flag else [])]) == 0
    return capsys.readouterr().out


def test_each_run_is_a_row_and_what_nobody_has_shown_is_a_dash(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = shown(capsys, monkeypatch, tmp_path, OURS, OPEN, FAR)
    rows = [line.split() for line in out.splitlines()]
    assert ["ours", "ours", "digits", "fedavg", "3", "7", "of", "20", "0.91", "invite", "aa"] in rows
    assert ["other", "shapes", "diloco", "5", "3", "-", "open", "bb"] in rows
    [far] = [row for row in rows if row[-1:] == ["cc"]]
    assert far[-6:] == ["-", "1", "0", "-", "-", "cc"]
    assert "\x1b" not in out
    assert "to join one: shoal start --task TASK --method METHOD --run NAME" in out


def test_scripts_get_one_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = json.loads(shown(capsys, monkeypatch, tmp_path, OURS, flag="--json"))
    assert told == [msgspec.to_builtins(OURS)]


def test_where_nothing_is_known_the_next_step_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "begin one: shoal start --task TASK" in shown(capsys, monkeypatch, tmp_path)
