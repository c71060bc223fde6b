"""The processes of a testnet: started, watched, stopped, and never left behind.

Every node leads a process group of its own, so that Ctrl-C in the terminal reaches the launcher alone,
which then lets the nodes leave in order: SIGTERM, a second one after `GRACE` seconds, at last SIGKILL.

A launcher that is killed cannot do so. Therefore a `Guard` runs beside it: a small process that holds the
other end of a pipe. The pipe closes when the launcher dies, however it dies, and the guard stops the nodes.
(Linux could have the kernel signal the children of a dead parent; a pipe does it everywhere.)

A record in the testnet's folder names the processes, for the commands that act on them later. A pid is
believed only together with the time at which its process began: pids are given again.
"""

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import psutil

from shoal.node.errors import UserError
from shoal.node.storage.files import write_whole
from shoal.node.testnet.plan import Plan

log = logging.getLogger(__name__)

GRACE: Final = 10.0
"""Seconds for a node to leave in order; it ends its trainer and says goodbye to its peers."""
GRACE_AT_ONCE: Final = 3.0
"""Seconds after the second SIGTERM."""
CLOCK_SLACK: Final = 2.0
RECORD_NAME: Final = "testnet.json"
LOCK_NAME: Final = "testnet.lock"
CALM_NAME: Final = "calm"
"""Where, in the folder of a testnet to be shaken, the same lies that is left in peace before."""


class NoTestnet(UserError):
    """No testnet was started here: start one with shoal testnet up, or name its folder with --dir."""


class NodeRecord(msgspec.Struct, frozen=True):
    """A node's process, and where its things lie."""

    name: str
    home: str
    log: str
    pid: int
    began: float
    """Unix seconds, as the system tells it of the process."""
    command: tuple[str, ...] = ()
    """With which it was started, and is started again."""

    @property
    def index(self) -> int:
        """Its number, counted from 1; 0 for what is no node, such as the proxy."""
        number = self.name.removeprefix("node-")
        return int(number) if number.isdecimal() else 0


class Record(msgspec.Struct, frozen=True):
    """A testnet as it was started."""

    plan: Plan
    started_at: float
    nodes: tuple[NodeRecord, ...]
    proxy: NodeRecord | None = None
    """The process that shapes their links, where there is one."""
    folder: str = ""
    """Where it was started: tasks are imported from there."""

    def with_node(self, node: NodeRecord) -> "Record":
        """Return this record with a node's new process in the place of its old one."""
        others = [other for other in self.nodes if other.name != node.name]
        nodes = tuple(sorted([*others, node], key=lambda each: each.index))
        return msgspec.structs.replace(self, nodes=nodes)


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a node: ours, without settings that were meant for another node."""
    kept = {key: value for key, value in base.items() if not key.startswith("SHOAL_")}
    # Several nodes share the machine; each with a thread per core would only wait for the others.
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def spawn(
    command: Sequence[str], log: Path, env: Mapping[str, str], folder: str = ""
) -> subprocess.Popen[bytes]:
    """Start a process that leads its own group and writes to a log; in `folder`, or here."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            cwd=folder or None,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
        )


def record_of(name: str, home: Path, log: Path, pid: int, command: Sequence[str] = ()) -> NodeRecord:
    """Describe a process that was just started."""
    try:
        began = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        began = 0.0
    return NodeRecord(name, str(home.absolute()), str(log.absolute()), pid, began, tuple(command))


def is_running(node: NodeRecord) -> bool:
    """Return whether the process that was started still runs, and not another with its pid."""
    try:
        process = psutil.Process(node.pid)
        # The system reckons the time from that of its boot, which moves when the clock is set right.
        same = abs(process.create_time() - node.began) < CLOCK_SLACK
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def describe(node: NodeRecord) -> str:
    """Say what explains that a node is silent: not running, or frozen; else nothing."""
    if not is_running(node):
        return "not running"
    return "frozen" if psutil.Process(node.pid).status() == psutil.STATUS_STOPPED else ""


