"""The home: its key, its locks, its sockets."""

import fcntl
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shoal.crypto.keys import peer_id_of
from shoal.node.errors import BadHome
from shoal.node.storage.home import Home, default_home, runtime_dir

KEY = bytes(range(32)).hex()


@pytest.fixture
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give a runtime directory of the test's own."""
    return {"XDG_RUNTIME_DIR": str(tmp_path_factory.mktemp("runtime"))}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Make a home with a key."""
    made = Home(tmp_path / "home")
    made.create_key()
    return made


def test_a_key_is_written_for_its_owner_alone_and_read_again(home: Home) -> None:
    assert stat.S_IMODE(home.key_file.stat().st_mode) == 0o600
    assert len(home.key_file.read_text()) == 65
    assert home.peer_id() == peer_id_of(bytes(home.load_key().verify_key))
    assert home.load_or_create_key() == home.load_key()


def test_a_known_seed_gives_a_known_peer(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.key_file.write_text(KEY + "\n")
    home.key_file.chmod(0o600)
    assert home.peer_id() == "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"


def test_the_home_itself_is_closed_to_others(home: Home) -> None:
    assert all(
        stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in (home.path, home.state_dir, home.run_dir)
    )


@pytest.mark.parametrize("mode", [0o777, 0o722, 0o770, 0o1777])
@pytest.mark.parametrize("name", ["path", "state_dir", "run_dir"])
def test_a_folder_that_others_may_write_into_is_refused_with_the_command_that_closes_it(
    home: Home, environ: dict[str, str], name: str, mode: int
) -> None:
    folder: Path = getattr(home, name)
    folder.chmod(mode)
    with (
        pytest.raises(BadHome, match=rf"mode {mode:04o}\); close it with: chmod go-w {folder}$"),
        home.locked(environ),
    ):
        pass
    folder.chmod(mode & ~0o022)
    with home.locked(environ):
        assert home.is_running()


def test_a_lock_that_is_a_link_is_refused_and_what_it_leads_to_is_left_alone(
    home: Home, environ: dict[str, str], tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("a thesis")
    home.lock_file.symlink_to(precious)
    with pytest.raises(BadHome, match=f"is a link, .* rm {home.lock_file}$"), home.locked(environ):
        pass
    assert precious.read_text() == "a thesis"
    assert not home.is_running()


def test_a_home_that_cannot_be_written_ends_in_one_sentence(home: Home, environ: dict[str, str]) -> None:
    home.run_dir.rmdir()
    home.run_dir.symlink_to("/sys/kernel")  # where even root makes no file
    sentence = r"cannot write .*run/lock: .*; choose another folder with --home$"
    with pytest.raises(BadHome, match=sentence), home.locked(environ):
        pass


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_a_key_that_others_may_read_is_refused_with_the_command_that_closes_it(home: Home, mode: int) -> None:
    home.key_file.chmod(mode)
    with pytest.raises(BadHome, match=f"chmod 600 {home.key_file}"):
        home.load_key()


@pytest.mark.parametrize(
    "content", [b"", b"\n", KEY[:-2].encode(), b"zz" * 32, b"\xff" * 64, KEY.encode() * 2]
)
def test_a_file_that_is_no_key_is_refused_without_showing_it(home: Home, content: bytes) -> None:
    home.key_file.write_bytes(content)
    with pytest.raises(BadHome, match="holds no key") as caught:
        home.load_key()
    assert KEY[:8] not in str(caught.value)


def test_a_missing_key_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(BadHome, match=r"shoal init"):
        Home(tmp_path).load_key()


def test_a_key_is_replaced_only_by_force(home: Home) -> None:
    before = home.peer_id()
    with pytest.raises(BadHome, match="shoal init --force"):
        home.create_key()
    assert home.peer_id() == before
    home.create_key(force=True)
    assert home.peer_id() != before


def test_writing_a_key_leaves_nothing_beside_it(home: Home) -> None:
    home.create_key(force=True)
    with pytest.raises(BadHome):
        home.create_key()
    assert {path.name for path in home.path.iterdir()} == {"identity.key", "state", "run"}


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    home = Home(tmp_path)
    home.create_key()
    before = home.peer_id()
    with pytest.raises(BadHome, match="shoal init --force"):
        home.create_key()
    assert home.peer_id() == before


def test_a_home_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadHome, match="choose another folder with --home"):
        Home(tmp_path / "file" / "home").create()


def test_a_home_runs_once(home: Home, environ: dict[str, str]) -> None:
    with home.locked(environ):
        assert home.running_pid() == os.getpid()
        assert home.is_running()
        with (
            pytest.raises(BadHome, match=rf"runs in {home.path} already \(pid {os.getpid()}\)"),
            home.locked(environ),
        ):
            pass
        assert home.is_running()
    assert not home.is_running()
    with home.locked(environ):
        pass


def test_an_identity_runs_once_on_a_machine(home: Home, tmp_path: Path, environ: dict[str, str]) -> None:
    copy = Home(tmp_path / "copy")
    copy.create()
    copy.key_file.write_text(home.key_file.read_text())
    copy.key_file.chmod(0o600)
    with (
        home.locked(environ),
        pytest.raises(BadHome, match=rf"in use by the node in {home.path}"),
        copy.locked(environ),
    ):
        pass
    with copy.locked(environ):
        pass


def test_a_lock_outlives_no_process_however_it_dies(home: Home, environ: dict[str, str]) -> None:
    code = (
        "import os, sys, signal; from pathlib import Path; from shoal.node.storage.home import Home\n"
        f"with Home(Path({str(home.path)!r})).locked({environ!r}):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False)
    assert killed.returncode == -9
    assert home.lock_file.exists()
    assert not home.is_running()
    with home.locked(environ):
        assert home.running_pid() == os.getpid()


def test_a_killed_node_that_nobody_has_waited_for_yet_holds_no_home(
    home: Home, environ: dict[str, str]
) -> None:
    code = (
        "import time; from pathlib import Path; from shoal.node.storage.home import Home\n"
        f"with Home(Path({str(home.path)!r})).locked({environ!r}):\n"
        "    print(flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert home.is_running()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
        assert not home.is_running()
        with home.locked(environ):
            pass


def test_a_pid_that_another_process_has_now_holds_no_home(home: Home) -> None:
    home.lock_file.write_text(f"{os.getpid()}\n{home.path}\n")
    assert not home.is_running()


def test_who_only_looks_is_in_nobodys_way(
    home: Home, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home.lock_file.touch()
    with home.lock_file.open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
        with home.locked(environ):
            assert home.is_running()


@pytest.fixture
def deep_home(tmp_path: Path) -> Iterator[Home]:
    """Make a home whose path is longer than a socket's may be."""
    home = Home(tmp_path / ("d" * 60) / ("e" * 60))
    home.create_key()
    yield home
    home.remove_sockets()


