"""Rounds that a node has kept: shown, printed for programs, and handed on to trackers."""

import csv
import io
import json
import math
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from shoal.node.cli import main as cli
from shoal.node.cli.history import seconds_of
from shoal.node.cli.trackers import figures, tracker_of
from shoal.node.errors import BadConfig
from shoal.node.status import RoundStatus
from shoal.node.storage.database import KeptRound, Store
from shoal.node.storage.home import Home


def ended(number: int, ago: float = 0.0, **changes: object) -> RoundStatus:
    at = time.time() - ago
    done = RoundStatus(number, "averaged", 5, 0.5, {"accuracy": 0.25}, 1.0, 0.2, 0.3, at, "ab" * 6)
    return RoundStatus(**{name: getattr(done, name) for name in done.__struct_fields__} | changes)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home whose node has ended two rounds, one of them in vain and three hours ago."""
    place = Home(tmp_path / "home")
    keep(
        place,
        ended(0, 3 * 3600, outcome="failed", loss=math.nan, metrics={}, reason="too few"),
        ended(1, members=["aaa", "bbb"], bytes_sent=30),
    )
    return place


def keep(place: Home, *rounds: RoundStatus) -> None:
    store = Store(place.database)
    for each in rounds:
        store.add_round("cd" * 32, each)
    store.close()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(each) for each in arguments])
    return code, *capsys.readouterr()


def test_rounds_are_shown_with_their_reasons(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "history", "--home", home.path)
    assert code == 0
    assert [line.split()[1] for line in out.splitlines() if "cdcdcd" in line] == ["0", "1"]
    assert "too few" in out
    assert "accuracy 0.25" in out


@pytest.mark.parametrize(
    ("arguments", "rounds"), [([], [0, 1]), (["--since", "2h"], [1]), (["--last", "1"], [1])]
)
def test_a_program_reads_the_rounds_it_asks_for(
    home: Home, capsys: pytest.CaptureFixture[str], arguments: list[str], rounds: list[int]
) -> None:
    found = json.loads(run(capsys, "history", "--home", home.path, "--json", *arguments)[1])
    assert [each["round"] for each in found] == rounds
    assert found[-1]["metrics"] == {"accuracy": 0.25}


def test_csv_has_a_column_for_every_metric(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(run(capsys, "history", "--home", home.path, "--csv")[1])))
    assert [each["metric/accuracy"] for each in rows] == ["", "0.25"]
    assert rows[0]["reason"] == "too few"
    assert rows[1]["members"] == "aaa bbb"
    assert rows[1]["bytes_sent"] == "30"


def test_a_csv_file_of_an_earlier_version_keeps_its_columns(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home.path / "rounds.csv"
    path.write_text("round,outcome,metrics\n7,averaged,{}\n")
    assert run(capsys, "track", "--home", home.path, "--to", f"csv:{path}", "--once")[0] == 0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [each["round"] for each in rows] == ["7", "0", "1"]
    assert None not in rows[1]


def test_a_home_without_rounds_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "history", "--home", tmp_path)
    assert code == 2
    assert "start the node" in err


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("2d", 172800)])
def test_a_span_of_time_is_read(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "d", "-1d", "2w", "1.5h", "9999999d"])
def test_what_is_no_span_of_time_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(BadConfig, match="write 30m, 12h or 2d"):
        seconds_of(text)


def test_a_tracker_goes_on_after_the_last_round_that_it_wrote(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "rounds.csv"
    for number in (2, 3):
        assert run(capsys, "track", "--home", home.path, "--to", f"csv:{place}", "--once")[0] == 0
        keep(home, ended(number))
    rows = list(csv.DictReader(io.StringIO(place.read_text())))
    assert [each["round"] for each in rows] == ["0", "1", "2"]
    assert json.loads(rows[-1]["metrics"]) == {"accuracy": 0.25}


def test_tensorboard_reads_back_what_was_tracked(home: Home, tmp_path: Path) -> None:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert cli.main(["track", "--home", str(home.path), "--to", f"tensorboard:{tmp_path}/tb", "--once"]) == 0
    read = loading.EventAccumulator(str(tmp_path / "tb"))
    read.Reload()
    assert [(each.step, each.value) for each in read.Scalars("shoal/metric/accuracy")] == [(1, 0.25)]


def test_what_is_no_number_is_not_drawn() -> None:
    names = dict(figures(KeptRound(1, "", ended(0, loss=math.nan, metrics={"bad": math.inf, "good": 1.0}))))
    assert "shoal/loss" not in names
    assert "shoal/metric/bad" not in names
    assert names["shoal/metric/good"] == 1.0


@pytest.mark.parametrize("text", ["", "csv", "csv:", "tensorboard:", "excel:a.xls", "csv:/nowhere/at.csv"])
def test_what_is_no_tracker_is_refused_with_what_to_write(
    home: Home, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    code, _, err = run(capsys, "track", "--home", home.path, "--to", text, "--once")
    assert code == 2
    assert "csv:FILE" in err or "name another file" in err


class Refusing(ModuleType):
    """A tracker's library that takes no folder, as that of MLflow."""

    def set_tracking_uri(self, address: str) -> None:
        raise RuntimeError(f"The folder {address} is\nof no use. Read this long page")


def test_what_a_trackers_library_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", Refusing("mlflow"))
    with pytest.raises(BadConfig) as error:
        tracker_of("mlflow:./runs", Home(tmp_path))
    assert str(error.value) == ("mlflow refuses './runs': The folder ./runs is of no use; name another place")
