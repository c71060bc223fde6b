"""The commands of ``shoal testnet``: a whole swarm on one machine, looked at and shaken.

``up`` runs one to its verdict; with ``--detach`` it leaves the nodes running. The others act on the
testnet that was started last under ./testnet, or on the one that --dir names.
"""

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live

from node import testnet
from node.config import scalars
from node.testnet_plan import BadPlan, Plan, check, index_of
from node.testnet_processes import (
    RECORD_NAME,
    NodeRecord,
    Record,
    describe,
    is_running,
    newest,
    read_record,
    send_signal,
    stop,
)
from node.testnet_verdict import Result
from node.testnet_view import bar, line_of, live_view, lowest_round, table, verdict_panel
from node.testnet_watch import Observed, Watcher, fetch_status

BASE: Final = Path("testnet")
"""Where testnets lie unless told otherwise; a folder per start."""
LINES: Final = 10
"""How often progress is told where there is no terminal."""
SILENCE: Final = 20.0
"""Seconds after which a line is told there even without progress."""

app = typer.Typer(
    name="testnet",
    help="A swarm of real nodes on this machine: start it, watch it, shake it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Topology(StrEnum):
    """Who is told whose address."""

    full = "full"
    line = "line"
    ring = "ring"
    star = "star"


_DEFAULT: Final = Plan()
Dir = Annotated[Path | None, typer.Option("--dir", help="The testnet's folder.", show_default="the newest")]
Node = Annotated[str, typer.Argument(help="Which node: node-3, or just 3.", metavar="NODE")]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON object to standard output.")]


@app.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, max=256, help="Node processes.")] = _DEFAULT.nodes,
    method: Annotated[
        str, typer.Option(help="fedavg, fedprox, diloco, local, ...: see shoal methods.")
    ] = _DEFAULT.method,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="A hyperparameter of the method; repeatable.", metavar="K=V"),
    ] = None,
    task: Annotated[str, typer.Option(help="digits, or package.module:Class.")] = _DEFAULT.task,
    task_option: Annotated[
        list[str] | None,
        typer.Option(
            "--task-option", help="An option of the task; {i} is the node, {n} their count.", metavar="K=V"
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="How unlike the shares are: 0.1 very, 100 hardly.")
    ] = _DEFAULT.alpha,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to run.")] = _DEFAULT.rounds,
    seed: Annotated[int, typer.Option(min=0, help="Of the shares and the initial model.")] = _DEFAULT.seed,
    topology: Annotated[Topology, typer.Option(help="Who is told whose address.")] = Topology.full,
    group_size: Annotated[
        int, typer.Option(min=2, max=64, help="Nodes that average together.")
    ] = _DEFAULT.group_size,
    quorum: Annotated[
        int, typer.Option(min=0, max=64, help="Fewest nodes for a round.", show_default="a majority")
    ] = 0,
    patience: Annotated[
        float, typer.Option(min=0, help="Bound of every wait, in seconds.", show_default="the node's")
    ] = 0,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds until it is judged as it stands.")
    ] = _DEFAULT.timeout,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where to put it.", show_default="testnet/NOW")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the nodes' homes even if all went well.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave the nodes running.")] = False,
    as_json: Json = False,
) -> None:
    """Start a swarm, watch it train, and judge it: exit code 0 only if the verdict holds."""
    plan = _plan(
        nodes=nodes,
        method=method,
        options=scalars(option or [], "--option"),
        task=task,
        task_options=scalars(task_option or [], "--task-option"),
        alpha=alpha,
        rounds=rounds,
        seed=seed,
        topology=topology.value,
        group_size=group_size,
        quorum=quorum,
        patience=patience,
        timeout=timeout,
    )
    # With --json standard output belongs to the one object at the end.
    console = Console(stderr=as_json, highlight=False)
    where = new_directory(directory)
    tools = _tools()
    opening = f"{plan.nodes} nodes, {plan.method} on {plan.task}, {plan.rounds} rounds; all of it in {where}"
    console.print(opening, soft_wrap=True)
    if detach:
        with Display(console) as display:
            testnet.up_detached(plan, where, screen=display, tools=tools)
        console.print("running; see shoal testnet status, logs, kill, pause, resume, down")
        return
    with Display(console) as display:
        result = testnet.up(plan, where, screen=display, tools=tools, keep=keep)
    _print_result(console, result, where, as_json)
    raise typer.Exit(0 if result.verdict else 1)


def _tools() -> testnet.Tools:
    return testnet.Tools(environ=dict(os.environ))


def _plan(**values: object) -> Plan:
    try:
        plan = msgspec.convert(values, Plan)
    except msgspec.ValidationError as error:
        text, _, path = str(error).replace("`", "").partition(" - at $.")
        raise BadPlan(f"--{path.replace('_', '-')}: {text[:1].lower()}{text[1:]}") from None
    check(plan)
    return plan


