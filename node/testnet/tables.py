"""How a testnet looks: the live table, the lines where there is no terminal, and the verdict's panel.

Rows are plain data made by pure functions; the last few functions put them into rich's shapes.

The launcher's screen: a table that lives, or lines where there is no terminal.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shoal.node.status import Status
from shoal.node.testnet.invariants import Cost
from shoal.node.testnet.lies.catalogue import Lie
from shoal.node.testnet.plan import Plan, name_of
from shoal.node.testnet.verdict import Result, ended_how
from shoal.node.testnet.watch import HostCost, Observed, holders

HASH_COLORS: Final = ("green", "yellow", "magenta", "cyan", "red")
"""The most common state comes first: all green means agreement."""
PHASE_STYLES: Final = {
    "starting": "dim",
    "working": "cyan",
    "matchmaking": "yellow",
    "exchanging": "blue",
    "finished": "bold green",
}
TRAINER_STATES: Final = ("none", "running", "attached")
"""What a trainer is where nothing is wrong; else its status says why it ended."""


@dataclass(frozen=True, slots=True)
class Row:
    """A node as the table shows it."""

    name: str
    phase: str
    phase_style: str
    round: str = ""
    peers: str = ""
    loss: str = ""
    accuracy: str = ""
    busy: str = ""
    sent: str = ""
    received: str = ""
    links: str = ""
    state: str = ""
    state_style: str = ""


def row_of(node: Observed, hash_styles: dict[str, str]) -> Row:
    """Describe one node."""
    status = node.status
    if node.process and not node.answers:
        return Row(node.name, node.process, "red")
    if status is None:
        if node.exit_code is None:
            return Row(node.name, "starting", "dim")
        return Row(node.name, ended_how(node.exit_code), "bold red")
    phase, style = status.phase, PHASE_STYLES.get(status.phase, "")
    if node.exit_code is not None and not node.finished:
        phase, style = ended_how(node.exit_code), "bold red"
    elif not node.answers and not node.finished:
        phase, style = "does not answer", "red"
    return Row(
        name=node.name,
        phase=phase,
        phase_style=style,
        round=str(status.round),
        peers=str(len(status.peers)),
        loss="" if status.loss is None else f"{status.loss:.3f}",
        accuracy="" if node.accuracy is None else f"{node.accuracy:.3f}",
        busy="" if status.utilisation is None else f"{100 * status.utilisation:.0f}%",
        sent=size(status.bytes_sent, is_short=True),
        received=size(status.bytes_received, is_short=True),
        links=links_of(status),
        state=status.state_hash[:8],
        state_style=hash_styles.get(status.state_hash, ""),
    )


def links_of(status: Status) -> str:
    """Return how many links of each class a node has: ``direct 3, relayed 1``."""
    classes = Counter(peer.link for peer in status.peers if peer.link != "none")
    return ", ".join(f"{name} {count}" for name, count in sorted(classes.items()))


def styles_of_hashes(nodes: Sequence[Observed]) -> dict[str, str]:
    """Give every state hash a colour, the most common one the first."""
    hashes = Counter(node.status.state_hash for node in nodes if node.status and node.status.state_hash)
    ranked = sorted(hashes, key=lambda hash_: (-hashes[hash_], hash_))
    return {hash_: HASH_COLORS[min(i, len(HASH_COLORS) - 1)] for i, hash_ in enumerate(ranked)}


def rows(nodes: Sequence[Observed]) -> list[Row]:
    """Describe all nodes."""
    styles = styles_of_hashes(nodes)
    return [row_of(node, styles) for node in nodes]


def size(n_bytes: int, *, is_short: bool = False) -> str:
    """Return a size for people: ``1.2 MB``, and from ten on ``12.3 MB``, or ``12 MB`` where room is short."""
    amount = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            is_whole = unit == "B" or (is_short and amount >= 10)
            return f"{amount:.0f} {unit}" if is_whole else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def lowest_round(nodes: Sequence[Observed]) -> int:
    """Return the round in which the slowest node is, of those that were not ended on purpose."""
    here = [node for node in nodes if not node.is_away] or nodes
    return min((node.status.round if node.status else 0 for node in here), default=0)


def line_of(plan: Plan, nodes: Sequence[Observed], seconds: float) -> str:
    """Return the state of a testnet in one line, for logs."""
    of = f"/{plan.rounds}" if plan.rounds else ""
    parts = [f"{seconds:6.1f} s  round {lowest_round(nodes):>{max(1, len(of) - 1)}}{of}"]
    accuracies = [node.accuracy for node in nodes if node.accuracy is not None]
    if accuracies:
        parts.append(f"accuracy {fmean(accuracies):.3f} (lowest {min(accuracies):.3f})")
    losses = [node.status.loss for node in nodes if node.status and node.status.loss is not None]
    if losses:
        parts.append(f"loss {fmean(losses):.3f}")
    parts.append(f"sent {size(sum(node.status.bytes_sent for node in nodes if node.status))}")
    phases = Counter(
        "ended on purpose" if node.is_away else node.status.phase if node.status else "starting"
        for node in nodes
    )
    parts.append(", ".join(f"{count} {phase}" for phase, count in sorted(phases.items())))
    return "  ".join(parts)


def table(title: str, nodes: Sequence[Observed]) -> Table:
    """Return the table of all nodes."""
    shown = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        # With these eighty columns are enough.
        padding=0,
    )
    shown.add_column("node", no_wrap=True, min_width=max((len(node.name) for node in nodes), default=0))
    shown.add_column("phase", no_wrap=True, min_width=10)
    for heading, width in (
        ("round", 5),
        ("peers", 5),
        ("loss", 5),
        ("acc.", 5),
        ("busy", 4),
        ("out", 6),
        ("in", 6),
    ):
        shown.add_column(heading, justify="right", no_wrap=True, min_width=width)
    shown.add_column("links", min_width=8)
    shown.add_column("state", no_wrap=True, min_width=8)
    for row in rows(nodes):
        shown.add_row(
            row.name,
            Text(row.phase, row.phase_style),
            row.round,
            row.peers,
            row.loss,
            row.accuracy,
            row.busy,
            row.sent,
            row.received,
            row.links,
            Text(row.state, row.state_style),
        )
    return shown


def roles_line(nodes: Sequence[Observed]) -> str:
    """Say who holds which role of a split model: ``host: node-1; spare: node-3``; empty without roles."""
    told = [node.status.calls.hosts for node in nodes if node.status and node.status.calls]
    roles = dict.fromkeys(role for hosts in told for role in hosts)
    held = {role: [name_of(number) for number in holders(nodes, role)] for role in roles}
    return "; ".join(f"{role}: {', '.join(names) or 'nobody'}" for role, names in held.items())


def live_view(plan: Plan, nodes: Sequence[Observed], seconds: float, note: str = "") -> RenderableType:
    """Return what stands on the terminal while a testnet runs."""
    title = f"{plan.method} on {plan.task}, {plan.nodes} nodes"
    done = sum(node.status.round if node.status else 0 for node in nodes)
    of = f" of {plan.rounds}" if plan.rounds else ""
    text = f"round {lowest_round(nodes)}{of}  {seconds:.0f} s  {note}"
    under = [Text(line, "yellow") for line in problems(nodes)]
    if hosting := roles_line(nodes):
        under.insert(0, Text(hosting, "dim"))
    whole = plan.rounds * plan.nodes
    # Without an end of its own a run is as far as its time is.
    drawn = bar(text, done, whole) if whole else bar(text, int(seconds), max(1, int(plan.seconds)))
    return Group(table(title, nodes), drawn, *under)


def bar(text: str, done: int, total: int) -> RenderableType:
    """Return a bar with what it stands for beside it."""
    shown = Table.grid(padding=(0, 2))
    shown.add_row(ProgressBar(total=total, completed=done, width=30), text)
    return shown


def problems(nodes: Sequence[Observed]) -> list[str]:
    """Return what a person should see to, once each, with the nodes that say it."""
    said: dict[str, list[str]] = {}
    for node in nodes:
        if node.status is None:
            continue
        trainer = node.status.trainer
        ended = [] if trainer in TRAINER_STATES else [f"its trainer ended: {trainer}"]
        for problem in [*node.status.problems, *ended]:
            said.setdefault(problem, []).append(node.name)
    return [f"{', '.join(dict.fromkeys(names))}: {problem}" for problem, names in said.items()]


def cost_line(cost: Cost) -> str:
    """Return what a fault was and what it cost: ``kill of node-3 in round 12, which took 0.4 s more``."""
    roles = f" ({', '.join(cost.hosting.roles)})" if cost.hosting else ""
    by = " by hand" if cost.by == "hand" else ""
    parts = [f"{cost.kind} of {', '.join(map(name_of, cost.nodes))}{roles}{by}"]
    if cost.round is not None:
        parts[0] += f" in round {cost.round}"
    if cost.extra_seconds is not None:
        parts.append(f"which took {cost.extra_seconds:.1f} s more than usual")
    if cost.back_seconds is not None:
        parts.append(f"back in a round after {cost.back_seconds:.1f} s")
    if cost.hosting:
        parts += _hosting_words(cost.hosting)
    return ", ".join(parts)


def _hosting_words(cost: HostCost) -> list[str]:
    """Say what the others lost with a host, and who took its place."""
    steps = "1 step" if cost.lost_steps == 1 else f"{cost.lost_steps} steps"
    words = [f"{steps} of the others lost"]
    if cost.seconds is not None:
        with_ = f" with {', '.join(map(name_of, cost.went_on_with))}" if cost.went_on_with else ""
        words.append(f"they went on{with_} after {cost.seconds:.1f} s at most")
    for role in cost.roles:
        taker = cost.taken_by.get(role)
        words.append(f"nobody is {role} now" if taker is None else f"{name_of(taker)} is {role} now")
    return words


def verdict_panel(result: Result, files: Sequence[str]) -> Panel:
    """Return the verdict, with what it rests on."""
    body = Table.grid(padding=(0, 2))
    if result.accuracy_mean is not None and result.accuracy_min is not None:
        body.add_row("accuracy", f"{result.accuracy_mean:.3f} mean, {result.accuracy_min:.3f} lowest")
    if result.local_only_mean is not None:
        alone = ", ".join(f"{accuracy:.3f}" for accuracy in result.local_only)
        body.add_row("each alone", f"{result.local_only_mean:.3f} mean ({alone})")
    if result.calm_accuracy_mean is not None:
        body.add_row("in peace", f"{result.calm_accuracy_mean:.3f} mean")
    body.add_row("rounds", f"{result.rounds} in {result.seconds:.1f} s")
    if result.utilisation is not None:
        body.add_row("utilisation", f"{100 * result.utilisation:.0f} % of the time spent computing")
    body.add_row("traffic", f"{size(result.bytes_sent)} sent by {result.nodes} nodes")
    body.add_row("state", "the same on all nodes" if result.same_state_hash else "differs between nodes")
    if result.network:
        body.add_row("network", result.network)
    for cost in result.faults:
        body.add_row(f"{cost.at:.1f} s", cost_line(cost))
    checks = Table.grid(padding=(0, 2))
    for check in result.invariants:
        mark = Text("holds", "green") if check.ok else Text("FAILS", "bold red")
        checks.add_row(mark, check.name, Text(check.detail, "dim" if check.ok else "red"))
    word, color = ("the verdict holds", "green") if result.verdict else ("the verdict does not hold", "red")
    footer = Text("\n".join(files), "dim")
    return Panel(
        Group(body, "", checks, "", footer),
        title=f"[bold]{word}[/]",
        title_align="left",
        border_style=color,
        expand=False,
    )


LINES: Final = 10
"""How often progress is told where there is no terminal."""
SILENCE: Final = 20.0
"""Seconds after which a line is told there even without progress."""


class Display:
    """Draws a table that lives, or tells lines where there is no terminal."""

    def __init__(self, console: Console) -> None:
        """Draw nothing yet."""
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._told_round = -1
        self._told_at = 0.0
        self._told_progress = ""
        self._told_problems: set[str] = set()
        self._nodes: RenderableType = ""

    def __enter__(self) -> Self:
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
        for problem in problems(nodes):
            if problem not in self._told_problems:
                self._told_problems.add(problem)
                self._console.print(problem, soft_wrap=True)
        round_ = lowest_round(nodes)
        step = max(1, plan.rounds // LINES)
        progress = plan.rounds > 0 and round_ >= self._told_round + step
        due = progress or seconds >= self._told_at + SILENCE
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


def lies_table(lies: Sequence[Lie]) -> RenderableType:
    """Return the table of lies."""
    found = Table(box=box.SIMPLE_HEAD)
    for column in ("lie", "who", "what it does", "what it can do at most"):
        found.add_column(column, overflow="fold")
    for lie in lies:
        found.add_row(lie.name, lie.who, lie.what, lie.bound)
    return found
