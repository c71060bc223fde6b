"""`shoal testnet up`: from what was typed, and perhaps a scenario file, to a plan; and its run."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import typer
from rich.console import Console

from shoal.gossip.admission.charter import Mode
from shoal.methods.extras import how_to_get
from shoal.node.config.run_flags import flag_names, has_run_flags, run_values
from shoal.node.config.settings import scalars
from shoal.node.storage.home import typed
from shoal.node.testnet import launcher
from shoal.node.testnet.cluster.placing import OnCluster, check_cluster
from shoal.node.testnet.comparison import beside_table
from shoal.node.testnet.faults import quantity
from shoal.node.testnet.network.links import Wish
from shoal.node.testnet.plan import BadPlan, Plan, Topology, check, check_alpha, load, plan_of, trainer_spec
from shoal.node.testnet.plots import can_draw
from shoal.node.testnet.processes import CALM_NAME, RECORD_NAME
from shoal.node.testnet.tables import Display, verdict_panel
from shoal.node.testnet.verdict import Result

BASE: Final = Path("testnet")
"""Where testnets lie unless told otherwise; a folder per start."""

_DEFAULT: Final = Plan()
CHURNED_ROUNDS: Final = 60
"""With churn there is something to see only after a few kills, which takes more than the usual rounds."""
_PLAIN: Final = frozenset(
    {
        *("nodes", "alpha", "seeds", "topology", "patience", "bar", "timeout", "seconds", "churn"),
        *("liars", "lie", "mode"),
    }
)
"""Flags that are fields of the plan as they stand."""
_LINK: Final[dict[str, tuple[str, Literal["seconds", "share", "mbit"]]]] = {
    "latency": ("latency", "seconds"),
    "jitter": ("jitter", "seconds"),
    "loss": ("loss", "share"),
    "bandwidth": ("bandwidth_mbit", "mbit"),
}
"""Flags that are fields of the link of every node, and what unit they have."""


def _shake(flag: str, text: str, **more: Any) -> Any:
    return typer.Option(flag, help=text, rich_help_panel="Shaking", **more)


@has_run_flags(Plan, shows_defaults=True)
def up(
    ctx: typer.Context,
    nodes: Annotated[int, typer.Option(min=1, max=256, help="Node processes.")] = _DEFAULT.nodes,
    task_option: Annotated[
        list[str] | None,
        typer.Option(
            "--task-option", help="An option of the task; {i} is the node, {n} their count.", metavar="K=V"
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="How unlike a built-in task's shares are: 0.1 very, 100 hardly.")
    ] = _DEFAULT.alpha,
    seeds: Annotated[
        int, typer.Option(min=0, max=100, help="Of the baselines of the method's paper; 0: none.")
    ] = _DEFAULT.seeds,
    topology: Annotated[Topology, typer.Option(help="Which node is told whose address.")] = _DEFAULT.topology,
    patience: Annotated[
        float, typer.Option(min=0, help="Bound of every wait, in seconds.", show_default="the node's")
    ] = 0,
    bar: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Accuracy that every node must reach.",
            show_default="0.90 on digits in 30 rounds, 6 per node; else what each reaches alone",
        ),
    ] = _DEFAULT.bar,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds until it is judged as it stands.")
    ] = _DEFAULT.timeout,
    seconds: Annotated[
        float, typer.Option(min=0, help="With --rounds 0: end after so many seconds of rounds.")
    ] = _DEFAULT.seconds,
    churn: Annotated[
        float, _shake("--churn", "Share of the nodes killed and started again per minute.", min=0)
    ] = 0,
    latency: Annotated[str, _shake("--latency", "What a node sends takes so long, such as 80ms.")] = "0",
    jitter: Annotated[str, _shake("--jitter", "By how much that differs, such as 20ms.")] = "0",
    loss: Annotated[str, _shake("--loss", "Share of the packets that is lost, such as 1%.")] = "0",
    bandwidth: Annotated[str, _shake("--bandwidth", "Of every node, such as 20mbit.")] = "0",
    mode: Annotated[
        Mode, typer.Option(help="closed and invite let in these nodes alone, open anyone.")
    ] = _DEFAULT.mode,
    liars: Annotated[int, _shake("--liars", "As many of the nodes lie.", min=0)] = _DEFAULT.liars,
    lie: Annotated[
        str, _shake("--lie", "What they lie about: see shoal testnet lies.", metavar="NAME")
    ] = _DEFAULT.lie,
    scenario: Annotated[
        Path | None, _shake("--scenario", "A TOML file with all of this; flags change what it says.")
    ] = None,
    network: Annotated[
        Wish, _shake("--network", "How links are shaped; auto takes namespaces where it can.")
    ] = "auto",
    compare: Annotated[
        bool, _shake("--calm/--no-calm", "Before it is shaken, run the same in peace.")
    ] = True,
    ray: Annotated[
        str,
        typer.Option(
            "--ray",
            help="Start the nodes on the machines of a Ray cluster: auto, or HOST:PORT.",
            metavar="ADDRESS",
        ),
    ] = "",
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where to put it.", show_default="testnet/NOW")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the nodes' homes even if all went well.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave the nodes running.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object to standard output.")
    ] = False,
    **run: Any,
) -> None:
    """Start a swarm, watch it train, shake it if asked to, and judge it: exit code 0 only if all holds."""
    plan = _plan(ctx)
    if detach and (plan.churn or plan.faults):
        raise BadPlan("what happens at set times needs a launcher that stays: leave out --detach")
    # With --json standard output belongs to the one object at the end.
    console = Console(stderr=as_json, highlight=False)
    tools = _tools()
    if ray:
        check_cluster(ray, plan, network)
        tools = replace(tools, start_command=OnCluster(ray))
    tools.check_fit(msgspec.json.encode(trainer_spec(plan)).decode())
    where = new_directory(directory)
    length = f"{plan.rounds} rounds" if plan.rounds else f"{plan.seconds:g} s of rounds"
    opening = f"{plan.nodes} nodes, {plan.method} on {plan.task}, {length}; all of it in {where}"
    console.print(opening, soft_wrap=True, markup=False)
    if not can_draw():
        missing = f"no plots: they need matplotlib; {how_to_get('matplotlib')}"
        console.print(missing, soft_wrap=True, markup=False)
    if detach:
        with Display(console) as display:
            wires = launcher.up_detached(plan, where, screen=display, tools=tools, network=network)
        console.print(f"links of {wires.link} by {wires.means}: {wires.why}", soft_wrap=True)
        for line in hints(directory and where):
            console.print(line, soft_wrap=True, markup=False)
        return
    with Display(console) as display:
        result = launcher.up(
            plan, where, screen=display, tools=tools, keep=keep, network=network, compare=compare
        )
    _print_result(console, result, where, as_json)
    raise typer.Exit(0 if result.verdict else 1)


def hints(directory: Path | None) -> list[str]:
    """Return what to type to look at, shake and end a testnet that runs on its own.

    `directory`: where it lies, unless it is the newest under `BASE`, which the commands find.
    """
    flag = dir_flag(directory)
    return [
        f"running; look at it with: shoal testnet status{flag}",
        f"read what a node says with: shoal testnet logs 1{flag}",
        f"shake it with: shoal testnet kill 2{flag}",
        f"end it with: shoal testnet down{flag}",
        "and pause, resume, restart, split, heal: see shoal testnet --help",
    ]


def dir_flag(directory: Path | None) -> str:
    """Return `` --dir PATH`` as it is typed, where a command needs it to find a testnet again."""
    return f" --dir {typed(directory.absolute())}" if directory is not None else ""


def _tools() -> launcher.Tools:
    return launcher.Tools(environ=dict(os.environ))


def _plan(ctx: typer.Context) -> Plan:
    """Put the plan together: defaults, the scenario file, and what was typed."""
    given = ctx.params
    scenario = given["scenario"]
    # Only what was typed changes a scenario; a default must not.
    typed = {name for name in given if _is_typed(ctx, name)}
    wanted = typed if scenario else set(given)
    values = {name: given[name] for name in _PLAIN & wanted}
    run = run_values(given)
    values |= run
    if given["task_option"]:
        values["task_options"] = scalars(given["task_option"], "--task-option")
    if given["churn"] and not scenario and "rounds" not in run:
        values["rounds"] = CHURNED_ROUNDS
    plan = load(scenario, **values) if scenario else plan_of(values, _flag)
    shaped = {}
    for flag, (field, kind) in _LINK.items():
        if flag in typed:
            shaped[field] = quantity(given[flag], kind)
    if shaped:
        link = msgspec.to_builtins(plan.link) | shaped
        plan = plan_of(msgspec.to_builtins(plan) | {"link": link}, _flag)
    if "alpha" in typed:
        check_alpha(plan)
    check(plan)
    return plan


def _is_typed(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _flag(field: str) -> str:
    """Return how a field of the plan is called on the command line."""
    names = {field: f"--{flag}" for flag, (field, _) in _LINK.items()} | flag_names()
    last = field.rpartition(".")[2]
    return names.get(last, "--" + last.replace("_", "-"))


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
    if any((directory / name).exists() for name in (RECORD_NAME, CALM_NAME)):
        raise BadPlan(f"{directory} holds a testnet already: choose another --dir, or remove it")
    return directory.absolute()


def _print_result(console: Console, result: Result, where: Path, as_json: bool) -> None:
    names = (launcher.RESULT_NAME, launcher.PLOT_NAME, launcher.BESIDE_NAME, launcher.TIMELINE_NAME)
    files = [str(where / name) for name in names if (where / name).exists()]
    if result.beside:
        seeds = range(result.seed, result.seed + len(result.beside[-1].accuracies))
        console.print(beside_table(result.beside, seeds))
    console.print(verdict_panel(result, files))
    if as_json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
        sys.stdout.flush()
