"""Let a swarm run for long, and see that it stays as it is: memory, descriptors, threads, disk, round time.

    python scripts/soak.py --minutes 30            # five nodes, endless rounds, light churn
    python scripts/soak.py --minutes 30 --write    # docs/soak.md and docs/soak.png too

A leak is a slope. Each process is measured every few seconds; after a warm-up a line is fitted to what it
used by Theil and Sen's method, the median of the slopes of all pairs of points, which no peak can bend.
What the line grows over the run must stay below a limit. Processes that churn ended too early to say
anything are left out. The exit code is 0 only if every slope and the testnet's own verdict hold.

Theil, A rank-invariant method of linear and polynomial regression analysis, 1950; Sen, Estimates of the
regression coefficient based on Kendall's tau, JASA 63, 1968.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from shoal.node.errors import UserError
from shoal.node.testnet import launcher
from shoal.node.testnet.faults import Link
from shoal.node.testnet.invariants import durations, swarm_rounds
from shoal.node.testnet.plan import Plan
from shoal.node.testnet.processes import NodeRecord, NoTestnet, read_record
from shoal.node.testnet.tables import Display
from shoal.node.testnet.up import new_directory
from shoal.node.testnet.verdict import Result
from shoal.node.testnet.watch import Observed

ROOT: Final = Path(__file__).resolve().parent.parent
EVERY: Final = 5.0
"""Seconds between two measurements."""
WARM_UP: Final = 180.0
"""Seconds of a process's life that are not fitted: caches fill, pools grow to their size. At most a third."""
LEAST_SHARE: Final = 0.4
"""A process must have lived for this share of the run for its slope to mean something."""
MEGABYTE: Final = 1e6
COLORS: Final = {
    "daemon": "#0072B2",
    "trainer": "#E69F00",
    "proxy": "#888888",
    "home": "#009E73",
    "swarm": "#0072B2",
}


@dataclass(frozen=True, slots=True)
class Limit:
    """How much something may grow."""

    unit: str
    per_hour: float
    at_least: float
    """Allowed in any run, however short: what is measured wavers by as much."""
    relative: bool = False
    """Whether both are shares of the median instead."""

    def allowed(self, seconds: float, middle: float) -> float:
        """Return by how much it may grow in so many seconds."""
        growth = max(self.at_least, self.per_hour * seconds / 3600)
        return growth * middle if self.relative else growth


LIMITS: Final = {
    "memory": Limit("MB", per_hour=16.0, at_least=4.0),
    # Sockets of a status page or a dial that failed linger for some seconds: a few more or less are no leak.
    "descriptors": Limit("", per_hour=4.0, at_least=6.0),
    "threads": Limit("", per_hour=2.0, at_least=1.0),
    # The database keeps the last ten thousand rounds, and its log is emptied at 4 MB.
    "disk": Limit("MB", per_hour=12.0, at_least=6.0),
    "round time": Limit("s", per_hour=0.15, at_least=0.1, relative=True),
}


@dataclass(slots=True)
class Series:
    """One quantity of one process, or of the swarm, over time."""

    what: str
    whose: str
    at: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, at: float, value: float) -> None:
        """Add a measurement."""
        self.at.append(at)
        self.values.append(value)


