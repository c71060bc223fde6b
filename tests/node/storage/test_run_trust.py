"""What a node remembers of its peers in a run, on disk."""

import logging
from pathlib import Path

import msgspec
import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.membership.colleagues import Acquaintance
from shoal.node.storage.run_trust import MAX_BYTES, RunTrust, load_trust, save_trust, trust_path

RUN = bytes(range(32))
TRUST = RunTrust(run=RUN.hex(), known=(Acquaintance(PeerId("a"), 21, 601.5),), movements=((1.0, 0.0, 2.5),))


def test_what_was_saved_last_is_loaded(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    assert load_trust(state_dir, RUN) == RunTrust(run=RUN.hex())
    save_trust(state_dir, RunTrust(run=RUN.hex()))
    (state_dir / f"{trust_path(state_dir, RUN).name}.x.tmp").write_bytes(b"torn")
    save_trust(state_dir, TRUST)
    assert load_trust(state_dir, RUN) == TRUST
    assert len(list(state_dir.iterdir())) == 1


def test_another_run_has_a_file_of_its_own(tmp_path: Path) -> None:
    save_trust(tmp_path, TRUST)
    assert load_trust(tmp_path, bytes(32)).known == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        msgspec.json.encode(RunTrust(run="00" * 32)),
        b'{"run":"x","known":[["a",1]]}',
        b" " * (MAX_BYTES + 1),
        msgspec.json.encode(TRUST)[:-9],
    ],
)
def test_a_file_that_cannot_be_used_is_said_and_gone_without(
    data: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trust_path(tmp_path, RUN).write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert load_trust(tmp_path, RUN) == RunTrust(run=RUN.hex())
    assert "begins without colleagues" in caplog.text
