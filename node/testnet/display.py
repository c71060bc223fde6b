"""The launcher's screen: a table that lives, or lines where there is no terminal."""

from collections.abc import Sequence
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live

from shoal.node.testnet.plan import Plan
from shoal.node.testnet.tables import bar, line_of, live_view, lowest_round, problems
from shoal.node.testnet.watch import Observed

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
