"""Plots of a testnet. The only place that knows matplotlib, and it loads it late: no daemon pays for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

Curve = Sequence[tuple[int, float]]
"""(rounds done, accuracy), in order."""


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
