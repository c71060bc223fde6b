"""What the service manager hears of a node, over a socket that the test holds."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from fake_node import make_status

from shoal.node.service.notify import send, status_line, tell_manager, watchdog_seconds


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Hold the socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.settimeout(60)
        yield line


def heard(manager: socket.socket) -> list[str]:
    """Return what has come so far."""
    manager.setblocking(False)
    found = []
    try:
        while True:
            found.append(manager.recv(4096).decode())
    except BlockingIOError:
        return found


def test_nothing_is_sent_where_no_manager_listens(tmp_path: Path) -> None:
    assert not send("READY=1", {})
    assert not send("READY=1", {"NOTIFY_SOCKET": ""})
    assert not send("READY=1", {"NOTIFY_SOCKET": "relative"})
    assert not send("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "gone")})


def test_lines_reach_a_path(manager: socket.socket, tmp_path: Path) -> None:
    assert send("READY=1\nSTATUS=up", {"NOTIFY_SOCKET": str(tmp_path / "notify")})
    assert manager.recv(4096) == b"READY=1\nSTATUS=up"


@pytest.mark.skipif(sys.platform != "linux", reason="the abstract namespace is Linux's")
def test_lines_reach_a_name_of_the_abstract_namespace() -> None:
    name = f"shoal-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind("\0" + name)
        line.settimeout(60)
        assert send("READY=1", {"NOTIFY_SOCKET": "@" + name})
        assert line.recv(4096) == b"READY=1"


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_for_the_process_that_it_names(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_seconds(environ, 7) == seconds


def test_the_status_line_has_what_a_person_wants_to_know() -> None:
    assert status_line(make_status()) == "working, round 2, 1 peer"
    assert status_line(make_status(peers=[], problems=["full;\nfree some"])) == (
        "working, round 2, 0 peers; full; free some"
    )


def test_a_manager_hears_that_a_node_is_up_that_it_turns_and_that_it_ends(
    manager: socket.socket, tmp_path: Path
) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"}

    async def live() -> None:
        is_stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_manager, make_status, is_stopping, environ)
            await trio.sleep(4.5)
            is_stopping.set()

    trio.run(live, clock=trio.testing.MockClock(autojump_threshold=0))
    words = [each.partition("\n")[0] for each in heard(manager)]
    # Every third of three seconds, so that two may be late.
    assert words == ["READY=1", *["WATCHDOG=1"] * 4, "STOPPING=1"]


@pytest.mark.slow
def test_a_real_node_tells_its_manager_at_the_start_between_and_at_sigterm(
    manager: socket.socket, tmp_path: Path
) -> None:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("SHOAL_")}
    environ |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1500000"}
    environ |= {"XDG_RUNTIME_DIR": str(tmp_path), "SHOAL_HOME": str(tmp_path / "home")}
    flags = ["--listen", "/ip4/127.0.0.1/tcp/0", "--no-http", "--no-mdns", "--no-dht"]
    command = [sys.executable, "-P", "-m", "shoal.node", "start", *flags]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert manager.recv(4096).startswith(b"READY=1\n")
        # By then the control socket answers.
        asked = [sys.executable, "-P", "-m", "shoal.node", "status", "--ready"]
        assert subprocess.run(asked, env=environ, check=False, capture_output=True).stdout == b"helping\n"
        assert manager.recv(4096).startswith(b"WATCHDOG=1\n")
        process.send_signal(signal.SIGTERM)
        while (word := manager.recv(4096)).startswith(b"WATCHDOG=1\n"):
            pass
        assert word.startswith(b"STOPPING=1\n")
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
