"""A start file: the state, who vouches for it, and nothing else passes."""

from pathlib import Path

import numpy as np
import pytest

from shoal.crypto.keys import PeerId, key_from_seed
from shoal.gossip.state.tree_hash import state_hash
from shoal.node.errors import BadConfig
from shoal.node.retraining.round_records import by_place, past_of
from shoal.node.retraining.start_file import origin_of, read_start, write_start
from shoal.node.storage.checkpoint import Checkpoint, read_state, save, write_state

KEY = key_from_seed(bytes(32))
GONE = PeerId("gone")
NEW = bytes([9]) * 32


def checkpoint(value: float = 1.0) -> Checkpoint:
    vector = np.full(5, value, np.float32)
    return Checkpoint(bytes(32), 7, state_hash(vector.data), b"\x01" * 32, vector)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    kept = save(tmp_path, checkpoint(), shared=[("momentum", 2)])
    origin = origin_of(KEY, checkpoint(), name="run", without=GONE, first=9, members=frozenset({"a", "b"}))
    write_start(tmp_path / "start.safetensors", KEY, kept, origin)
    return tmp_path / "start.safetensors"


def test_a_new_run_begins_with_the_state_at_its_round_and_waits_for_company(start: Path) -> None:
    found = read_start(start, 5)
    begun = found.of_run(NEW)
    assert (begun.run_id, begun.round, begun.had_company, begun.previous_hash) == (NEW, 7, True, b"")
    assert begun.vector.tolist() == [1.0] * 5
    assert read_state(start)[1] == [("momentum", 2)]
    past = past_of(by_place([found.record(NEW)]), 7, checkpoint().state_hash.hex())
    assert (past.members, past.gap) == (frozenset({"a", "b"}), "")


def test_a_file_of_another_model_is_refused_with_what_to_type(start: Path) -> None:
    with pytest.raises(BadConfig, match="its state has 5 numbers, this model 6: start with the task"):
        read_start(start, 6)


def test_what_nobody_signed_is_refused(start: Path, tmp_path: Path) -> None:
    data = bytearray(start.read_bytes())
    for name, altered in {
        "numbers": data[:-1] + bytes([data[-1] ^ 1]),
        "metadata": data.replace(b"gone", b"here"),
        "half": data[:-8],
        "empty": b"",
    }.items():
        path = tmp_path / name
        path.write_bytes(bytes(altered))
        with pytest.raises(BadConfig, match="no state to begin with"):
            read_start(path)
    with pytest.raises(BadConfig, match="no state to begin with"):
        read_start(save(tmp_path / "plain", checkpoint()))
    with pytest.raises(BadConfig, match="no state to begin with"):
        read_start(tmp_path / "nowhere")


def test_the_signature_of_one_state_does_not_hold_for_another(start: Path, tmp_path: Path) -> None:
    about = {"shoal.retraining": read_state(start)[2]["shoal.retraining"]}
    write_state(tmp_path / "other", checkpoint(2.0), about=about)
    with pytest.raises(BadConfig, match="signed for another state"):
        read_start(tmp_path / "other")