@pytest.mark.parametrize("name", ["control", "trainer"])
def test_a_socket_is_found_where_it_was_bound_in_a_deep_home_too(
    home: Home, deep_home: Home, name: str, environ: dict[str, str]
) -> None:
    for each in (home, deep_home):
        path = each.new_socket(name, environ)
        assert len(os.fsencode(path)) <= 100
        assert each.find_socket(name) == path
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(each.find_socket(name)))
        # What a killed node left is in nobody's way.
        assert each.new_socket(name, environ) == path
        assert not path.exists()
    assert deep_home.find_socket(name).parent == runtime_dir(environ)
    deep_home.remove_sockets()
    assert list(deep_home.run_dir.iterdir()) == []


def test_two_deep_homes_do_not_share_a_socket(tmp_path: Path, environ: dict[str, str]) -> None:
    homes = [Home(tmp_path / ("d" * 90) / name) for name in "ab"]
    for each in homes:
        each.create()
    assert len({each.new_socket("control", environ) for each in homes}) == 2


def test_a_runtime_folder_that_others_may_enter_is_refused(environ: dict[str, str]) -> None:
    runtime_dir(environ).chmod(0o755)
    with pytest.raises(BadHome, match="is not yours alone"):
        runtime_dir(environ)


def test_the_environment_names_the_home_or_the_system_does() -> None:
    assert default_home({"SHOAL_HOME": "/x/y"}) == Path("/x/y")
    assert default_home({}).name == "shoal"