def send_signal(node: NodeRecord, number: int, *, group: bool = False) -> bool:
    """Signal a node, or its whole group with the trainer; False where it has ended."""
    if not is_running(node):
        return False
    try:
        (os.killpg if group else os.kill)(node.pid, number)
    except ProcessLookupError:
        return False
    return True


def processes_of(record: Record) -> list[NodeRecord]:
    """Return all processes of a testnet, the proxy last: nodes leave through it."""
    return [*record.nodes, *([record.proxy] if record.proxy is not None else [])]


def left_over(directory: Path) -> list[str]:
    """Return what still runs of a testnet, trainers and proxy included, by command line."""
    home, proxy = f"{directory}/node-", "shoal.node.testnet.network.proxy"
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            ours = any(word.startswith(home) for word in words) or (
                proxy in words and str(directory) in words
            )
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid}: {' '.join(words)[:160]}")
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def stop(
    nodes: Sequence[NodeRecord],
    *,
    hurry: Callable[[], bool] = lambda: False,
    pause: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Let the nodes leave in order; return the names of those that had to be killed.

    `hurry` is asked all the while, and cuts the grace short. A frozen node is thawed first.
    """
    for number in (signal.SIGTERM, signal.SIGCONT):
        for node in nodes:
            send_signal(node, number, group=number == signal.SIGCONT)
    _wait_ended(nodes, GRACE, pause, hurry)
    for node in nodes:
        send_signal(node, signal.SIGTERM)
    _wait_ended(nodes, GRACE_AT_ONCE, pause)
    killed = [node.name for node in nodes if send_signal(node, signal.SIGKILL, group=True)]
    _wait_ended(nodes, GRACE_AT_ONCE, pause)
    return killed


def _wait_ended(
    nodes: Sequence[NodeRecord],
    seconds: float,
    pause: Callable[[float], None],
    hurry: Callable[[], bool] = lambda: False,
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not hurry() and any(map(is_running, nodes)):
        pause(0.05)


class Guard:
    """Stops the nodes if this process dies without having done so itself."""

    def __init__(self) -> None:
        """Start the process that watches us."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "shoal.node.testnet.guard", str(GRACE), str(GRACE_AT_ONCE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, pid: int) -> None:
        """Have this process stopped if we die."""
        self._tell(f"{pid}\n")

    def unwatch(self, pid: int) -> None:
        """Forget a process that has ended: its pid may be given again."""
        self._tell(f"-{pid}\n")

    def run_at_end(self, command: Sequence[str]) -> None:
        """Have a command run after the processes have been stopped, if we die."""
        self._tell("!" + msgspec.json.encode(command).decode() + "\n")

    def close(self) -> None:
        """Send the guard home: all nodes have ended."""
        self._tell("done\n")
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            # Somebody killed the guard. The nodes run on and are stopped by us, as is usual.
            log.warning("the guard of the testnet has ended; nodes would outlive a kill of this process")


@contextmanager
def record_locked(directory: Path) -> Iterator[None]:
    """Hold the record, so that the launcher and a command do not overwrite each other's change."""
    with (directory / LOCK_NAME).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_record(directory: Path, record: Record) -> None:
    """Write the record, whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(record))
    write_whole(directory / RECORD_NAME, text, is_durable=False)


def read_record(directory: Path) -> Record:
    """Read the record of a testnet.

    Raises:
        NoTestnet: none was started in this folder, or the record is damaged.
    """
    path = directory / RECORD_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        raise NoTestnet(f"no testnet in {directory}; start one with: shoal testnet up") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise NoTestnet(f"{path} cannot be read ({error}); remove {directory}") from None


def newest(base: Path) -> Path:
    """Return the folder of the testnet that was started last under a folder.

    Raises:
        NoTestnet: there is none.
    """
    records = [*base.glob(f"*/{RECORD_NAME}"), *base.glob(f"*/{CALM_NAME}/{RECORD_NAME}")]
    found = sorted(records, key=lambda path: path.stat().st_mtime)
    if not found:
        raise NoTestnet(f"no testnet in {base}; start one with: shoal testnet up")
    return found[-1].parent
