"""Plots of a testnet. The only place that knows matplotlib, and it loads it late: no daemon pays for it."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Final

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
