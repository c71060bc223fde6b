"""Nodes on other machines: what an actor does there, and what stands for it here. Ray is not needed."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.node.testnet.cluster.host import MAX_REQUEST, Host, pack, read_request, unpack
from shoal.node.testnet.cluster.placing import NoCluster, OnCluster, check_cluster, machine_for
from shoal.node.testnet.plan import BadPlan, Plan

SAYS = """
import pathlib, signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
home = pathlib.Path(sys.argv[1])
(home / "run").mkdir(parents=True, exist_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind(str(home / "run" / "control.sock"))
server.listen()
print("listens at", sys.argv[2], (home / "key").read_text(), flush=True)
line, _ = server.accept()
line.sendall(b"you said: " + line.recv(100))
line.close()
(home / "learned").write_text("much")
signal.sigwait({signal.SIGTERM})
print("leaves", flush=True)
sys.exit(3)
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "key").write_text("k")
    made = Host(pack(tmp_path / "here"))
    yield made
    made.signal(signal.SIGKILL)
    made.close()


def read_until(host: Host, word: str) -> tuple[str, int | None]:
    """Return the log once it holds a word, or the node has ended."""
    said = b""
    while True:
        more, exit_code = host.look(len(said))
        said += more
        if word.encode() in said or exit_code is not None:
            return said.decode(), exit_code


@pytest.mark.slow
def test_a_node_runs_where_its_actor_is_and_its_home_comes_back(host: Host, tmp_path: Path) -> None:
    home = str(tmp_path / "here")
    command = ["python-of-the-launcher", "-c", SAYS, home, "/ip4/127.0.0.1/tcp/0"]
    host.start(command, home, str(tmp_path / "not there"), "192.0.2.7", dict(os.environ))
    said, exit_code = read_until(host, "listens")
    assert (said, exit_code) == ("listens at /ip4/192.0.2.7/tcp/0 k\n", None)
    assert host.ask(b"hello") == b"you said: hello"
    host.signal(signal.SIGTERM)
    said, exit_code = read_until(host, "nothing that it says")
    assert (said, exit_code) == ("listens at /ip4/192.0.2.7/tcp/0 k\nleaves\n", 3)
    assert host.ask(b"hello") == b""  # nobody is there any more
    unpack(host.home(), tmp_path / "here")
    assert (tmp_path / "here" / "learned").read_text() == "much"
    assert not (tmp_path / "here" / "run").exists()


def test_of_a_large_home_comes_what_the_verdict_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.node.testnet.cluster.host.MAX_HOME", 10)
    for name in ("shoal.db", "state/large", "run/lock"):
        path = tmp_path / "one" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0123456789")
    unpack(pack(tmp_path / "one"), tmp_path / "two")
    assert [path.name for path in (tmp_path / "two").rglob("*")] == ["shoal.db"]


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    "request_",
    [
        b"GET /status.msgpack HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /bootstrap HTTP/1.1\r\ncontent-length: 5\r\n\r\n\r\n\r\nx",
    ],
)
def test_a_request_is_read_whole_in_whatever_pieces_it_comes(request_: bytes, size: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def send() -> None:
            for at in range(0, len(request_), size):
                theirs.sendall(request_[at : at + size])

        sending = threading.Thread(target=send)
        sending.start()
        assert read_request(ours) == request_
        sending.join()


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf"])
def test_a_request_that_ends_early_is_none(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(sent)
        with pytest.raises(OSError, match="no request"):
            read_request(ours)


def test_a_request_without_an_end_is_not_kept_for_ever() -> None:
    class Endless:
        def recv(self, room: int) -> bytes:
            return b"x" * room

    endless: Any = Endless()
    with pytest.raises(OSError, match="no request"):
        read_request(endless)
    assert MAX_REQUEST < 1 << 24


def test_machines_take_turns_and_dead_ones_have_none() -> None:
    machines = [{"NodeID": each, "Alive": each != "b"} for each in "cba"]
    assert [machine_for(index, machines)["NodeID"] for index in (1, 2, 3)] == ["a", "c", "a"]
    with pytest.raises(NoCluster, match="ray status"):
        machine_for(1, [{"NodeID": "b", "Alive": False}])


def test_what_needs_the_launchers_own_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BadPlan, match="pip install 'shoal\\[ray\\]'"):
        check_cluster("auto", Plan(), "auto")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    check_cluster("auto", Plan(), "auto")
    with pytest.raises(BadPlan, match="leave out --churn"):
        check_cluster("auto", Plan(churn=0.5), "auto")
    with pytest.raises(BadPlan, match="leave out"):
        check_cluster("auto", Plan(), "proxy")


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))  # a port on which nobody listens
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(NoCluster, match=f"no Ray cluster answers at {address}"):
            check_cluster(address, Plan(), "auto")
        other.listen()
        check_cluster(address, Plan(), "auto")
    for wrong in ("ray://127.0.0.1:10001", "head", "head:x", "auto:1:2"):
        with pytest.raises(BadPlan, match="write auto, or HOST:PORT"):
            check_cluster(wrong, Plan(), "auto")


def test_a_stand_in_is_told_all_that_starts_its_node(tmp_path: Path) -> None:
    words = OnCluster("auto")(Plan(), 2, tmp_path / "node-2", ["/ip4/192.0.2.7/tcp/1"], [])
    assert words[:7] == [
        *(sys.executable, "-P", "-m", "shoal.node.testnet.cluster.stand_in", "auto", "2"),
        str(tmp_path / "node-2"),
    ]
    assert words[-2:] == ["--join", "/ip4/192.0.2.7/tcp/1"]
