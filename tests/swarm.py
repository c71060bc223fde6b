"""Swarms of real node processes for tests: over real libp2p on loopback, each node in a home of its own.

    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *TRAIN)
        two = swarm.start("two", *TRAIN, join=one)
        two.wait("two rounds together", lambda status: status.round >= 2)

Every wait is for a condition and has a deadline, which is generous because machines are loaded, while the
condition is exact. Whatever happens, all processes end with the `with`; when it ends by an error, the
nodes' logs are printed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import psutil

from shoal.node.errors import NotRunning, Refused
from shoal.node.status import RoundStatus, Status
from shoal.node.web import client

T = TypeVar("T")

DEADLINE: Final = 120.0
"""Seconds for a condition that on a quiet machine takes a few at most."""
LAST_WORDS: Final = 20.0
"""Seconds that a node has to say why it ends."""
TASKS: Final = Path(__file__).with_name("tasks")
"""Where nodes are started: tasks are imported from there."""
NODE: Final = (sys.executable, "-P", "-m", "shoal.node")
QUIET: Final = ("--no-mdns", "--http-port", "0", "--log-level", "info", "--no-check")
LOOPBACK: Final = "/ip4/127.0.0.1/tcp/{}"
TRAIN: Final = ("--task", "light:Light", "--option", "steps=5")
"""Rounds of 0.25 s by a trainer that computes next to nothing (tests/tasks/light.py)."""
TORCH: Final = ("--task", "paced:Paced", "--option", "steps=5")
"""The same with the real trainer (tests/tasks/paced.py)."""


def wait_until(what: str, condition: Callable[[], T | None], seconds: float = DEADLINE) -> T:
    """Return the first value of `condition` that is true; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a node: no settings of the person who runs the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SHOAL_")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(TASKS), **changes}


