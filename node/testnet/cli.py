"""The commands of ``shoal testnet``: a whole swarm on one machine, looked at and shaken.

``up`` runs one to its verdict; with ``--detach`` it leaves the nodes running. The others act on the
testnet that was started last under ./testnet, or on the one that --dir names.
"""

import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from shoal.node.testnet.fault_injection.injector import Hands, close_network, network_lines, node_of, sides
from shoal.node.testnet.lies.catalogue import LIES
from shoal.node.testnet.plan import BadPlan, Plan, index_of, name_of
from shoal.node.testnet.processes import Record, describe, is_running, newest, read_record, stop
from shoal.node.testnet.tables import lies_table, roles_line, table
from shoal.node.testnet.up import BASE, dir_flag, up
from shoal.node.testnet.watch import Observed, Watcher, fetch_status, holders

app = typer.Typer(
    name="testnet",
    help="A swarm of real nodes on this machine: start it, watch it, shake it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


Dir = Annotated[Path | None, typer.Option("--dir", help="The testnet's folder.", show_default="the newest")]
Node = Annotated[str, typer.Argument(help="Which node: node-3, or just 3.", metavar="NODE")]
Nodes = Annotated[
    list[str],
    typer.Argument(
        help="Which nodes: node-3, or just 3; or who holds a role, such as host.", metavar="NODE..."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON object to standard output.")]


app.command()(up)


def _record(directory: Path | None) -> Record:
    return read_record(directory or newest(BASE))


@app.command()
def status(directory: Dir = None, as_json: Json = False) -> None:
    """Show every node as it is now."""
    record = _record(directory)
    nodes = _looked_at(record)
    for node, observed in zip(record.nodes, nodes, strict=True):
        observed.process = describe(node)
    if as_json:
        sys.stdout.write(_status_json(record, nodes) + "\n")
        return
    console = Console(highlight=False)
    console.print(table(f"{record.plan.method} on {record.plan.task}", nodes))
    if hosting := roles_line(nodes):
        console.print(hosting, soft_wrap=True)
    for line in network_lines(directory or newest(BASE), record.plan):
        console.print(line, soft_wrap=True)


def _looked_at(record: Record) -> list[Observed]:
    """Return all nodes as they are now."""
    watcher = Watcher([(node.name, Path(node.home)) for node in record.nodes], fetch_status)
    try:
        watcher.look(patience=5.0)
    finally:
        watcher.close()
    return list(watcher.nodes)


def numbers_of(plan: Plan, names: Sequence[str], look: Callable[[], Sequence[Observed]]) -> list[int]:
    """Return nodes' numbers from ``node-3``, ``3``, or a role such as ``host``: the first node that holds it.

    Raises:
        BadPlan: there is no such node, and none that holds such a role.
    """
    found = []
    for name in names:
        if name.removeprefix("node-").isdecimal() or name.startswith("node-"):
            found.append(index_of(plan, name))
            continue
        held = holders(look(), name)
        if not held:
            raise BadPlan(
                f"no node here holds the role {name}: choose a node from {name_of(1)} to"
                f" {name_of(plan.nodes)}; shoal status of one says who hosts"
            )
        found.append(held[0])
    return found


def _status_json(record: Record, nodes: Sequence[Observed]) -> str:
    found = [
        {"name": node.name, "pid": node.pid, "running": is_running(node), "status": observed.status}
        for node, observed in zip(record.nodes, nodes, strict=True)
    ]
    return msgspec.json.encode({"plan": record.plan, "nodes": found}).decode()


def _signal(directory: Path | None, names: Sequence[str], number: int, done: str, undo: str = "") -> None:
    where = directory or newest(BASE)
    record = read_record(where)
    indices = numbers_of(record.plan, names, lambda: _looked_at(record))
    for index in indices:
        node_of(record, index)
    found = Hands(where, "hand").signal(indices, number)
    for index in indices:
        if index not in found:
            raise BadPlan(
                f"{name_of(index)} does not run; see which do with: shoal testnet status{dir_flag(directory)}"
            )
        back = f"; {undo} {index}{dir_flag(directory)}" if undo else ""
        sys.stdout.write(f"{name_of(index)} {done}{back}\n")


@app.command()
def lies(as_json: Json = False) -> None:
    """List the lies that nodes and outsiders can be made to tell, and what bounds them."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(LIES).decode() + "\n")
        return
    Console(highlight=False).print(lies_table(LIES))


@app.command()
def kill(nodes: Nodes, directory: Dir = None) -> None:
    """End nodes at once, as a power cut would."""
    _signal(directory, nodes, signal.SIGKILL, "killed", "start it again with: shoal testnet restart")


@app.command()
def pause(nodes: Nodes, directory: Dir = None) -> None:
    """Freeze nodes: their links stay, they answer nothing."""
    _signal(directory, nodes, signal.SIGSTOP, "frozen", "thaw it with: shoal testnet resume")


@app.command()
def resume(nodes: Nodes, directory: Dir = None) -> None:
    """Let frozen nodes go on."""
    _signal(directory, nodes, signal.SIGCONT, "goes on")


@app.command()
def restart(nodes: Nodes, directory: Dir = None) -> None:
    """Start nodes again in their homes; those that run leave in order first."""
    where = directory or newest(BASE)
    record = read_record(where)
    hands = Hands(where, "hand")
    for index in [index_of(record.plan, name) for name in nodes]:
        process = hands.restart(index)
        # It goes on without us; unsaid, the interpreter would warn of a child that it leaves behind.
        process.returncode = process.poll() or 0
        sys.stdout.write(f"{name_of(index)} started again\n")


@app.command()
def split(nodes: Nodes, directory: Dir = None) -> None:
    """Cut all links between these nodes and the rest; the rest of the links stay as they are."""
    where = directory or newest(BASE)
    record = read_record(where)
    plan = record.plan
    side = sorted(set(numbers_of(plan, nodes, lambda: _looked_at(record))))
    if len(side) == plan.nodes:
        raise BadPlan("that would leave nobody on the other side: name fewer nodes")
    Hands(where, "hand").split(side)
    sys.stdout.write(f"split: {sides(plan, side)}; mend it with: shoal testnet heal{dir_flag(directory)}\n")


@app.command()
def heal(directory: Dir = None) -> None:
    """Mend the cut: all nodes can reach each other again."""
    Hands(directory or newest(BASE), "hand").heal()
    sys.stdout.write("all links are back\n")


@app.command()
def logs(
    node: Node,
    directory: Dir = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come; Ctrl-C ends.")] = False,
) -> None:
    """Show what a node wrote to its log."""
    record = _record(directory)
    found = node_of(record, index_of(record.plan, node))
    with Path(found.log).open(encoding="utf-8", errors="replace") as file:
        sys.stdout.writelines(deque(file, maxlen=lines))
        sys.stdout.flush()
        if follow:
            _follow(file.readline, lambda: is_running(found))


def _follow(read: Callable[[], str], runs: Callable[[], bool]) -> None:
    try:
        while True:
            alive = runs()
            line = read()
            sys.stdout.write(line)
            sys.stdout.flush()
            if not line and not alive:
                return
            if not line:
                time.sleep(0.2)
    except KeyboardInterrupt:
        return


@app.command()
def down(directory: Dir = None) -> None:
    """Stop all nodes, in order, and remove their network; those that do not leave are killed."""
    where = directory or newest(BASE)
    record = read_record(where)
    running = [node for node in record.nodes if is_running(node)]
    killed = stop(running)
    close_network(where, record)
    sys.stdout.write(f"{len(running)} nodes stopped{', killed: ' + ', '.join(killed) if killed else ''}\n")
