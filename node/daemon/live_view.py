"""The live view of `shoal start`: a few lines at the foot of the terminal, however narrow it is."""

from collections import Counter
from typing import Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from shoal.crypto.keys import PeerId, short
from shoal.node.status import Status
from shoal.node.text import duration, figure, printable, size

BAR: Final = 20
"""Columns of the bar of rounds."""
WIDE: Final = 70
"""Columns from which on there is room for it."""
PHASE_STYLES: Final = {
    "starting": "dim",
    "working": "cyan",
    "matchmaking": "yellow",
    "exchanging": "blue",
    "syncing": "magenta",
    "finished": "bold green",
}


def live_view(status: Status, width: int) -> RenderableType:
    """Return what stands there now, each line cut at the `width` of the terminal."""
    return Group(Rule(style="dim"), _now(status, width), *(_line(parts) for parts in _facts(status)))


def _now(status: Status, width: int) -> RenderableType:
    """Return the first line: what it does, how far it is."""
    rounds = status.run.rounds if status.run is not None else 0
    words = [f"round {status.round}{f' of {rounds}' if rounds else ''}"] if status.run is not None else []
    for name, value in [*list(status.metrics.items())[:2], ("loss", status.loss)]:
        if value is not None and status.run is not None:
            words.append(printable(f"{name} {figure(value)}"))
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(printable(status.phase), PHASE_STYLES.get(status.phase, ""))
    text.append("".join(f" · {word}" for word in words))
    if not rounds or width < WIDE:
        return text
    shown = Table.grid(padding=(0, 1))
    shown.add_column(no_wrap=True, min_width=BAR)
    shown.add_column(no_wrap=True, overflow="ellipsis")
    shown.add_row(ProgressBar(total=rounds, completed=min(status.round, rounds), width=BAR), text)
    return shown


def _facts(status: Status) -> list[list[str]]:
    links = Counter(peer.link for peer in status.peers if peer.link != "none")
    peers = ", ".join(f"{count} {link}" for link, count in sorted(links.items())) or "no peer"
    agreement = ""
    if status.peers and status.state_hash:
        same = sum(peer.state_hash == status.state_hash for peer in status.peers)
        agreement = f"{same} of {len(status.peers)} hold this node's state"
    busy = "" if status.utilisation is None else f"computing {100 * status.utilisation:.0f} %"
    moved = f"{size(status.bytes_sent)} out, {size(status.bytes_received)} in"
    facts = [
        [status.name or short(PeerId(status.peer_id)), peers, agreement, busy],
        [moved, f"up {duration(status.uptime_seconds)}", status.page and f"page {status.page}/"],
    ]
    return [*facts, *([line] for line in status.problems[:3])]


def _line(parts: list[str]) -> Text:
    text = " · ".join(printable(part) for part in parts if part)
    return Text(text, style="dim", no_wrap=True, overflow="ellipsis")