def new_directory(wanted: Path | None) -> Path:
    """Make the folder of a new testnet.

    Raises:
        BadPlan: there is one already, or the folder cannot be made.
    """
    directory = wanted or BASE / time.strftime("%Y%m%d-%H%M%S")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadPlan(f"cannot make {directory}: {error.strerror}; choose another --dir") from None
    if (directory / RECORD_NAME).exists():
        raise BadPlan(f"{directory} holds a testnet already: choose another --dir, or remove it")
    return directory.absolute()


def _print_result(console: Console, result: Result, where: Path, as_json: bool) -> None:
    files = [str(where / name) for name in (testnet.RESULT_NAME, testnet.PLOT_NAME)]
    console.print(verdict_panel(result, files))
    if as_json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
        sys.stdout.flush()


class Display:
    """Draws a table that lives, or tells lines where there is no terminal."""

    def __init__(self, console: Console) -> None:
        """Draw nothing yet."""
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._told_round = -1
        self._told_at = 0.0
        self._told_progress = ""
        self._nodes: RenderableType = ""

    def __enter__(self) -> "Display":
        """Take over the terminal."""
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last table standing."""
        if self._live:
            self._live.stop()

    def show(self, plan: Plan, nodes: Sequence[Observed], seconds: float, note: str) -> None:
        """Draw the nodes, or tell where they are if that is news."""
        if self._live:
            self._nodes = live_view(plan, nodes, seconds, note)
            self._live.update(self._nodes, refresh=True)
            return
        round_ = lowest_round(nodes)
        step = max(1, plan.rounds // LINES)
        due = seconds >= self._told_at + SILENCE or round_ >= self._told_round + step
        if due or (round_ == plan.rounds > self._told_round):
            self._told_at = seconds
            self._told_round = round_ - round_ % step
            self._console.print(line_of(plan, nodes, seconds), soft_wrap=True)

    def progress(self, text: str, done: int, total: int) -> None:
        """Draw a bar under the nodes, or tell once what goes on."""
        if self._live:
            self._live.update(Group(self._nodes, bar(text, done, total)), refresh=True)
        elif text != self._told_progress:
            self._told_progress = text
            self._console.print(text, soft_wrap=True)

    def tell(self, line: str) -> None:
        """Say a line."""
        self._console.print(line, soft_wrap=True)


def _record(directory: Path | None) -> Record:
    return read_record(directory or newest(BASE))


def _node(record: Record, name: str) -> NodeRecord:
    index = index_of(record.plan, name)
    for node in record.nodes:
        if node.name == f"node-{index}":
            return node
    raise BadPlan(f"node-{index} has not been started yet; try again in a moment")


@app.command()
def status(directory: Dir = None, as_json: Json = False) -> None:
    """Show every node as it is now."""
    record = _record(directory)
    watcher = Watcher([(node.name, Path(node.home)) for node in record.nodes], fetch_status)
    try:
        watcher.look(patience=5.0)
    finally:
        watcher.close()
    for node, observed in zip(record.nodes, watcher.nodes, strict=True):
        observed.process = describe(node)
    if as_json:
        sys.stdout.write(_status_json(record, watcher.nodes) + "\n")
        return
    console = Console(highlight=False)
    console.print(table(f"{record.plan.method} on {record.plan.task}", watcher.nodes))


def _status_json(record: Record, nodes: Sequence[Observed]) -> str:
    found = [
        {"name": node.name, "pid": node.pid, "running": is_running(node), "status": observed.status}
        for node, observed in zip(record.nodes, nodes, strict=True)
    ]
    return msgspec.json.encode({"plan": record.plan, "nodes": found}).decode()


def _signal(directory: Path | None, name: str, number: int, done: str) -> None:
    node = _node(_record(directory), name)
    # The whole group: a device that loses power or hangs takes its trainer with it.
    if not send_signal(node, number, group=True):
        raise BadPlan(f"{node.name} does not run; see which do with: shoal testnet status")
    sys.stdout.write(f"{node.name} {done}\n")


@app.command()
def kill(node: Node, directory: Dir = None) -> None:
    """End a node at once, as a power cut would."""
    _signal(directory, node, signal.SIGKILL, "killed")


@app.command()
def pause(node: Node, directory: Dir = None) -> None:
    """Freeze a node: its links stay, it answers nothing."""
    _signal(directory, node, signal.SIGSTOP, "frozen; thaw it with: shoal testnet resume")


@app.command()
def resume(node: Node, directory: Dir = None) -> None:
    """Let a frozen node go on."""
    _signal(directory, node, signal.SIGCONT, "goes on")


@app.command()
def logs(
    node: Node,
    directory: Dir = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come; Ctrl-C ends.")] = False,
) -> None:
    """Show what a node wrote to its log."""
    found = _node(_record(directory), node)
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
    """Stop all nodes, in order; those that do not leave are killed."""
    record = _record(directory)
    running = [node for node in record.nodes if is_running(node)]
    killed = stop(running)
    sys.stdout.write(f"{len(running)} nodes stopped{', killed: ' + ', '.join(killed) if killed else ''}\n")
