"""The testnet's launcher: real nodes, each a process with its own home, on one machine.

It starts processes, reads what they say about themselves, and draws; it coordinates nothing. Kill it and
the nodes end only because its guard stops them; leave them to themselves and they finish the run.

    start who can be started -> look -> draw -> ... -> all finished -> stop -> train shares alone -> judge

Every node is started as a person would start it. An address can only be told once its node has one, so
nodes start as soon as those they are told about answer.
"""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

import msgspec

from node import control
from node.errors import UserError
from node.plots import plot_accuracy
from node.testnet_plan import Plan, ShareAlone, name_of, start_command, told, told_later
from node.testnet_processes import (
    Guard,
    NodeRecord,
    Record,
    environment,
    record_of,
    spawn,
    stop,
    write_record,
)
from node.testnet_verdict import ACCURACY_BAR, Result, ended_how, judge
from node.testnet_watch import FetchStatus, Observed, Watcher, fetch_status

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at all nodes; a person sees no more, and the nodes need the processor."""
RESULT_NAME: Final = "result.json"
PLOT_NAME: Final = "accuracy.png"


class Screen(Protocol):
    """Where a launcher shows what it does."""

    def show(self, plan: Plan, nodes: Sequence[Observed], seconds: float, note: str) -> None:
        """Draw the nodes."""
        ...

    def progress(self, text: str, done: int, total: int) -> None:
        """Draw how far something else is."""
        ...

    def tell(self, line: str) -> None:
        """Say a line."""
        ...


class NodeFailed(UserError):
    """A node ended before it ever answered; its log says why."""


class Interrupted(UserError):
    """Somebody pressed Ctrl-C or asked the launcher to end; all nodes have been stopped."""

    exit_code = 130


def baseline_command(plan: Plan) -> list[str]:
    """Return the command line that trains the shares alone."""
    return [sys.executable, "-m", "node.baseline", msgspec.json.encode(plan).decode()]


@dataclass(frozen=True, slots=True)
class Tools:
    """What the launcher needs of the world; tests bring others."""

    start_command: Callable[[Plan, int, Path, Sequence[str]], list[str]] = start_command
    baseline_command: Callable[[Plan], list[str]] = baseline_command
    fetch_status: FetchStatus = fetch_status
    add_bootstrap: Callable[[Path, str], None] = control.add_bootstrap
    environ: dict[str, str] = field(default_factory=dict)


class Interrupts:
    """Counts the wishes to end instead of raising, so that nothing is left half done."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self.count = 0
        self._event = threading.Event()

    def __enter__(self) -> "Interrupts":
        """Take over Ctrl-C, SIGTERM and the closing of the terminal."""
        self._before = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            # Under nohup the terminal may close.
            if signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Sleep, but not on when somebody asks."""
        before = self.count
        self._event.clear()
        if self.count == before:
            self._event.wait(seconds)


class Testnet:
    """The nodes of one testnet, from the first start to the last stop."""

    __test__ = False  # not a test, whatever its name begins with

    def __init__(self, plan: Plan, directory: Path, tools: Tools, guard: Guard | None) -> None:
        """Start nothing yet. `guard` is None where the nodes are to outlive this process."""
        self.plan = plan
        self.directory = directory
        self.tools = tools
        self._guard = guard
        self._began = time.time()
        self._clock = time.monotonic()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._records: list[NodeRecord] = []
        self._to_tell = list(told_later(plan))
        self._watcher = Watcher(
            [(name_of(i), self.home(i)) for i in range(1, plan.nodes + 1)], tools.fetch_status
        )

    def home(self, index: int) -> Path:
        """Return where a node lives."""
        return self.directory / name_of(index)

    def log(self, index: int) -> Path:
        """Return where a node's lines go."""
        return self.directory / f"{name_of(index)}.log"

    @property
    def nodes(self) -> list[Observed]:
        """What is known of every node."""
        return self._watcher.nodes

    @property
    def seconds(self) -> float:
        """Since the launcher began."""
        return time.monotonic() - self._clock

    @property
    def started(self) -> bool:
        """Whether every node has answered, and has been told whom it should know."""
        return not self._to_tell and all(node.status is not None for node in self.nodes)

    @property
    def over(self) -> bool:
        """Whether every node has finished or ended."""
        ended = [node.finished or node.exit_code is not None for node in self.nodes]
        return len(self._processes) == self.plan.nodes and all(ended)

    def step(self) -> None:
        """Start who can be started, look at all, tell what can be told.

        Raises:
            NodeFailed: a node ended before it ever answered.
        """
        for index in range(1, self.plan.nodes + 1):
            addresses = [self._address(other) for other in told(self.plan, index)]
            if index not in self._processes and all(addresses):
                self._start(index, [address for address in addresses if address])
        self._watcher.look()
        for index, process in self._processes.items():
            self._note_end(index, process.poll())
        for who, whom in list(self._to_tell):
            address = self._address(whom)
            if address and self.nodes[who - 1].answers:
                self.tools.add_bootstrap(self.home(who), address)
                self._to_tell.remove((who, whom))

    def _address(self, index: int) -> str | None:
        status = self.nodes[index - 1].status
        return status.addresses[0] if status and status.addresses else None

    def _start(self, index: int, joins: Sequence[str]) -> None:
        command = self.tools.start_command(self.plan, index, self.home(index), joins)
        process = spawn(command, self.log(index), environment(self.tools.environ))
        self._processes[index] = process
        if self._guard:
            self._guard.watch(process.pid)
        self._records.append(record_of(name_of(index), self.home(index), self.log(index), process.pid))
        write_record(self.directory, Record(self.plan, self._began, tuple(self._records)))

    def _note_end(self, index: int, exit_code: int | None) -> None:
        node = self.nodes[index - 1]
        if exit_code is None or node.exit_code is not None:
            return
        node.exit_code, node.last_words = exit_code, last_line(self.log(index))
        if self._guard:
            self._guard.unwatch(self._processes[index].pid)
        if node.status is None:
            why = node.last_words.removeprefix("error: ")
            raise NodeFailed(
                f"{node.name} {ended_how(exit_code)} before it answered: {why} (its log: {self.log(index)})"
            )

    def stop(self, hurry: Callable[[], bool], pause: Callable[[float], None]) -> list[str]:
        """Let all nodes leave in order; return the names of those that had to be killed."""
        self._watcher.close()
        killed = stop(self._records, hurry=hurry, pause=pause)
        for index, process in self._processes.items():
            exit_code = process.wait()
            if self.nodes[index - 1].exit_code is None:
                self.nodes[index - 1].left = exit_code
        return killed

    def release(self) -> None:
        """Leave the nodes to themselves."""
        self._watcher.close()
        for process in self._processes.values():
            # Not ours to wait for any more; without this the interpreter would warn about each.
            process.returncode = process.poll() or 0


