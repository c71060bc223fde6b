"""What can be done to the nodes of a running testnet, by its schedule or by a person at a terminal.

Every function acts on the processes or links at once, and notes it in the testnet's log of events. None
needs the launcher: a testnet that was left to itself is shaken in the same way.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from shoal.node.testnet.event_log import note
from shoal.node.testnet.fault_injection.schedule import Action
from shoal.node.testnet.faults import Link
from shoal.node.testnet.network.links import Uncut, changed, closing, load_wires
from shoal.node.testnet.network.namespaces import run_each
from shoal.node.testnet.plan import BadPlan, Plan, name_of
from shoal.node.testnet.processes import (
    NodeRecord,
    Record,
    environment,
    is_running,
    read_record,
    record_locked,
    record_of,
    send_signal,
    spawn,
    stop,
    write_record,
)


class Hands:
    """Acts on one testnet."""

    def __init__(self, directory: Path, by: str, environ: Mapping[str, str] = os.environ) -> None:
        """`by`: who does it, for the log of events; `environ`: for nodes that are started again."""
        self._directory, self._by, self._environ = directory, by, environ

    def act(self, action: Action) -> None:
        """Carry out one action of a schedule, other than a restart, which leaves a process to look after."""
        match action.kind:
            case "split":
                self.split(action.nodes)
            case "heal":
                self.heal()
            case "slow":
                self.relink(action.nodes, action.link)
            case "restore":
                self.relink(action.nodes, None)
            case "kill":
                self.signal(action.nodes, signal.SIGKILL)
            case "pause":
                self.signal(action.nodes, signal.SIGSTOP)
            case "resume":
                self.signal(action.nodes, signal.SIGCONT)

    def signal(self, indices: Sequence[int], number: int) -> list[int]:
        """Kill, freeze or thaw nodes; return those that ran.

        The whole group: a device that loses power or hangs takes its trainer with it.
        """
        kinds = {signal.SIGKILL: "kill", signal.SIGSTOP: "pause", signal.SIGCONT: "resume"}
        record = read_record(self._directory)
        running = [index for index in indices if is_running(node_of(record, index))]
        if running:
            # Noted first: the launcher must not take a wished end for a fault.
            note(self._directory, kinds[signal.Signals(number)], running, self._by)  # type: ignore[arg-type]
        for index in running:
            send_signal(node_of(record, index), number, group=True)
        return running

    def restart(self, index: int) -> subprocess.Popen[bytes]:
        """Start a node again in its home; one that runs leaves in order first."""
        with record_locked(self._directory):
            record = read_record(self._directory)
            old = node_of(record, index)
            if is_running(old):
                note(self._directory, "kill", [index], self._by)
                stop([old])
            process = spawn(old.command, Path(old.log), environment(self._environ), record.folder)
            new = record_of(old.name, Path(old.home), Path(old.log), process.pid, old.command)
            write_record(self._directory, record.with_node(new))
        note(self._directory, "restart", [index], self._by)
        return process

    def split(self, side: Sequence[int]) -> None:
        """Cut all links between these nodes and the rest."""
        changed(self._directory, self._n_nodes(), side=tuple(sorted(side)))
        note(self._directory, "split", side, self._by)

    def heal(self) -> None:
        """Mend the cut."""
        side = load_wires(self._directory).side
        changed(self._directory, self._n_nodes(), side=())
        note(self._directory, "heal", side, self._by)

    def relink(self, indices: Sequence[int], link: Link | None) -> None:
        """Give nodes another link, or that of all others."""
        slow = {index: old for index, old in load_wires(self._directory).slow.items() if index not in indices}
        if link is not None:
            slow |= dict.fromkeys(indices, link)
        changed(self._directory, self._n_nodes(), slow=slow)
        note(self._directory, "restore" if link is None else "slow", indices, self._by)

    def _n_nodes(self) -> int:
        return read_record(self._directory).plan.nodes


def node_of(record: Record, index: int) -> NodeRecord:
    """Return the process of a node.

    Raises:
        BadPlan: it has not been started yet.
    """
    for node in record.nodes:
        if node.index == index:
            return node
    raise BadPlan(f"{name_of(index)} has not been started yet; try again in a moment")


def sides(plan: Plan, side: Sequence[int]) -> str:
    """Say who is on which side of a split."""
    rest = [index for index in range(1, plan.nodes + 1) if index not in side]
    return " | ".join(", ".join(name_of(index) for index in half) for half in (side, rest))


def network_lines(directory: Path, plan: Plan) -> list[str]:
    """Say how the nodes of a testnet are linked now, where that is worth a line."""
    try:
        wires = load_wires(directory)
    except Uncut:
        return []
    lines = []
    if wires.means != "bare":
        lines.append(f"links of {wires.link} by {wires.means} ({wires.why})")
    lines += [f"{name_of(index)} is slow: {link}" for index, link in sorted(wires.slow.items())]
    if wires.side:
        lines.append(f"split: {sides(plan, wires.side)}")
    return lines


def close_network(directory: Path, record: Record) -> None:
    """Remove the network of a testnet whose nodes have ended."""
    if record.proxy is not None:
        stop([record.proxy])
    try:
        run_each(closing(load_wires(directory), record.plan.nodes))
    except Uncut:
        return
