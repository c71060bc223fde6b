"""The client of the control socket, against nodes that do not answer as they should."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from fake_node import FakeNode, make_status

from shoal.node.errors import NotRunning, Refused
from shoal.node.storage.home import Home
from shoal.node.web import client

Serve = Callable[[bytes], None]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Make an empty home."""
    made = Home(tmp_path / "home")
    made.create()
    return made


@pytest.fixture
def answering(home: Home) -> Iterator[Serve]:
    """Serve one connection on the control socket with these bytes, whatever is asked."""
    threads: list[threading.Thread] = []
    listener = socket.socket(socket.AF_UNIX)

    def serve(answer: bytes) -> None:
        listener.bind(str(home.new_socket("control", {})))
        listener.listen()

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        threads.append(threading.Thread(target=accept))
        threads[0].start()

    yield serve
    for thread in threads:
        thread.join()
    listener.close()


def test_a_status_arrives_as_it_was_sent(home: Home, tmp_path: Path) -> None:
    with FakeNode(home.path, make_status, tmp_path):
        assert client.fetch_status(home.path) == make_status()


def test_a_home_without_a_node_is_told_so(home: Home) -> None:
    with pytest.raises(NotRunning, match=f"no node runs in {home.path}; start one with: shoal start"):
        client.fetch_status(home.path)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2", b"garbage\r\n\r\n"])
def test_a_node_that_breaks_off_is_told_so(home: Home, answering: Serve, answer: bytes) -> None:
    answering(answer)
    with pytest.raises(Refused, match="broke off"):
        client.fetch_status(home.path)


def test_a_node_of_another_version_is_to_be_restarted(home: Home, answering: Serve) -> None:
    body = msgspec.msgpack.encode({"peer": "x"})
    answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    with pytest.raises(Refused, match="another version of shoal; restart it"):
        client.fetch_status(home.path)


def test_a_refusal_is_passed_on(home: Home, answering: Serve) -> None:
    answering(b"HTTP/1.1 409 Conflict\r\nContent-Length: 7\r\n\r\nbecause")
    with pytest.raises(Refused, match="^because$"):
        client.add_bootstrap(home.path, "/ip4/192.0.2.1/tcp/1")


def test_a_node_that_hangs_is_named_with_its_pid(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.05)
    home.lock_file.write_text("4711\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home.new_socket("control", {})))
        listener.listen()
        with pytest.raises(Refused, match="does not answer; .* end it with: kill 4711"):
            client.fetch_status(home.path)


def test_a_node_that_does_not_end_is_named_with_its_pid(home: Home, tmp_path: Path) -> None:
    with FakeNode(home.path, make_status, tmp_path) as node:
        node.control.on_stop = lambda: None
        with pytest.raises(Refused, match=r"has not ended after 0 s; end it with: kill -9 \d+"):
            client.stop(home.path, patience=0.0)