def last_line(log: Path) -> str:
    """Return what a log says at its end, or that it is empty."""
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 4096))
        text = file.read().decode("utf-8", "replace")
    # The frames that Python draws around grouped errors say nothing.
    lines = [line.strip(" |+-") for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "it wrote nothing")


def up(plan: Plan, directory: Path, *, screen: Screen, tools: Tools, keep: bool = False) -> Result:
    """Run a testnet to its end and judge it.

    Without `keep` the homes of a testnet whose verdict holds are removed; logs, result and plot stay.

    Raises:
        NodeFailed: a node ended before it ever answered.
        Interrupted: somebody asked to end; all nodes have been stopped.
    """
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        guard = Guard()
        stack.callback(guard.close)
        net = Testnet(plan, directory, tools, guard)
        try:
            seconds = _run(net, interrupts, screen)
        finally:
            asked = interrupts.count
            if asked:
                screen.tell("stopping the nodes; Ctrl-C again to end them at once")
            killed = net.stop(lambda: interrupts.count > asked, interrupts.wait)
            if killed:
                screen.tell(f"did not leave in time and were killed: {', '.join(killed)}")
        local_only: list[float] = []
        if not asked and plan.shares and any(node.finished for node in net.nodes):
            local_only = _train_alone(net, guard, interrupts, screen)
        elif not plan.shares:
            local_only = [node.accuracy for node in net.nodes if node.accuracy is not None]
        if interrupts.count:
            raise Interrupted(f"stopped at round {_lowest(net.nodes)} of {plan.rounds}; logs: {directory}")
        result = judge(plan, net.nodes, local_only=local_only, seconds=seconds)
        _write(directory, plan, net.nodes, result)
        if result.verdict and not keep:
            for index in range(1, plan.nodes + 1):
                shutil.rmtree(net.home(index), ignore_errors=True)
        return result


