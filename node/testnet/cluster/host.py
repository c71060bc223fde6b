"""Host: what runs a node on a machine of the cluster. Ray makes an actor of it; it knows nothing of Ray.

The node is stopped when this process dies, however it dies: `Guard` sees to that.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from shoal.gossip.addresses import listen_at
from shoal.node.storage.home import Home
from shoal.node.testnet.processes import Guard, environment, spawn

MAX_LOG: Final = 1 << 20
"""Bytes of the log that are handed over at once."""
MAX_REQUEST: Final = 1 << 20
"""Bytes of a request to a node; what commands ask is short."""
MAX_HOME: Final = 256 << 20
"""Bytes of a home that is brought back whole; of a larger one comes what the verdict needs."""
NEEDED: Final = ("shoal.db", "config.toml")
_RUN: Final = "run"
"""The folder of a home that means something on its machine only."""


class Host:
    """A node's process on this machine, in a home that is removed in the end."""

    def __init__(self, packed: bytes) -> None:
        """`packed`: the home that it begins with, see `pack`."""
        self._folder = Path(tempfile.mkdtemp(prefix="shoal-node-"))
        self._home, self._log = self._folder / "home", self._folder / "log"
        self._log.touch()
        unpack(packed, self._home)
        self._guard = Guard()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str], home: str, folder: str, ip: str, more: Mapping[str, str]) -> int:
        """Start the node; returns its pid.

        `command`: as it is typed on the launcher's machine, with a home there. `folder`: where tasks are
        imported from, if it is here too. `ip`: of this machine. `more`: variables beside this machine's own.
        """
        places = {home: str(self._home), listen_at("127.0.0.1", 0): listen_at(ip, 0)}
        words = [places.get(word, word) for word in command]
        words[0] = sys.executable  # of this machine
        here = folder if Path(folder).is_dir() else ""
        self._process = spawn(words, self._log, environment(os.environ) | dict(more), here)
        self._guard.watch(self._process.pid)
        return self._process.pid

    def look(self, offset: int) -> tuple[bytes, int | None]:
        """Return what the log holds from `offset` on, and the exit code of the node, if it has ended."""
        assert self._process is not None
        exit_code = self._process.poll()  # first, so that the last words are not missed
        with self._log.open("rb") as file:
            file.seek(offset)
            text = file.read(MAX_LOG)
        return text, exit_code if len(text) < MAX_LOG else None

    def ask(self, request: bytes) -> bytes:
        """Hand a request to the node's control socket; returns its answer, nothing where none listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            try:
                line.connect(str(Home(self._home).find_socket("control")))
                line.sendall(request)
                return b"".join(iter(lambda: line.recv(1 << 16), b""))
            except OSError:
                return b""

    def signal(self, number: int) -> None:
        """Signal the node, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def home(self) -> bytes:
        """Return the home as it is, packed."""
        return pack(self._home)

    def close(self) -> None:
        """Remove all traces of a node that has ended."""
        self._guard.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def pack(home: Path) -> bytes:
    """Return a home as a tar file, without what means something on its machine only."""
    found = [path for path in sorted(home.rglob("*")) if path.is_file() and home / _RUN not in path.parents]
    if sum(path.stat().st_size for path in found) > MAX_HOME:
        found = [path for path in found if path.name in NEEDED]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as file:
        for path in found:
            file.add(path, path.relative_to(home), recursive=False)
    return packed.getvalue()


def unpack(packed: bytes, home: Path) -> None:
    """Write what `pack` returned; its files take the place of those that are there."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as file:
        file.extractall(home, filter="data")


def read_request(line: socket.socket) -> bytes:
    """Return a whole HTTP request.

    Raises:
        OSError: it ends early, or is longer than any that a command sends.
    """
    data = b""
    while (room := _missing(data)) > 0:
        more = line.recv(min(room, 1 << 16))
        if not more or len(data) > MAX_REQUEST:
            raise OSError("no request")
        data += more
    return data


def _missing(data: bytes) -> int:
    """Return how many bytes of a request are still to come, at least; 0: none."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return 1 << 16
    fields = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    lengths = [value for name, _, value in fields if name.strip().lower() == b"content-length"]
    return max(0, int(lengths[0]) - len(body)) if lengths else 0
