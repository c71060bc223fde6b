"""config.toml: explained when it is written, kept as it was when it is changed."""

import tomllib
from pathlib import Path

import pytest

from shoal.node.config.settings import HIDDEN, NodeConfig, load, settings
from shoal.node.config.toml_file import change_join, default_text
from shoal.node.errors import BadConfig


def test_the_file_that_init_writes_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(default_text())
    config, origins = load(tmp_path, {}, {})
    assert config == NodeConfig(home=tmp_path)
    assert {name for name, origin in origins.items() if origin == "file"} == {"join"}


def test_every_line_of_the_file_is_right_once_its_comment_sign_is_gone(tmp_path: Path) -> None:
    live = [
        line[2:]
        if line.startswith("# ") and " = " in line and line[2:].split(" = ")[0].isidentifier()
        else line
        for line in default_text().splitlines()
    ]
    (tmp_path / "config.toml").write_text("\n".join(live))
    config, origins = load(tmp_path, {}, {})
    assert config == NodeConfig(home=tmp_path)
    shown = {name for name in settings() if not name.startswith(HIDDEN)}
    assert {name for name, origin in origins.items() if origin == "file"} == shown


def test_every_setting_is_explained() -> None:
    blocks = default_text().split("\n\n")[1:]
    assert all(block.startswith("# ") and len(block.splitlines()) >= 2 for block in blocks)
    assert "die_at" not in default_text()


def test_a_change_keeps_every_word_of_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    before = "# mine\njoin = [ # the lab\n  '/ip4/192.0.2.1/tcp/1', # old\n]\n[run] # 3\nrounds = 7\n"
    path.write_text(before)
    assert change_join(path, add="/ip4/192.0.2.2/tcp/2")
    after = path.read_text()
    assert tomllib.loads(after)["join"] == ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/2"]
    assert all(word in after for word in ("# mine", "# the lab", "# old", "[run] # 3", "rounds = 7"))


def test_an_address_is_added_once_and_removed_once(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert change_join(path, add="a")
    assert not change_join(path, add="a")
    assert change_join(path, remove="a")
    assert not change_join(path, remove="a")
    assert tomllib.loads(path.read_text())["join"] == []


def test_join_goes_before_the_sections_of_a_file_without_it(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("# short\n[run]\nrounds = 1\n")
    change_join(path, add="a")
    assert tomllib.loads(path.read_text()) == {"join": ["a"], "run": {"rounds": 1}}


def test_a_file_that_cannot_be_written_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    path.write_text("join = ['a']\n")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadConfig, match="No space left on device; make room"):
        change_join(path, add="b")
    assert path.read_text() == "join = ['a']\n"
    assert list(tmp_path.iterdir()) == [path]
