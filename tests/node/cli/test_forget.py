"""shoal forget: a request on this disk alone, and a report that a person can show."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_node import FakeNode, make_status

from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id
from shoal.gossip.state.tree_hash import state_hash
from shoal.methods.errors import BadOption
from shoal.methods.learning.forgetting import Note, Request
from shoal.node.cli import main as cli
from shoal.node.errors import BadConfig
from shoal.node.storage.checkpoint import Checkpoint, save
from shoal.node.storage.database import Store
from shoal.node.storage.forget_file import NAME, ForgetFile
from shoal.node.storage.forget_report import NOT_PROMISED, check, sign, text_of
from shoal.node.storage.home import Home
from shoal.node.storage.model_file import remember_spec


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    found = Home(tmp_path / "home")
    found.create_key()
    return found


def note(round_: int, *, unlearned: bool = True, before: float = 0.9, after: float = 0.1) -> Note:
    return Note(
        round=round_, forgotten=12, before=before, after=after, kept_before=0.97, kept_after=0.96,
        state_before="aa" * 32, state_after="bb" * 32, peers=("a", "b", "c"), unlearned=unlearned,
    )  # fmt: skip


# --- the request ---------------------------------------------------------------------------------------


def test_a_request_is_written_and_nothing_else_happens(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["forget", "--classes", "9,8", "--rounds", "3"]) == 0
    assert ForgetFile(home.state_dir).request() == Request(classes=(8, 9), rounds=3)
    said = capsys.readouterr().out
    assert "no other node is told" in said
    assert "no node runs here now" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "say what to forget: --classes 8,9, --peer-data or --trigger FILE"),
        (["--classes", "eight"], "write labels as numbers"),
        (["--classes", "-1"], "write labels as numbers"),
        (["--trigger", "nowhere.npz"], "no .npz file with arrays mask and pattern"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(
    home: Home, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert cli.main(["forget", *words]) != 0
    assert told in capsys.readouterr().err
    assert not (home.state_dir / NAME).exists()


def test_a_second_request_is_refused_until_it_may_replace_the_first(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["forget", "--peer-data"])
    assert cli.main(["forget", "--classes", "1"]) != 0
    assert "already forgets all examples of this node (0 of 4 rounds)" in capsys.readouterr().err
    assert cli.main(["forget", "--classes", "1", "--replace"]) == 0
    assert cli.main(["forget", "withdraw"]) == 0
    assert ForgetFile(home.state_dir).request() is None


def test_a_trigger_is_read_from_a_file(home: Home, tmp_path: Path) -> None:
    mask, pattern = np.zeros((8, 8), bool), np.zeros((8, 8))
    mask[0, :2], pattern[0, :2] = True, (1.0, 0.5)
    np.savez(tmp_path / "trigger.npz", mask=mask, pattern=pattern)
    assert cli.main(["forget", "--trigger", str(tmp_path / "trigger.npz")]) == 0
    found = ForgetFile(home.state_dir).request()
    assert found is not None
    assert (found.places, found.values) == ((0, 1), (1.0, 0.5))


def test_a_node_whose_method_cannot_forget_says_so(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeNode(home.path, make_status, tmp_path) as node:
        assert cli.main(["forget", "--peer-data"]) != 0
        assert node.control.told == []
    assert "runs method fedavg, which cannot forget" in capsys.readouterr().err
    assert not (home.state_dir / NAME).exists()


# --- the file ------------------------------------------------------------------------------------------


def test_notes_are_kept_by_round_and_count_only_while_they_unlearn(home: Home) -> None:
    file = ForgetFile(home.state_dir)
    file.note(note(1))
    assert file.read() is None
    file.ask(Request(peer_data=True))
    for each in (note(5), note(6), note(6, after=0.2), note(7, unlearned=False)):
        file.note(each)
    found = file.read()
    assert found is not None
    assert [(each.round, each.after) for each in found.notes] == [(5, 0.1), (6, 0.2), (7, 0.1)]
    assert file.unlearned() == 2


def test_a_damaged_request_stops_training_and_says_what_to_do(home: Home) -> None:
    (home.state_dir / NAME).write_text("{")
    with pytest.raises(BadOption, match="mend it, or give up what it asks for by removing it"):
        ForgetFile(home.state_dir).request()


# --- the report ----------------------------------------------------------------------------------------


def test_a_report_shows_what_came_of_it_and_what_it_does_not_promise(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ForgetFile(home.state_dir)
    file.ask(Request(classes=(8, 9), rounds=2))
    for each in (note(5), note(6, before=0.1, after=0.05), note(7, unlearned=False, after=0.02)):
        file.note(each)
    assert cli.main(["forget", "report", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "forget-report.txt").read_text()
    assert text.rstrip() in capsys.readouterr().out
    assert "Accuracy on them: 0.900 before round 5, 0.020 after round 7." in text
    assert "Rounds that unlearned: 2 of 2." in text
    assert all(line in text for line in NOT_PROMISED)
    assert cli.main(["forget", "check", str(tmp_path / "forget-report.json")]) == 0
    assert capsys.readouterr().out.rstrip() == text.rstrip()


def test_a_report_names_the_run_that_its_rounds_were_of_and_no_other(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = RunSpec(name="ours", method="efu", tensors=(TensorSpec("w", "float32", (5,)),))
    run, vector = run_id(spec), np.zeros(5, np.float32)
    save(home.state_dir, Checkpoint(run, 6, state_hash(vector.data), b"", vector))
    store = Store(home.database)
    remember_spec(store, run, spec)
    file = ForgetFile(home.state_dir)
    file.ask(Request(peer_data=True))
    file.note(note(5))
    assert cli.main(["forget", "report", "--out", str(tmp_path), "--home", str(home.path)]) == 0
    assert "Run: " not in capsys.readouterr().out, "the node has a run, and the rounds were not of it"
    ended = msgspec.structs.replace(make_status().history[0], round=5, state_hash=note(5).state_after[:12])
    store.add_round(run.hex(), ended)
    store.close()
    assert cli.main(["forget", "report", "--out", str(tmp_path), "--home", str(home.path)]) == 0
    assert f"Run: ours, {run.hex()}." in capsys.readouterr().out


def test_without_a_request_there_is_nothing_to_report(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["forget", "report"]) != 0
    assert "was not asked to forget anything" in capsys.readouterr().err
    ForgetFile(home.state_dir).ask(Request(peer_data=True))
    found = ForgetFile(home.state_dir).read()
    assert found is not None
    assert "nothing to show yet" in text_of(check(sign(home.load_key(), found)))


def test_an_altered_report_is_refused(home: Home) -> None:
    file = ForgetFile(home.state_dir)
    file.ask(Request(peer_data=True))
    file.note(note(5))
    found = file.read()
    assert found is not None
    data = sign(home.load_key(), found)
    assert check(data).peer == home.peer_id()
    other = json.loads(data)
    for altered in (
        data.replace(b'"after":0.1', b'"after":0.0'),
        json.dumps({**other, "public_key": "00" * 32}).encode(),
        json.dumps({**other, "signature": "zz"}).encode(),
        b"{}",
    ):
        with pytest.raises(BadConfig, match="no report that its peer signed"):
            check(altered)