def _run(net: Testnet, interrupts: Interrupts, screen: Screen) -> float:
    """Look after the nodes until the run is over; return how long that took."""
    while not interrupts.count:
        net.step()
        left = net.plan.timeout - net.seconds
        screen.show(net.plan, net.nodes, net.seconds, "" if net.started else "starting")
        if net.over or left <= 0:
            break
        interrupts.wait(min(LOOK_EVERY, left))
    return net.seconds


def _lowest(nodes: Sequence[Observed]) -> int:
    return min(node.status.round if node.status else 0 for node in nodes)


def _train_alone(net: Testnet, guard: Guard, interrupts: Interrupts, screen: Screen) -> list[float]:
    """Train the shares alone, in one process; return their accuracies, none where that failed."""
    output = net.directory / "baseline.jsonl"
    output.unlink(missing_ok=True)
    process = spawn(net.tools.baseline_command(net.plan), output, environment(net.tools.environ))
    guard.watch(process.pid)
    while process.poll() is None and not interrupts.count:
        done = output.read_bytes().count(b"\n")
        screen.progress("training every share alone, for comparison", done, net.plan.nodes)
        interrupts.wait(0.2)
    if process.poll() is None:
        process.kill()
    exit_code = process.wait()
    guard.unwatch(process.pid)
    if interrupts.count:
        return []
    if exit_code:
        screen.tell(f"training alone failed: {last_line(output)}")
        return []
    lines = [line for line in output.read_bytes().splitlines() if line.startswith(b"{")]
    return [msgspec.json.decode(line, type=ShareAlone).accuracy for line in lines]


def _write(directory: Path, plan: Plan, nodes: Sequence[Observed], result: Result) -> None:
    text = msgspec.json.format(msgspec.json.encode(result))
    (directory / RESULT_NAME).write_bytes(text + b"\n")
    curves = {
        node.name: [
            (number + 1, round_.metrics["accuracy"])
            for number, round_ in sorted(node.rounds.items())
            if "accuracy" in round_.metrics
        ]
        for node in nodes
    }
    plot_accuracy(
        directory / PLOT_NAME,
        curves,
        local_only=result.local_only if plan.shares else (),
        bar=ACCURACY_BAR.get(plan.task) if plan.shares else None,
        title=f"{plan.method} on {plan.task}, {plan.nodes} nodes, alpha {plan.alpha:g}",
    )


def up_detached(plan: Plan, directory: Path, *, screen: Screen, tools: Tools) -> None:
    """Start a testnet and leave it to itself.

    Raises:
        NodeFailed: a node ended before it ever answered; the others have been stopped.
        Interrupted: somebody asked to end, or the nodes did not start in time; they have been stopped.
    """
    with Interrupts() as interrupts:
        net = Testnet(plan, directory, tools, guard=None)
        try:
            while not net.started and not interrupts.count and net.seconds < plan.timeout:
                net.step()
                screen.show(plan, net.nodes, net.seconds, "starting")
                interrupts.wait(0.2)
            if not net.started:
                raise Interrupted(f"the nodes had not all started; logs: {directory}")
        except BaseException:
            net.stop(lambda: interrupts.count > 1, interrupts.wait)
            raise
        net.release()
