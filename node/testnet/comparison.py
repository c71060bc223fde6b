"""What stands beside a testnet's nodes: the systems their method's paper compares it with, over some seeds.

The nodes run once, over real links; the systems, the method itself among them, run in lockstep in
baseline.py, a process of its own. Here are the figures of both: as data, as a table, for a picture.
"""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Final

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shoal.methods.baselines import Setting, yardsticks
from shoal.methods.errors import MethodsError
from shoal.methods.registry import all_options, load_method
from shoal.node.testnet.plan import Plan, SystemReached
from shoal.node.text import size

METHOD_AND_ALONE: Final = 2
"""Systems that run beside the paper's."""


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """A system, over its seeds."""

    system: str
    accuracies: tuple[float, ...]
    """Mean over the nodes, one per seed."""
    sent_bytes: float
    """Of a node per round. In lockstep what is asked, without framing; of real nodes what sockets sent."""


def besides(reached: Iterable[SystemReached]) -> tuple[Beside, ...]:
    """Return the systems in the order in which they were first told."""
    found: dict[str, list[SystemReached]] = {}
    for each in reached:
        found.setdefault(each.system, []).append(each)
    return tuple(
        Beside(
            system=system,
            accuracies=tuple(one.accuracy for one in each),
            sent_bytes=fmean(one.sent_bytes for one in each),
        )
        for system, each in found.items()
    )


def lines_expected(plan: Plan) -> int:
    """Return how many lines the baseline prints, for whoever draws how far it is."""
    try:
        options = all_options(load_method(plan.method, plan.options))
    except MethodsError:
        return plan.nodes
    found = yardsticks(plan.method, options, Setting(nodes=plan.nodes, rounds=plan.rounds, examples=1))
    return plan.nodes + (plan.seeds * (len(found) + METHOD_AND_ALONE) if found else 0)


def as_nodes(plan: Plan, accuracy: float, sent_bytes: int, rounds: int) -> Beside:
    """Return the real nodes as a system, all they sent included."""
    sent = sent_bytes / (plan.nodes * max(1, rounds))
    return Beside(system=f"{plan.method}, these {plan.nodes} nodes", accuracies=(accuracy,), sent_bytes=sent)


def spread(values: Sequence[float]) -> str:
    """Return a mean and, of several values, their standard deviation: ``0.835 ± 0.036``."""
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def beside_table(systems: Sequence[Beside], seeds: Sequence[int]) -> RenderableType:
    """Return the table; `systems`: the nodes first, as `as_nodes` makes them."""
    made = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    made.add_column("system")
    made.add_column("accuracy", justify="right", no_wrap=True)
    made.add_column("sent", justify="right", no_wrap=True)
    for each in systems:
        sent = size(round(each.sent_bytes)) if each.sent_bytes else "nothing"
        made.add_row(each.system, spread(each.accuracies), sent)
    over = f"seed {seeds[0]}"
    if len(seeds) > 1:
        over = f"seeds {seeds[0]} to {seeds[-1]}, mean ± standard deviation"
    return Group(
        Text(f"Beside the nodes, in lockstep over {over}", style="bold"),
        made,
        Text("sent: by a node per round; of the nodes what left their sockets, all included;", style="dim"),
        Text(
            "of the others what a round tells, without framing. All have the method's own rates,", style="dim"
        ),
        Text("and are not tuned; docs/methods has each system at the rates that suit it", style="dim"),
    )
