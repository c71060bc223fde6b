"""Plots of a testnet. The only place that knows matplotlib, and it loads it late: no daemon pays for it.

The timeline of a testnet, as a picture: who was in which round, who died when, and what it cost.

One row per node; a tick for every round it averaged in, at the moment that ended. Where nothing was
possible for it the row is shaded. Below, on the same axis of time, how long the swarm took for each round:
a fault that cost the others something stands out there as a peak.

Loads matplotlib late, as node/testnet/plots.py does: no daemon pays for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

from shoal.node.testnet.event_log import Event
from shoal.node.testnet.invariants import AVERAGED, Shaken, durations, swarm_rounds
from shoal.node.testnet.plan import Plan
from shoal.node.testnet.verdict import Result
from shoal.node.testnet.watch import Observed

Curve = Sequence[tuple[int, float]]
"""(rounds done, accuracy), in order."""
Systems = Mapping[str, Sequence[Mapping[str, float]]]
"""System -> its metrics, one per seed."""
COLUMNS: Final = 2
"""Panels beside each other in a plot of systems."""


def can_draw() -> bool:
    """Tell whether matplotlib is installed, without loading it."""
    return find_spec("matplotlib") is not None


def plot_accuracy(
    path: Path, curves: Mapping[str, Curve], *, local_only: Sequence[float], bar: float | None, title: str
) -> None:
    """Draw the accuracy of every node after so many rounds, beside what the shares reach alone.

    Nodes that hold the same state lie on one line; each is drawn thinner than the one before, so that
    all stay visible.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # Okabe and Ito's colours, which people with colour blindness can tell apart.
    palette = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
    for i, (name, curve) in enumerate(curves.items()):
        width = 1.4 + 4.6 * (len(curves) - 1 - i) / max(1, len(curves) - 1)
        axes.plot(
            [round_ for round_, _ in curve],
            [accuracy for _, accuracy in curve],
            color=palette[i % len(palette)],
            linewidth=width,
            solid_capstyle="round",
            solid_joinstyle="round",
            label=name if len(curves) <= 10 else (f"{len(curves)} nodes" if i == 0 else None),
        )
    if local_only:
        mean = fmean(local_only)
        axes.axhspan(min(local_only), max(local_only), color="#888888", alpha=0.12, linewidth=0)
        axes.axhline(
            mean, color="#555555", linestyle="--", linewidth=1.4, label=f"each alone, mean {mean:.2f}"
        )
    if bar is not None:
        axes.axhline(bar, color="#B00020", linestyle=":", linewidth=1.2, label=f"bar {bar:.2f}")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("rounds done")
    axes.set_ylabel("accuracy on the common test set")
    axes.set_ylim(0, 1.02)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    figure.savefig(path)


def metric_names(systems: Systems) -> list[str]:
    """Return every metric that a system has, in the order of first mention."""
    return list(dict.fromkeys(name for metrics in systems.values() for each in metrics for name in each))


def plot_systems(path: Path, title: str, systems: Systems) -> None:
    """Draw a panel of bars per metric, the first system gray; the lines on them span all seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = metric_names(systems)
    columns = min(COLUMNS, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(5 * columns, rows * (0.8 + 0.3 * len(systems))), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for place, metric in enumerate(metrics):
        axes = figure.add_subplot(rows, columns, place + 1)
        for line, (_, seeds) in enumerate(systems.items()):
            values = [each[metric] for each in seeds if metric in each]
            if not values:
                continue
            mean = fmean(values)
            axes.barh(line, mean, color="#0072B2" if line else "#999999", height=0.6)
            axes.plot([min(values), max(values)], [line, line], color="black", linewidth=1.2)
            # Rounded first: what is nothing but for the last bit is nothing.
            axes.annotate(f" {round(mean, 6) + 0.0:.3g}", (max(values), line), va="center", fontsize=8)
        axes.set_yticks(range(len(systems)), list(systems), fontsize=8)
        axes.set_ylim(len(systems) - 0.4, -0.6)
        axes.margins(x=0.15)
        axes.set_title(metric, loc="left", fontsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.suptitle(f"{title}: mean, and the span of the seeds", x=0.01, ha="left", fontsize=11)
    figure.savefig(path)


ENDED_BY: Final = {
    "kill": "restart",
    "died": "restart",
    "pause": "resume",
    "split": "heal",
    "slow": "restore",
    "lies": "never",
}
SHADES: Final = {
    "kill": ("#3A3A3A", "not running"),
    "died": ("#B00020", "died by itself"),
    "pause": ("#7A9CC6", "frozen"),
    "split": ("#E69F00", "cut off from the rest"),
    "slow": ("#CC79A7", "slow link"),
    "lies": ("#D55E00", "lies"),
    "loading": ("#BBBBBB", "loads, and finds the others"),
}
"""Colour and meaning of a shaded stretch, by what began it."""
LEAD_SECONDS: Final = 3.0
"""Shown before the first round ended."""


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of time in which something was the matter with a node."""

    kind: str
    begin: float
    end: float


def bands(index: int, events: Sequence[Event], end: float) -> list[Band]:
    """Return what was the matter with a node, and when; times as the events have them."""
    found: list[Band] = []
    open_: dict[str, float] = {}
    for event in events:
        if index not in event.nodes:
            continue
        if event.kind in ENDED_BY:
            open_.setdefault(event.kind, event.at)
        ended = [kind for kind in open_ if ENDED_BY[kind] == event.kind]
        found += [Band(kind, open_.pop(kind), event.at) for kind in ended]
    found += [Band(kind, begin, end) for kind, begin in open_.items()]
    return sorted(found, key=lambda band: band.begin)