class Node:
    """One node's home and, while it runs, its process."""

    def __init__(self, name: str, home: Path) -> None:
        """Nothing runs yet."""
        self.name, self.home = name, home
        self.process: subprocess.Popen[bytes] | None = None
        self._log = home.with_suffix(".log")
        self._seen = "never answered"

    def start(self, *flags: str, environ: Mapping[str, str] | None = None) -> None:
        """Start the process; a second time in the same home, as its user would."""
        trainer = "light" if "light:Light" in flags else "shoal.node.trainer.process"
        listen = () if "--listen" in flags else ("--listen", LOOPBACK.format(0))
        assert self.process is None or self.process.poll() is not None, f"{self.name} runs already"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*NODE, "start", "--home", str(self.home), *QUIET, *listen, *flags],
                cwd=TASKS,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(**{"SHOAL_TESTING_TRAINER": trainer, **(environ or {})}),
                # A group of its own, with which its trainer can be ended too.
                start_new_session=True,
            )

    # --- what it says -----------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """All that the node has printed, over all its starts."""
        return self._log.read_text("utf-8", errors="replace") if self._log.exists() else ""

    def ask(self) -> Status | None:
        """Return the node's status, or None where it does not answer."""
        try:
            status = client.fetch_status(self.home)
        except (NotRunning, Refused):
            return None
        self._seen = f"{status.phase}, round {status.round}, {len(status.peers)} peers"
        return status

    @property
    def status(self) -> Status:
        """What it says now; it must be up. Where it has just ended by itself, its log says why."""
        try:
            return client.fetch_status(self.home)
        except NotRunning:
            assert self.process is not None
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(LAST_WORDS)
            raise AssertionError(
                f"{self.name} is not up, exit code {self.exit_code}: {self.log[-4000:]}"
            ) from None

    def wait(self, what: str, condition: Callable[[Status], Any], seconds: float = DEADLINE) -> Status:
        """Wait until the node's status is as wanted; fail at once when its process ends before."""

        def look() -> Status | None:
            status = self.ask()
            if status is not None and condition(status):
                return status
            assert self.is_running, f"{self.name} ended with {self.exit_code} before: {what}"
            return None

        try:
            return wait_until(f"{self.name}: {what}", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error} (last: {self._seen})") from None

    def wait_log(self, text: str, seconds: float = DEADLINE) -> None:
        """Wait until the node has printed something."""
        wait_until(f"{self.name} prints {text!r}", lambda: text in self.log, seconds)

    @property
    def address(self) -> str:
        """Where others reach it."""
        return self.wait("listens", lambda status: status.addresses).addresses[0]

    @property
    def trainer(self) -> psutil.Process | None:
        """Its trainer's process."""
        if self.process is None:
            return None
        try:
            children = psutil.Process(self.process.pid).children()
            return next((each for each in children if "--spec" in each.cmdline()), None)
        except psutil.NoSuchProcess:
            return None

    # --- how it ends ------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended; negative for the number of a signal."""
        return self.process.poll() if self.process is not None else None

    def signal(self, number: int) -> None:
        """Send a signal to the node alone."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait_end(self, seconds: float = DEADLINE) -> int:
        """Wait until it has ended; returns its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended within {seconds:.0f} s") from None

    def kill(self) -> None:
        """Kill it, as a power cut would; its trainer notices by itself."""
        self.signal(signal.SIGKILL)
        self.wait_end()

    def stop(self) -> int:
        """Let it leave; returns its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_end()

    def processes(self) -> list[psutil.Process]:
        """Return what lives of its group: the node and its trainer."""
        assert self.process is not None
        return [each for each in psutil.process_iter() if _is_of_group(each, self.process.pid)]

    def end(self) -> None:
        """Leave nothing of it behind."""
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Swarm:
    """Nodes of one test."""

    def __init__(self, directory: Path) -> None:
        """`directory`: where the homes are made."""
        self.directory = directory
        self.nodes: dict[str, Node] = {}

    def __enter__(self) -> "Swarm":
        """See the module's docstring."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process; print the logs where the test failed."""
        for node in self.nodes.values():
            node.end()
        if kind is not None:
            for node in self.nodes.values():
                print(f"--- {node.name} (exit code {node.exit_code})\n{node.log[-6000:]}")

    def start(
        self,
        name: str,
        *flags: str,
        join: "Node | Iterable[Node | str] | str" = (),
        environ: Mapping[str, str] | None = None,
    ) -> Node:
        """Start a node, new or known by its name; returns at once unless it has to know an address."""
        node = self.nodes.setdefault(name, Node(name, self.directory / name))
        targets = [join] if isinstance(join, Node | str) else list(join)
        addresses = [each if isinstance(each, str) else each.address for each in targets]
        node.start(*flags, *(part for address in addresses for part in ("--join", address)), environ=environ)
        return node


def averaged(status: Status) -> dict[int, RoundStatus]:
    """Return the rounds that a node averaged with others."""
    return {each.round: each for each in status.history if each.outcome == "averaged"}


def same_round(nodes: Sequence[Node], least: int = 0) -> dict[str, str] | None:
    """Return the nodes' hashes after a round that all of them have finished, at least this one."""
    finished = []
    for node in nodes:
        status = node.ask()
        if status is None:
            return None
        finished.append({each.round: each.state_hash for each in status.history})
    common = [round_ for round_ in set(finished[0]).intersection(*finished[1:]) if round_ >= least]
    if not common:
        return None
    return {node.name: each[max(common)] for node, each in zip(nodes, finished, strict=True)}


def wait_agreement(nodes: Sequence[Node], least: int = 0, seconds: float = DEADLINE) -> str:
    """Wait until the nodes have finished a common round; they must agree on the state after it."""
    names = ", ".join(node.name for node in nodes)
    hashes = wait_until(f"{names} finish a common round", lambda: same_round(nodes, least), seconds)
    assert len(set(hashes.values())) == 1, f"states differ: {hashes}"
    return next(iter(hashes.values()))


def _is_of_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
