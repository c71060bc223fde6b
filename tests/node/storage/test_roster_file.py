"""The roster on disk: it comes back whole, and a file that is of no use stops nothing."""

import os
import time
from pathlib import Path

import pytest
from rosters import NOW, World, peer

from shoal.crypto.keys import PeerId
from shoal.node.storage.home import Home
from shoal.node.storage.roster_file import (
    load_refused,
    load_roster,
    roster_path,
    save_refused,
    save_roster,
)

WORLD = World()
REDEEM = WORLD.redeem("dora", "token", WORLD.grant("carl", "token"))


def test_a_roster_comes_back_with_the_words_by_which_this_node_joins(tmp_path: Path) -> None:
    home = Home(tmp_path)
    save_roster(home, WORLD.charter, [*WORLD.admit("carl"), REDEEM], REDEEM)
    roster, own = load_roster(home, WORLD.charter)
    assert roster.members(NOW) == {peer("carl"), peer("dora")}
    assert own == REDEEM
    assert roster_path(home, WORLD.charter).stat().st_mode & 0o777 == 0o600


def test_the_roster_of_another_charter_is_another_file(tmp_path: Path) -> None:
    home = Home(tmp_path)
    save_roster(home, WORLD.charter, WORLD.admit("carl"), None)
    assert load_roster(home, World(threshold=1).charter)[0].members(NOW) == frozenset()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x81\xa6edicts\x01", os.urandom(200)])
def test_a_file_of_no_use_is_laid_aside(tmp_path: Path, content: bytes) -> None:
    home = Home(tmp_path)
    path = roster_path(home, WORLD.charter)
    path.parent.mkdir()
    path.write_bytes(content)
    roster, own = load_roster(home, WORLD.charter)
    assert (roster.words, own) == ([], None)
    assert path.with_suffix(".bad").read_bytes() == content
    assert not path.exists()


def test_words_that_nobody_signed_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = Home(tmp_path)
    words = [*WORLD.admit("carl"), *WORLD.admit("mallory", by=("ann",))]
    save_roster(home, WORLD.charter, words, None)
    assert load_roster(home, WORLD.charter)[0].members(NOW) == {peer("carl")}
    assert "1 words" in caplog.text


def test_refusals_come_back_until_they_end(tmp_path: Path) -> None:
    home, now = Home(tmp_path), time.time()
    save_refused(home, {PeerId("a"): now + 1000, PeerId("b"): now - 1})
    assert load_refused(home).keys() == {"a"}
    (tmp_path / "roster" / "refused.json").write_text("[")
    assert load_refused(home) == {}