def loading(index: int, node: Observed, events: Sequence[Event], end: float) -> list[Band]:
    """Return when a node that was started again had not yet said anything of a round."""
    found = []
    for event in events:
        if event.kind == "restart" and index in event.nodes:
            until = min((at for at in node.tries if at > event.at), default=end)
            found.append(Band("loading", event.at, until))
    return found


def draw_timeline(
    path: Path, plan: Plan, nodes: Sequence[Observed], result: Result, shaken: Shaken, *, title: str
) -> None:
    """Draw the timeline of a testnet that has ended."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rounds = swarm_rounds(nodes)
    first = min(rounds.values(), default=shaken.began)
    figure = Figure(figsize=(11, 2.6 + 0.32 * len(nodes)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [0.32 * len(nodes) + 0.2, 1.3]}
    )
    _rows(upper, nodes, shaken)
    _costs(lower, result, shaken, rounds)
    upper.set_xlim(first - shaken.began - LEAD_SECONDS, shaken.ended - shaken.began + 0.5)
    upper.set_title(f"{title}: {subtitle(plan, result)}", loc="left", fontsize=10, fontweight="bold")
    lower.set_xlabel("seconds since the first node was started")
    for axes in (upper, lower):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(path)


def subtitle(plan: Plan, result: Result) -> str:
    """Say in a line what the nodes were put through, and how it ended."""
    through = []
    if plan.link.is_shaped:
        through.append(str(plan.link))
    if plan.liars:
        through.append(f"{plan.liars} of {plan.nodes} lie: {plan.lie}")
    counts: dict[str, int] = {}
    for cost in result.faults:
        counts[cost.kind] = counts.get(cost.kind, 0) + 1
    words = {"kill": "kill", "pause": "freeze", "split": "split", "slow": "slow link", "died": "death"}
    through += [f"{n} {words[kind]}{'s' if n > 1 else ''}" for kind, n in counts.items()]
    verdict = "the verdict holds" if result.verdict else "the verdict does not hold"
    return f"{', '.join(through) or 'in peace'}; {verdict}"


def _rows(axes: Any, nodes: Sequence[Observed], shaken: Shaken) -> None:
    n_rounds = max((len(node.tries) for node in nodes), default=0)
    width = 1.4 if n_rounds < 120 else 0.7 if n_rounds < 500 else 0.35
    shown: set[str] = set()

    def once(label: str) -> str:
        new = label not in shown
        shown.add(label)
        return label if new else "_"

    for row, node in enumerate(nodes):
        y = len(nodes) - 1 - row
        axes.axhline(y, color="#E4E4E4", linewidth=0.8, zorder=0)
        shaded = bands(row + 1, shaken.events, shaken.ended)
        for band in [*shaded, *loading(row + 1, node, shaken.events, shaken.ended)]:
            color, meaning = SHADES[band.kind]
            begin, end = band.begin - shaken.began, band.end - shaken.began
            axes.barh(
                y,
                end - begin,
                left=begin,
                height=0.62,
                color=color,
                alpha=0.35,
                linewidth=0,
                label=once(meaning),
            )
            if band.kind in ("kill", "died"):
                axes.plot(begin, y, "x", color=color, markersize=7, markeredgewidth=1.8, zorder=4)
        for outcome, color, meaning in (
            (AVERAGED, "#0072B2", "averaged in a round"),
            ("alone", "#56B4E9", "trained alone"),
        ):
            at = [t.finished_at - shaken.began for t in node.tries.values() if t.outcome == outcome]
            if at:
                axes.vlines(at, y - 0.3, y + 0.3, color=color, linewidth=width, label=once(meaning))
        for outcome, marker, color, meaning in (
            ("synced", "D", "#009E73", "took over the swarm's state"),
            ("failed", "v", "#D55E00", "a try that failed"),
        ):
            at = [t.finished_at - shaken.began for t in node.tries.values() if t.outcome == outcome]
            if at:
                axes.plot(
                    at, [y] * len(at), marker, color=color, markersize=4.5, zorder=5, label=once(meaning)
                )
    axes.set_yticks(range(len(nodes)), [node.name for node in reversed(nodes)], fontsize=8)
    axes.set_ylim(-0.6, len(nodes) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    _legend(axes)


def _costs(axes: Any, result: Result, shaken: Shaken, rounds: dict[int, float]) -> None:
    took = durations(rounds)
    at = [rounds[round_] - shaken.began for round_ in took]
    seconds = list(took.values())
    for i, cost in enumerate(result.faults):
        color = SHADES[cost.kind][0]
        axes.axvline(
            cost.at, color=color, linewidth=1.0, linestyle=":", label="a fault begins" if i == 0 else "_"
        )
    if seconds:
        axes.plot(
            at, seconds, "-o", color="#0072B2", linewidth=1.0, markersize=2.0, label="a round of the swarm"
        )
        usual = median(seconds)
        axes.axhline(usual, color="#888888", linestyle="--", linewidth=0.9, label=f"median {usual:.2f} s")
        axes.set_ylim(0, 1.12 * max(seconds))
    axes.set_ylabel("round, s")
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)
    _legend(axes)


def _legend(axes: Any) -> None:
    if any(not label.startswith("_") for label in axes.get_legend_handles_labels()[1]):
        axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1.0), frameon=False, fontsize=7.5)
