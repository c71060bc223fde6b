"""Commands in odd surroundings: no account, an ASCII terminal, spaces in paths, a byte order mark."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.node.cli.main import main
from shoal.node.config.settings import load
from shoal.node.storage.home import Home

MAIN = "import sys; from shoal.node.cli.main import main; sys.exit(main(sys.argv[1:]))"
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def shoal(tmp_path: Path) -> Run:
    """Run a command line in a process of its own; keyword arguments change its environment."""

    def run(
        *arguments: object, code: str = MAIN, **environ: str | None
    ) -> "subprocess.CompletedProcess[bytes]":
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SHOAL_")}
        changed = kept | {"XDG_RUNTIME_DIR": str(tmp_path)} | environ
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=tmp_path,
            env={key: value for key, value in changed.items() if value is not None},
            capture_output=True,
            check=False,
        )

    return run


@pytest.mark.skipif(os.getuid() != 0, reason="becoming a user without an account takes root")
def test_a_user_without_home_and_account_is_told_how_to_name_one(shoal: Run) -> None:
    # Only this much of it, since such a user may not be allowed to read our environment.
    code = """
import os, platformdirs.unix
from shoal.node.errors import BadHome
from shoal.node.storage.home import default_home
os.setuid(54321)
try:
    print(default_home({}))
except BadHome as error:
    print(error)
"""
    ran = shoal(code=code, HOME=None, XDG_DATA_HOME=None)
    assert ran.stderr == b""
    assert ran.stdout.startswith(b"~: there is no home folder of this user here; name the node's folder with")


@pytest.mark.parametrize("where", ["flag", "environment"])
def test_a_tilde_that_means_nothing_makes_no_folder_of_that_name(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_HOME", "~no-such-user/node")
    assert main(["init", *(["--home", "~no-such-user/node"] if where == "flag" else [])]) == 1
    assert "--home DIR, or in SHOAL_HOME" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_named(shoal: Run) -> None:
    gone = MAIN.replace("sys.exit", "import os; os.mkdir('x'); os.chdir('x'); os.rmdir('../x'); sys.exit")
    ran = shoal("id", "--home", "here", code=gone)
    assert ran.stderr == b"error: the current folder is gone; change to another one with: cd\n"


def test_printed_commands_can_be_typed_where_the_home_has_spaces(shoal: Run, tmp_path: Path) -> None:
    home = tmp_path / "my node's"
    printed = [
        shoal("init", "--home", home).stdout,
        shoal("status", "--home", home).stderr,
        shoal("id", "--home", tmp_path / "an other").stderr,
    ]
    for text in printed:
        command = text.decode().rpartition(": ")[2]
        words = shlex.split(command)
        assert words[0] == "shoal"
        assert words[words.index("--home") + 1] in (str(home), str(tmp_path / "an other"))


@pytest.mark.parametrize("name", ["é ü €", "a\udcffb"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_the_characters_shows_escapes(
    shoal: Run, tmp_path: Path, name: str, encoding: str
) -> None:
    home = tmp_path / name
    made = shoal("init", "--json", "--home", home, PYTHONIOENCODING=encoding)
    assert (made.returncode, made.stderr) == (0, b"")
    assert json.loads(made.stdout)["home"] == str(home)
    for command in (["id"], ["bootstrap", "list"], ["config", "show"]):
        ran = shoal(*command, "--home", home, PYTHONIOENCODING=encoding)
        assert (ran.returncode, ran.stderr) == (0, b"")
    ran = shoal("init", "--home", home, PYTHONIOENCODING=encoding)
    assert ran.stderr.startswith(b"error: ")
    assert ran.stderr.count(b"\n") == 1


def test_a_byte_order_mark_is_not_part_of_what_stands_behind_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home")
    home.create_key()
    peer = home.peer_id()
    for path, text in (
        (home.key_file, home.key_file.read_bytes()),
        (home.config_file, b"[run]\nrounds = 7\n"),
    ):
        path.write_bytes(b"\xef\xbb\xbf" + text)
    home.key_file.chmod(0o600)
    assert home.peer_id() == peer
    assert load(home.path, {}, {})[0].run.rounds == 7
    assert main(["bootstrap", "add", "a.example:1", "--home", str(home.path)]) == 0
    config, _ = load(home.path, {}, {})
    assert (config.run.rounds, config.join) == (7, ("/dns/a.example/tcp/1",))
