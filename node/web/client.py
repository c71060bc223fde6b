"""Control: how a command talks to the node that runs in a home, over its Unix socket.

Plain blocking HTTP from the standard library: a command that only asks should not pay for loading more.
"""

import http.client
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from shoal.node.errors import NotRunning, Refused
from shoal.node.status import Status
from shoal.node.storage.home import Home, typed

TIMEOUT: Final = 10.0
"""Seconds for an answer. The daemon answers at any time, so a longer wait means that it hangs."""


class ToldEvent(msgspec.Struct, frozen=True):
    """An event as a node tells it."""

    time: float
    """Unix seconds."""
    level: str
    text: str


class KeptEvent(msgspec.Struct, frozen=True):
    """An event with its place among all."""

    id: int
    kind: str
    told: ToldEvent


_status: Final[msgspec.msgpack.Decoder[Status]] = msgspec.msgpack.Decoder(Status)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """See `http.client.HTTPConnection`."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def fetch_status(home: Path) -> Status:
    """Ask the running node how it is.

    Raises:
        NotRunning: no node runs in this home.
        Refused: it gave no sensible answer.
    """
    try:
        return _status.decode(ask(home, "GET", "/status.msgpack"))
    except msgspec.MsgspecError:
        raise Refused(
            f"the node in {home} is of another version of shoal; restart it with: shoal stop; shoal start"
        ) from None


def fetch_events(home: Path, after: int) -> list[KeptEvent]:
    """Ask the running node for the events since one, at most the last 1,000. Raises like `fetch_status`."""
    return msgspec.json.decode(ask(home, "GET", f"/events.json?after={after}"), type=list[KeptEvent])


def add_bootstrap(home: Path, address: str) -> None:
    """Make the running node dial an address. Raises like `fetch_status`."""
    ask(home, "POST", "/bootstrap", msgspec.json.encode({"add": address}))


def remove_bootstrap(home: Path, address: str) -> None:
    """Make the running node dial an address no more. Raises like `fetch_status`."""
    ask(home, "POST", "/bootstrap", msgspec.json.encode({"rm": address}))


def reset_trust(home: Path) -> None:
    """Make the running node forget whom it knows in its run. Raises like `fetch_status`."""
    ask(home, "POST", "/trust/reset")


def pause(home: Path, seconds: float | None) -> None:
    """Have the running node train no more for so long; None: until `resume`. Raises like `fetch_status`."""
    ask(home, "POST", "/pause", msgspec.json.encode({"seconds": seconds}))


def resume(home: Path) -> None:
    """Have the running node train again. Raises like `fetch_status`."""
    ask(home, "POST", "/resume")


def refuse(home: Path, peer: str, until: float) -> None:
    """Make the running node refuse a peer until a time. Raises like `fetch_status`."""
    ask(home, "POST", "/refuse", msgspec.msgpack.encode({"peer": peer, "until": until}))


def stop(home: Path, *, patience: float = 30.0) -> None:
    """Ask the node to end, and wait until it has.

    Raises:
        NotRunning: no node runs in this home.
        Refused: it did not end in time.
    """
    pid = Home(home).running_pid()
    ask(home, "POST", "/stop")
    deadline = time.monotonic() + patience
    while Home(home).is_running() or _runs(pid):
        if time.monotonic() > deadline:
            raise Refused(f"the node has not ended after {patience:.0f} s; end it with: kill -9 {pid}")
        time.sleep(0.05)


def _runs(pid: int | None) -> bool:
    """Whether a process other than ours has not ended; one that nobody has waited for yet has."""
    if pid is None or pid == os.getpid():
        return False
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ask(home: Path, method: str, path: str, body: bytes = b"") -> bytes:
    """Send the running node a request, and return what it answers. Raises like `fetch_status`."""
    connection = _UnixConnection(Home(home).find_socket("control"))
    try:
        with suppress(BrokenPipeError):
            # A node that refuses at once does not read all of it; what it says is there to be read.
            connection.request(method, path, body, {"Connection": "close"})
        answer = connection.getresponse()
        content = answer.read()
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotRunning(
            f"no node runs in {home}; start one with: shoal start --home {typed(home)}"
        ) from None
    except TimeoutError:
        pid = Home(home).running_pid()
        raise Refused(
            f"the node in {home} does not answer; look at its log, or end it with: kill {pid}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise Refused(f"the node in {home} broke off: {error or 'no answer'}; look at its log") from None
    finally:
        connection.close()
    if answer.status >= 400:
        raise Refused(content.decode("utf-8", "replace").strip()[:1000] or f"HTTP {answer.status}")
    return content
