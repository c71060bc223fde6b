"""The lives of nodes: the spans of time in which nothing was done to a node, and how it fared in them.

    start ===== kill ..... restart --loading-- synced ===== pause ..... resume == synced ===== end
          span                        span                                  span

Rounds are placed by the moment they ended. A round counts as the swarm's when anybody averaged in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

from shoal.node.status import RoundStatus
from shoal.node.testnet.event_log import Event
from shoal.node.testnet.plan import Plan
from shoal.node.testnet.watch import Observed

ENDS: Final = frozenset({"kill", "pause", "died", "slow"})
"""What ends a span of the nodes it befalls."""
BEGINS: Final = frozenset({"restart", "resume", "restore"})
LOADS: Final = frozenset({"start", "restart"})
"""What begins a span with the loading of libraries."""
AVERAGED: Final = "averaged"


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a node's life in which it was left alone."""

    node: int
    begins: float
    """Unix seconds."""
    ends: float
    after: str
    """What it begins with: start, restart, resume, heal or restore."""
    to_the_end: bool
    """Whether nothing ended it."""
    loaded: float | None
    """From when on it could work; None if that was not seen."""
    rounds: tuple[RoundStatus, ...] = ()
    """All tries that ended in it, oldest first."""

    @property
    def averaged(self) -> list[int]:
        """The rounds in which it took part."""
        return [round_.round for round_ in self.rounds if round_.outcome == AVERAGED]

    @property
    def ready(self) -> RoundStatus | None:
        """The first sign that it had the swarm's state: it took part, or fetched it."""
        return next((round_ for round_ in self.rounds if round_.outcome in (AVERAGED, "synced")), None)


def spans(plan: Plan, nodes: Sequence[Observed], events: Sequence[Event], end: float) -> list[Span]:
    """Return the spans of all nodes, those of a node in order."""
    found: list[Span] = []
    for index, node in enumerate(nodes, 1):
        tries = [node.tries[at] for at in sorted(node.tries)]
        found += _spans_of(plan, index, tries, events, end)
    return found


def _spans_of(
    plan: Plan, index: int, tries: Sequence[RoundStatus], events: Sequence[Event], end: float
) -> list[Span]:
    found: list[Span] = []
    began, after = 0.0, ""
    loaded: float | None = None

    def close(at: float, to_the_end: bool) -> None:
        inside = tuple(each for each in tries if began <= each.finished_at < at)
        found.append(Span(index, began, at, after, to_the_end, loaded, inside))

    for event in events:
        if event.kind == "loaded" and index in event.nodes:
            loaded = event.at
        kind = _effect(plan, index, event)
        if kind == "ends" and after:
            close(event.at, False)
            after = ""
        elif kind == "begins" and not after:
            began, after = event.at, event.kind
            # Who was only cut off or frozen had loaded before.
            loaded = None if after in LOADS else max(began, loaded or 0.0)
    if after:
        close(end, True)
    return found


def _effect(plan: Plan, index: int, event: Event) -> str:
    """Return whether an event ends or begins a span of a node."""
    if event.kind in ("split", "heal"):
        # Whoever is left with a quorum has lost nothing but some peers.
        here = len(event.nodes) if index in event.nodes else plan.nodes - len(event.nodes)
        if plan.one_group and here >= plan.effective_quorum and here > plan.nodes / 2:
            return ""
        return "ends" if event.kind == "split" else "begins"
    if index not in event.nodes:
        return ""
    if event.kind in ENDS:
        return "ends"
    return "begins" if event.kind in BEGINS or event.kind == "start" else ""


def swarm_rounds(nodes: Sequence[Observed]) -> dict[int, float]:
    """Return when the swarm was through with each round: the median of those who averaged in it."""
    ended: dict[int, list[float]] = {}
    for node in nodes:
        for round_ in node.tries.values():
            if round_.outcome == AVERAGED:
                ended.setdefault(round_.round, []).append(round_.finished_at)
    return {round_: median(times) for round_, times in sorted(ended.items())}


def durations(rounds: dict[int, float]) -> dict[int, float]:
    """Return how long each round took, from the end of the one before; the first has no beginning."""
    ordered = sorted(rounds)
    return {late: rounds[late] - rounds[early] for early, late in pairwise(ordered) if late == early + 1}