@dataclass(frozen=True, slots=True)
class Slope:
    """What a line through a series says."""

    series: Series
    begins: float
    seconds: float
    middle: float
    growth: float
    """Over `seconds`, by the line."""
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether it grew no more than it may. Shrinking is no leak."""
        return self.growth <= self.allowed


def theil_sen(at: Sequence[float], values: Sequence[float]) -> float:
    """Return the median of the slopes between all pairs of points."""
    x, y = np.asarray(at, dtype=np.float64), np.asarray(values, dtype=np.float64)
    first, second = np.triu_indices(len(x), k=1)
    run = x[second] - x[first]
    return float(np.median((y[second] - y[first])[run > 0] / run[run > 0])) if len(x) > 1 else 0.0


def slope_of(series: Series, total: float) -> Slope | None:
    """Fit a line to a series after its warm-up; None where it is too short to say anything."""
    lived = series.at[-1] - series.at[0] if series.at else 0.0
    if lived < LEAST_SHARE * total or len(series.at) < 8:
        return None
    begins = series.at[0] + min(WARM_UP, lived / 3)
    kept = [(at, value) for at, value in zip(series.at, series.values, strict=True) if at >= begins]
    at, values = zip(*kept, strict=True)
    seconds, middle = at[-1] - at[0], median(values)
    growth = theil_sen(at, values) * seconds
    return Slope(series, begins, seconds, middle, growth, LIMITS[series.what].allowed(seconds, middle))


class Meter:
    """Measures the processes of a testnet."""

    def __init__(self, directory: Path) -> None:
        """Nothing is measured yet."""
        self._directory = directory
        self._series: dict[tuple[str, str, int], Series] = {}
        self._began = time.monotonic()

    @property
    def series(self) -> list[Series]:
        """All that was measured."""
        return list(self._series.values())

    def measure(self) -> None:
        """Measure every process that runs now."""
        try:
            record = read_record(self._directory)
        except NoTestnet:
            return
        now = time.monotonic() - self._began
        for node in record.nodes:
            self._measure_tree(node, now)
            self._add("disk", f"{node.name} home", 0, now, size_of(Path(node.home)) / MEGABYTE)
        if record.proxy is not None:
            self._measure_tree(record.proxy, now)

    def _measure_tree(self, node: NodeRecord, now: float) -> None:
        try:
            process = psutil.Process(node.pid)
            self._measure(process, f"{node.name} daemon" if node.index else "proxy", now)
            for child in process.children():
                self._measure(child, f"{node.name} trainer", now)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return  # churn took it while we looked

    def _measure(self, process: psutil.Process, whose: str, now: float) -> None:
        with process.oneshot():
            self._add("memory", whose, process.pid, now, process.memory_info().rss / MEGABYTE)
            self._add("threads", whose, process.pid, now, process.num_threads())
            self._add("descriptors", whose, process.pid, now, process.num_fds())

    def _add(self, what: str, whose: str, pid: int, now: float, value: float) -> None:
        self._series.setdefault((what, whose, pid), Series(what, whose)).add(now, value)


def size_of(folder: Path) -> int:
    """Return what the files of a folder take."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


class SoakScreen(Display):
    """The launcher's screen, which measures while it draws."""

    def __init__(self, console: Console, meter: Meter) -> None:
        """Measure with `meter`."""
        super().__init__(console)
        self.nodes: Sequence[Observed] = ()
        self._meter = meter
        self._next = 0.0

    def show(self, plan: Plan, nodes: Sequence[Observed], seconds: float, note: str) -> None:
        """See `testnet.Screen`."""
        self.nodes = nodes
        if seconds >= self._next and not note:
            self._next = seconds + EVERY
            self._meter.measure()
        super().show(plan, nodes, seconds, note)


