"""shoal forget --retrain: the last state without a peer's data, or what to type where there is none."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id
from shoal.gossip.state.tree_hash import state_hash
from shoal.node.cli import main as cli
from shoal.node.config.retraining_preflight import check_start
from shoal.node.config.settings import NodeConfig, RunConfig
from shoal.node.errors import BadConfig
from shoal.node.retraining.kept_states import StateKeeper, kept
from shoal.node.retraining.round_records import RoundRecord
from shoal.node.retraining.start_file import read_start
from shoal.node.storage.checkpoint import Checkpoint, save
from shoal.node.storage.database import Store
from shoal.node.storage.home import Home
from shoal.node.storage.model_file import remember_spec

SPEC = RunSpec(
    name="ours",
    task="digits",
    method="fedavg",
    options={"steps": 7},
    tensors=(TensorSpec("w", "float32", (5,)),),
)
RUN = run_id(SPEC)


def made_home(path: Path, members: Mapping[int, Sequence[str]], *, most: int = 16, lost: int = -1) -> Home:
    """Return a home that was in as many rounds; `lost`: the round whose record was not written."""
    home = Home(path)
    home.create_key()
    store = Store(home.database)
    remember_spec(store, RUN, SPEC)
    keeper = StateKeeper(home.state_dir, store, home.load_key(), most)
    before = b""
    for round_ in range(len(members) + 1):
        vector = np.full(5, round_, np.float32)
        state = Checkpoint(RUN, round_, state_hash(vector.data), before, vector)
        keeper.keep(save(home.state_dir, state), state)
        if round_ and round_ - 1 != lost:
            keeper.note(
                RoundRecord(
                    run=RUN.hex(),
                    round=round_ - 1,
                    before=before.hex(),
                    after=state.state_hash.hex(),
                    members=(home.peer_id(), *members[round_ - 1]),
                )
            )
        before = state.state_hash
    store.close()
    return home


LATE = {0: ["anna"], 1: ["anna"], 2: ["anna"], 3: ["anna", "late"], 4: ["anna", "late"]}


def retrain(home: Home, peer: str, out: Path) -> int:
    out.mkdir(exist_ok=True)
    return cli.main(["forget", "--retrain", peer, "--home", str(home.path), "--out", str(out)])


def config(home: Home, file: Path, name: str = "ours-anew") -> NodeConfig:
    return NodeConfig(home=home.path, run=RunConfig(name=name, start_from=str(file)))


def test_the_last_state_before_a_peers_first_round_is_written_with_the_command_for_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = made_home(tmp_path / "home", LATE)
    assert retrain(home, "late", tmp_path / "out") == 0
    said = capsys.readouterr().out
    file = tmp_path / "out" / "ours-round3-without-late.safetensors"
    assert "late is in run ours since round 3. The state of round 3 is without its data" in said
    [command] = [line for line in said.splitlines() if line.startswith("  shoal start ")]
    assert command.split()[2:6] == ["--run", "ours-anew", "--task", "digits"]
    assert command.split("--option ")[1:] == [f"steps=7 --combine mean --from {file}"]
    assert "still has its data" in said
    start = read_start(file)
    assert start.checkpoint.vector.tolist() == [3.0] * 5
    assert (start.origin.without, start.origin.first_round) == ("late", 3)
    assert start.origin.members == tuple(sorted(("anna", home.peer_id())))


def test_where_states_are_thin_it_goes_back_further(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = made_home(tmp_path / "home", LATE, most=3)
    assert retrain(home, "late", tmp_path) == 0
    assert "The state of round 2 is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("members", "lost", "peer", "told"),
    [
        (LATE, -1, "anna", "anna is in run ours since round 0. No state from before is kept here"),
        (LATE, -1, "me", "is in run ours since round 0. No state from before is kept here"),
        (LATE, -1, "nobody", "nobody was in no round of run ours"),
        (LATE, 1, "nobody", "they do not tell all: no record of how the state of round 2 was made"),
        (LATE, 0, "late", "whose records lead to the beginning without it. Ask another node"),
        ({0: ["anna", "hanna"]}, -1, "anna", "2 peers end so; write more of the id"),
        ({}, -1, "anna", "shoal start --keep-states 16"),
    ],
)
def test_without_such_a_state_a_line_says_what_to_do(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    members: dict[int, list[str]],
    lost: int,
    peer: str,
    told: str,
) -> None:
    home = made_home(tmp_path / "home", members, lost=lost)
    assert retrain(home, peer, tmp_path / "out") != 0
    assert told in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "out").iterdir())


def test_a_node_that_has_trained_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path / "home")
    assert retrain(home, "late", tmp_path) != 0
    assert "has trained nothing yet" in capsys.readouterr().err
    assert not home.path.exists()


def test_a_damaged_state_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = made_home(tmp_path / "home", LATE)
    path = kept(home.state_dir, RUN)[3]
    path.unlink()  # the saved file has these bytes too, and stays whole
    path.write_bytes(b"half")
    assert retrain(home, "late", tmp_path) == 0
    assert "The state of round 2 is" in capsys.readouterr().out


# --- going on from it --------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    assert retrain(made_home(tmp_path / "giver", LATE), "late", tmp_path) == 0
    return tmp_path / "ours-round3-without-late.safetensors"


def test_a_node_whose_own_records_agree_or_say_nothing_takes_the_file(tmp_path: Path, file: Path) -> None:
    check_start(config(made_home(tmp_path / "agrees", LATE), file), Home(tmp_path / "agrees"))
    check_start(config(Home(tmp_path / "new"), file), Home(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_node_that_saw_the_peer_before_refuses_the_file(tmp_path: Path, file: Path) -> None:
    home = made_home(tmp_path / "saw", {**LATE, 1: ["anna", "late"]})
    with pytest.raises(
        BadConfig, match="contributions of late are in its state, by the records of this node"
    ):
        check_start(config(home, file), home)


def test_the_run_goes_on_under_another_name(tmp_path: Path, file: Path) -> None:
    home = Home(tmp_path / "new")
    with pytest.raises(BadConfig, match="another name: --run ours-anew"):
        check_start(config(home, file, name="ours"), home)
