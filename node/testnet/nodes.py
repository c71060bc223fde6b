"""The nodes of one testnet, as their launcher holds them: started, looked at, taken over, stopped.

    open the network -> start who can be -> look -> take over what others restarted -> ... -> stop, close

Nodes are started a few at a time: a machine that loads sixty-four processes at once lets all of them wait,
and their first handshakes run out of time.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from shoal.node.errors import UserError
from shoal.node.storage.database import Store
from shoal.node.storage.home import Home
from shoal.node.testnet.event_log import note, read_events, was_wished
from shoal.node.testnet.network.door import with_door
from shoal.node.testnet.network.link_model import read_report
from shoal.node.testnet.network.links import (
    Wires,
    closing,
    joining,
    network_flags,
    opening,
    proxy_command,
    save_wires,
    wrapped,
)
from shoal.node.testnet.network.namespaces import run_all, run_each
from shoal.node.testnet.plan import Plan, name_of, start_command, told, told_later
from shoal.node.testnet.processes import (
    RECORD_NAME,
    Guard,
    NodeRecord,
    Record,
    environment,
    is_running,
    read_record,
    record_locked,
    record_of,
    spawn,
    stop,
    write_record,
)
from shoal.node.testnet.verdict import ended_how, models_apart
from shoal.node.testnet.watch import FetchStatus, Observed, Watcher, fetch_status
from shoal.node.trainer.fit import check_fit
from shoal.node.web import client

STARTING_PER_CORE: Final = 4
"""Nodes that load at the same time: one that reads its libraries, or waits for others, leaves the core."""
OPEN_SECONDS: Final = 20.0
"""For the proxy to listen."""


class NodeFailed(UserError):
    """A node ended before it ever answered; its log says why."""


def baseline_command(plan: Plan) -> list[str]:
    """Return the command line that trains the shares alone."""
    return [sys.executable, "-P", "-m", "shoal.node.testnet.baseline", msgspec.json.encode(plan).decode()]


@dataclass(frozen=True, slots=True)
class Tools:
    """What the launcher needs of the world; tests bring others."""

    start_command: Callable[[Plan, int, Path, Sequence[str], Sequence[str]], list[str]] = start_command
    baseline_command: Callable[[Plan], list[str]] = baseline_command
    fetch_status: FetchStatus = fetch_status
    check_fit: Callable[[str], None] = check_fit
    add_bootstrap: Callable[[Path, str], None] = client.add_bootstrap
    environ: dict[str, str] = field(default_factory=dict)


class Testnet:
    """The nodes of one testnet, from the first start to the last stop."""

    __test__ = False  # not a test, whatever its name begins with

    def __init__(self, plan: Plan, directory: Path, tools: Tools, guard: Guard | None, wires: Wires) -> None:
        """Start nothing yet. `guard` is None where the nodes are to outlive this process."""
        self.plan, self.directory, self.tools, self.wires = plan, directory, tools, wires
        self.began_at = time.time()
        self._guard = guard
        self._clock = time.monotonic()
        self._record = Record(plan, self.began_at, (), folder=str(Path.cwd()))
        self._record_read = 0
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._proxy: subprocess.Popen[bytes] | None = None
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
    def records(self) -> Sequence[NodeRecord]:
        """The processes of the nodes that were started."""
        return self._record.nodes

    @property
    def seconds(self) -> float:
        """Since the launcher began."""
        return time.monotonic() - self._clock

    @property
    def started(self) -> bool:
        """Whether every node has answered once, and has been told whom it should know."""
        return not self._to_tell and all(node.pids for node in self.nodes)

    @property
    def over(self) -> bool:
        """Whether every node has finished or ended."""
        ended = [node.finished or node.exit_code is not None for node in self.nodes]
        return len(self._record.nodes) == self.plan.nodes and all(ended)

    # --- beginning --------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the network.

        Raises:
            NodeFailed: the proxy did not start.
            NoNamespace: the system refused a network namespace.
        """
        self.plan = with_door(self.plan, self.directory, self.home)
        self._record = msgspec.structs.replace(self._record, plan=self.plan)
        save_wires(self.directory, self.wires)
        write_record(self.directory, self._record)
        if self._guard:
            for command in closing(self.wires, self.plan.nodes):
                self._guard.run_at_end(command)
        run_all(opening(self.wires))
        for index in range(1, self.plan.nodes + 1):
            run_all(joining(self.wires, index))
        if self.wires.means == "proxy":
            self._start_proxy()

    def _start_proxy(self) -> None:
        log = self.directory / "shaper.log"
        command = proxy_command(self.directory)
        self._proxy = spawn(command, log, environment(self.tools.environ))
        if self._guard:
            self._guard.watch(self._proxy.pid)
        record = record_of("shaper", self.directory, log, self._proxy.pid, command)
        self._record = msgspec.structs.replace(self._record, proxy=record)
        write_record(self.directory, self._record)
        deadline = time.monotonic() + OPEN_SECONDS
        while read_report(self.directory) is None:
            if self._proxy.poll() is not None or time.monotonic() > deadline:
                raise NodeFailed(f"the proxy did not start: {last_line(log)} (its log: {log})")
            time.sleep(0.05)

    def step(self) -> None:
        """Start who can be started, look at all, tell what can be told.

        Raises:
            NodeFailed: a node ended before it ever answered, or the proxy ended.
        """
        exit_code = self._proxy.poll() if self._proxy is not None else None
        if exit_code is not None:
            log = self.directory / "shaper.log"
            raise NodeFailed(f"the proxy {ended_how(exit_code)}: {last_line(log)} (its log: {log})")
        self._start_some()
        self._take_over()
        self._watcher.look()
        for record in self._record.nodes:
            self._note_loaded(record)
            self._note_end(record)
        for who, whom in list(self._to_tell):
            address = self._address(whom)
            if address and self.nodes[who - 1].answers:
                self.tools.add_bootstrap(self.home(who), address)
                self._to_tell.remove((who, whom))

    def _start_some(self) -> None:
        started = {record.index for record in self._record.nodes}
        room = STARTING_PER_CORE * (os.cpu_count() or 1) - sum(
            self.nodes[index - 1].is_loading for index in started
        )
        for index in range(1, self.plan.nodes + 1):
            addresses = [self._address(other) for other in told(self.plan, index)]
            if room > 0 and index not in started and all(addresses):
                self._start(index, [address for address in addresses if address])
                room -= 1

    def _address(self, index: int) -> str | None:
        status = self.nodes[index - 1].status
        return status.addresses[0] if status and status.addresses else None

    def _start(self, index: int, joins: Sequence[str]) -> None:
        flags = network_flags(self.wires, index)
        bare = self.tools.start_command(self.plan, index, self.home(index), joins, flags)
        command = wrapped(self.wires, index, bare)
        process = spawn(command, self.log(index), environment(self.tools.environ))
        record = record_of(name_of(index), self.home(index), self.log(index), process.pid, command)
        self._children[index] = process
        if self._guard:
            self._guard.watch(process.pid)
        with record_locked(self.directory):
            self._record = self._record.with_node(record)
            write_record(self.directory, self._record)
        note(self.directory, "start", [index])
        if lie := self.plan.lie_of(index):
            note(self.directory, "lies", [index], lie=lie)

    # --- what happens meanwhile -------------------------------------------------------------------

    def adopt(self, index: int, process: subprocess.Popen[bytes]) -> None:
        """Take on a process of a node that we started again."""
        self._children[index] = process
        self._take_over()

    def _take_over(self) -> None:
        """Take note of nodes that were started again, by our schedule or by a command."""
        written = (self.directory / RECORD_NAME).stat().st_mtime_ns
        if written == self._record_read:
            return
        self._record_read = written
        with record_locked(self.directory):
            found = read_record(self.directory)
        pids = {record.index: record.pid for record in self._record.nodes}
        self._record = found
        for record in found.nodes:
            if pids.get(record.index) == record.pid:
                continue
            self.nodes[record.index - 1].begin_again()
            if self._guard:
                self._guard.unwatch(pids[record.index])
                self._guard.watch(record.pid)
            child = self._children.get(record.index)
            if child is not None and child.pid != record.pid:
                child.wait()  # whoever started another had it end
                del self._children[record.index]

    def _note_loaded(self, record: NodeRecord) -> None:
        node = self.nodes[record.index - 1]
        if not node.loaded and not node.is_loading and node.status is not None:
            node.loaded = True
            note(self.directory, "loaded", [record.index])

    def _note_end(self, record: NodeRecord) -> None:
        index, node = record.index, self.nodes[record.index - 1]
        exit_code = self._exit_code(record)
        if exit_code is None or node.exit_code is not None:
            return
        node.exit_code, node.last_words = exit_code, last_line(self.log(index))
        node.wished = was_wished(read_events(self.directory), index)
        if not node.wished:
            note(self.directory, "died", [index])
        if self._guard:
            self._guard.unwatch(record.pid)
        if node.status is None and not node.restarts and not node.wished:
            why = node.last_words.removeprefix("error: ")
            raise NodeFailed(
                f"{node.name} {ended_how(exit_code)} before it answered: {why} (its log: {self.log(index)})"
            )

    def _exit_code(self, record: NodeRecord) -> int | None:
        child = self._children.get(record.index)
        if child is not None:
            return child.poll()
        # Started by another command: the system tells how it ended to that one alone.
        return None if is_running(record) else 1

    # --- the end ----------------------------------------------------------------------------------

    def stop(self, hurry: Callable[[], bool], pause: Callable[[float], None]) -> list[str]:
        """Let all nodes leave in order, remove the network; return the names of those killed."""
        self._watcher.close()
        self._take_over()
        killed = stop(self._record.nodes, hurry=hurry, pause=pause)
        for index, process in self._children.items():
            exit_code = process.wait()
            if self.nodes[index - 1].exit_code is None:
                self.nodes[index - 1].left = exit_code
        if self._proxy is not None:
            self._proxy.terminate()
            self._proxy.wait()
        run_each(closing(self.wires, self.plan.nodes))
        return killed

    def read_disks(self) -> None:
        """Learn from the nodes' databases of rounds that nobody saw while they ran."""
        runs = {node.status.run.run_id for node in self.nodes if node.status and node.status.run}
        for index, node in enumerate(self.nodes, 1):
            database = self.home(index) / "shoal.db"
            if database.exists():
                store = Store(database)
                for run in runs:
                    node.take_rounds(store.rounds(run, limit=1_000_000))
                store.close()

    def models_apart(self) -> float | None:
        """Return how far apart the models on the honest nodes' disks are; None where one has none."""
        runs = {node.status.run.run_id for node in self.nodes if node.status and node.status.run}
        homes = [Home(self.home(index)) for index in range(1, self.plan.honest + 1)]
        return models_apart([home.state_dir for home in homes], bytes.fromhex(runs.pop())) if runs else None

    def release(self) -> None:
        """Leave the nodes to themselves."""
        self._watcher.close()
        for process in [*self._children.values(), *([self._proxy] if self._proxy else [])]:
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