def round_times(nodes: Sequence[Observed]) -> Series:
    """Return how long the swarm took for each round."""
    found = Series("round time", "swarm")
    rounds = swarm_rounds(nodes)
    first = min(rounds.values(), default=0.0)
    for round_, seconds in durations(rounds).items():
        found.add(rounds[round_] - first, seconds)
    # All pairs of many thousand rounds would not fit into memory.
    step = max(1, len(found.at) // 1500)
    return Series(found.what, found.whose, found.at[::step], found.values[::step])


def show(console: Console, slopes: Sequence[Slope]) -> None:
    """Print the worst slope of each kind of process."""
    table = Table(title="growth after the warm-up", title_justify="left")
    for heading in ("", "what", "whose", "median", "growth", "allowed"):
        table.add_column(heading, justify="right" if heading in ("median", "growth", "allowed") else "left")
    for slope in worst(slopes):
        unit = f" {LIMITS[slope.series.what].unit}".rstrip()
        table.add_row(
            "[green]holds[/]" if slope.ok else "[bold red]FAILS[/]",
            slope.series.what,
            slope.series.whose,
            f"{slope.middle:.2f}{unit}",
            f"{slope.growth:+.2f}{unit} in {slope.seconds / 60:.0f} min",
            f"{slope.allowed:.2f}{unit}",
        )
    console.print(table)


def worst(slopes: Sequence[Slope]) -> list[Slope]:
    """Return, per quantity and kind of process, the slope nearest to its limit, or beyond."""
    found: dict[tuple[str, str], Slope] = {}
    for slope in slopes:
        key = (slope.series.what, slope.series.whose.split()[-1])
        if key not in found or slope.growth - slope.allowed > found[key].growth - found[key].allowed:
            found[key] = slope
    return [found[key] for key in sorted(found, key=lambda key: (list(LIMITS).index(key[0]), key[1]))]


def draw(path: Path, all_: Sequence[Series], slopes: Sequence[Slope], title: str) -> None:
    """Draw every series, and the line through each that was fitted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.0 * len(LIMITS)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    rows: Any = figure.subplots(len(LIMITS), 1, sharex=True)
    for axes, (what, limit) in zip(rows, LIMITS.items(), strict=True):
        named: set[str] = set()
        for series in (each for each in all_ if each.what == what):
            kind = series.whose.split()[-1]
            label = kind if kind not in named else "_"
            named.add(kind)
            minutes = [at / 60 for at in series.at]
            axes.plot(minutes, series.values, color=COLORS[kind], linewidth=0.8, alpha=0.7, label=label)
        for slope in (each for each in slopes if each.series.what == what):
            ends = [slope.begins, slope.begins + slope.seconds]
            heights = [slope.middle - slope.growth / 2, slope.middle + slope.growth / 2]
            axes.plot(
                [each / 60 for each in ends],
                heights,
                color="#3A3A3A" if slope.ok else "#B00020",
                linewidth=1.3,
            )
        axes.set_ylabel(f"{what}{f', {limit.unit}' if limit.unit else ''}", fontsize=8)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1.0), frameon=False, fontsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    rows[0].set_title(title, loc="left", fontsize=10, fontweight="bold")
    rows[-1].set_xlabel("minutes")
    figure.savefig(path)


def write_docs(slopes: Sequence[Slope], result: Result, minutes: float) -> None:
    """Write docs/soak.md."""
    lines = [
        "# Soak",
        "",
        "Five nodes, endless rounds of fedavg on digits over links of 150 ms, a node killed and started",
        f"again about every ten minutes, for {minutes:g} minutes: {result.rounds} rounds. A line is fitted",
        "to what each process used after its warm-up (Theil and Sen's method); below is, per quantity,",
        "the process that came nearest to its limit.",
        "",
        "    make soak MINUTES=30 ARGS=--write",
        "",
        "| quantity | of | median | growth | allowed |",
        "|---|---|---:|---:|---:|",
    ]
    for slope in worst(slopes):
        unit = f" {LIMITS[slope.series.what].unit}".rstrip()
        lines.append(
            f"| {slope.series.what} | {slope.series.whose} | {slope.middle:.2f}{unit} |"
            f" {slope.growth:+.2f}{unit} in {slope.seconds / 60:.0f} min | {slope.allowed:.2f}{unit} |"
        )
    held = all(slope.ok for slope in slopes) and result.verdict
    lines += ["", f"The verdict {'holds' if held else 'does not hold'}. {platform.machine()}, "]
    lines[-1] += f"{os.cpu_count()} cores, Python {platform.python_version()}."
    lines += ["", "![memory, descriptors, threads, disk and round time over the run](soak.png)", ""]
    (ROOT / "docs" / "soak.md").write_text("\n".join(lines))


def plan_of(minutes: float, nodes: int, churn: float) -> Plan:
    """Return the testnet of a soak. Links of some latency, so that rounds cost time and not processor."""
    return Plan(
        nodes=nodes,
        rounds=0,
        seconds=60 * minutes,
        timeout=60 * minutes + 300,
        churn=churn,
        seed=30,
        link=Link(latency=0.15, jitter=0.02),
    )


def main() -> int:
    """Read the arguments and run a soak; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--churn", type=float, default=0.02, help="share of the nodes killed per minute")
    parser.add_argument("--dir", type=Path, help="where to put the testnet (default: testnet/NOW)")
    parser.add_argument("--write", action="store_true", help="write docs/soak.md and docs/soak.png")
    asked = parser.parse_args()
    console = Console(highlight=False)
    try:
        return soak(asked, console)
    except UserError as error:
        console.print(f"error: {error}", soft_wrap=True)
        return error.exit_code


def soak(asked: argparse.Namespace, console: Console) -> int:
    """Run the testnet, fit the slopes, print, draw and write; return the exit code."""
    directory = new_directory(asked.dir)
    meter = Meter(directory)
    plan = plan_of(asked.minutes, asked.nodes, asked.churn)
    console.print(
        f"{plan.nodes} nodes for {asked.minutes:g} minutes; all of it in {directory}", soft_wrap=True
    )
    with SoakScreen(console, meter) as screen:
        tools = launcher.Tools(environ=dict(os.environ))
        result = launcher.up(plan, directory, screen=screen, tools=tools, compare=False)
    all_ = [*meter.series, round_times(screen.nodes)]
    slopes = [slope for series in all_ if (slope := slope_of(series, 60 * asked.minutes)) is not None]
    show(console, slopes)
    for check in result.invariants:
        console.print(f"{'holds' if check.ok else 'FAILS'}  {check.name}: {check.detail}", soft_wrap=True)
    held = bool(slopes) and all(slope.ok for slope in slopes) and result.verdict
    pictures = [directory / "soak.png", *([ROOT / "docs" / "soak.png"] if asked.write else [])]
    word = "flat" if held else "not flat, or a verdict that does not hold"
    for path in pictures:
        draw(
            path,
            all_,
            slopes,
            f"{plan.nodes} nodes, {asked.minutes:g} minutes, {result.rounds} rounds: {word}",
        )
    if asked.write:
        write_docs(slopes, result, asked.minutes)
    console.print(f"{word}; {', '.join(map(str, pictures))}", soft_wrap=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
