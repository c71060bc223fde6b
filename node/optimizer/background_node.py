"""A node beside a user's own training process: find the one that runs in a home, or start one.

What was started here is stopped here. A node that ran already is left alone, unless a process like this one
started it and was killed: such a node stays, helps the others, and is adopted by the next process with the
same home, which stops it as if it had started it. ``run/owner`` in the home says who started which node.
"""

import atexit
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from shoal.node.errors import NotRunning
from shoal.node.storage.home import Home
from shoal.node.trainer import ipc

START_SECONDS: Final = 60.0
"""For a node to open its socket; seen: 2 s, but a busy machine or a cold disk may take long."""
STOP_SECONDS: Final = 10.0
"""For a node to say goodbye and save, before it is killed."""
_POLL_SECONDS: Final = 0.05


class Node:
    """The node of one home, seen from the process that trains."""

    def __init__(self, home: Path, join: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        """`options`: further arguments of ``shoal start`` where the node has to be started."""
        self.home = Home(home.absolute())
        self._arguments = [*options, *(part for address in join for part in ("--join", address))]
        self._process: subprocess.Popen[bytes] | None = None
        self._adopted: psutil.Process | None = None

    def connect(self) -> ipc.Line:
        """Return a line to the node's trainer socket; start the node if none runs.

        Raises:
            NotRunning: it does not start; the message repeats why.
            BadHome: the home cannot be made.
        """
        line = self._try_line()
        if line is None:
            self._start()
            line = self._wait_line()
        elif self._process is None and self._adopted is None:
            self._adopt()
        return line

    def stop(self) -> None:
        """Stop the node if it was started here, or adopted."""
        atexit.unregister(self.stop)
        process = self._process or self._adopted
        self._process = self._adopted = None
        if process is None:
            return
        try:
            process.terminate()
            process.wait(STOP_SECONDS)
        except psutil.NoSuchProcess:
            return
        except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
            process.kill()
            process.wait()

    def _try_line(self) -> ipc.Line | None:
        try:
            return ipc.Line(self.home.find_socket("trainer"))
        except OSError:
            return None

    def _start(self) -> None:
        self.stop()
        self.home.create()
        command = [sys.executable, "-P", "-m", "shoal.node", "start", "--external-trainer"]
        command += ["--home", str(self.home.path), "--log-level", "info"]
        command += ["--log-file", self._log.name, *self._arguments]
        with self._log.open("ab") as log:
            # In a session of its own, so that Ctrl-C reaches the loop first, which then stops the node.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        self._own(self._process.pid)

    def _own(self, node: int) -> None:
        """Say that the node of this pid is ours to stop."""
        us = psutil.Process()
        self._owner.write_text(f"{node} {us.pid} {us.create_time()}\n")
        atexit.register(self.stop)

    def _adopt(self) -> None:
        """Take over a node whose owner was killed; one that was started by hand has none."""
        try:
            node, owner, created = self._owner.read_text().split()
            if int(node) != self.home.running_pid() or _lives(int(owner), float(created)):
                return
            self._adopted = psutil.Process(int(node))
            self._own(int(node))
        except (OSError, ValueError, psutil.NoSuchProcess):
            return

    def _wait_line(self) -> ipc.Line:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while (line := self._try_line()) is None:
            if self._process.poll() is not None:
                raise NotRunning(f"the node did not start: {self._last_words()} (log: {self._log})")
            if time.monotonic() > deadline:
                self.stop()
                raise NotRunning(f"the node opened no socket in {START_SECONDS:.0f} s; see {self._log}")
            time.sleep(_POLL_SECONDS)
        return line

    @property
    def _owner(self) -> Path:
        return self.home.run_dir / "owner"

    @property
    def _log(self) -> Path:
        return self.home.path / "node.log"

    def _last_words(self) -> str:
        lines = self._log.read_text("utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _lives(pid: int, created: float) -> bool:
    """Whether the process that had this pid, and was started then, has not ended."""
    try:
        process = psutil.Process(pid)
        return process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
