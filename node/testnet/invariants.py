"""What must hold of a testnet that was shaken, as far as running processes can show it.

    lost        a node that nothing happened to averaged in every round, and none of its tries failed
    starved     a node that lived and was linked did not miss many rounds in a row
    back        a node that came back took part soon after it had the swarm's state
    groups      nodes that report the same state for a round report the same number of contributors
    left        when all was over, no process, namespace or proxy was left
    passed      every connection between nodes went through the proxy

What always must hold is checked beside these, in node/testnet/verdict.py.

The lives of nodes: the spans of time in which nothing was done to a node, and how it fared in them.

    start ===== kill ..... restart --loading-- synced ===== pause ..... resume == synced ===== end
          span                        span                                  span

Rounds are placed by the moment they ended. A round counts as the swarm's when anybody averaged in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Final

import msgspec

from shoal.gossip.patterns import PATTERNS
from shoal.node.status import RoundStatus
from shoal.node.testnet.event_log import Event
from shoal.node.testnet.network.link_model import ShaperReport
from shoal.node.testnet.plan import Plan, name_of
from shoal.node.testnet.watch import HostCost, Observed, host_cost

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
            # A node that was only cut off or frozen had loaded before.
            loaded = None if after in LOADS else max(began, loaded or 0.0)
    if after:
        close(end, True)
    return found


def _effect(plan: Plan, index: int, event: Event) -> str:
    """Return whether an event ends or begins a span of a node."""
    if event.kind in ("split", "heal"):
        # Nodes that are left with a quorum have lost nothing but some peers.
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


LOADING_SECONDS: Final = 180.0
"""A node whose trainer was not seen to work so long after a restart did not come back. Loading takes
seconds; while thirty nodes share two cores, minutes."""

CROWD_LOSES: Final = 0.05
"""Share of rounds that nodes of several groups may lose: many go on with three quarters of whom they expect,
so that who shares two cores with thirty others is left behind now and then, and fetches what it missed.
Measured there: 6, 15 and 20 of 640."""


class Check(msgspec.Struct, frozen=True):
    """One thing that must hold."""

    name: str
    ok: bool
    detail: str


class Cost(msgspec.Struct, frozen=True):
    """A fault, and what it cost those whom it did not befall."""

    at: float
    """Seconds since the testnet was started."""
    kind: str
    nodes: tuple[int, ...]
    by: str
    round: int | None
    """The swarm's round that it fell into."""
    round_seconds: float | None
    extra_seconds: float | None
    """Of that round, above the median of all."""
    back_seconds: float | None
    """From the restart, thaw or healing to the first round the node averaged in again."""
    hosting: HostCost | None = None
    """What it cost that the node hosted; None: it held no role, or several were hit at once."""


@dataclass(frozen=True, slots=True)
class Shaken:
    """What a verdict on a shaken testnet rests on, beside its nodes."""

    events: Sequence[Event] = ()
    began: float = 0.0
    """Unix seconds."""
    ended: float = 0.0
    """When the last look was taken."""
    left: Sequence[str] = ()
    """What was found still running afterwards."""
    proxied: bool = False
    report: ShaperReport | None = None
    calm_accuracy: float | None = None
    """Of the same plan left in peace; None where that was not run."""
    calm_faults: Sequence[str] = field(default_factory=tuple)
    """What did not hold in peace."""


def checked(name: str, faults: Sequence[str], held: str) -> Check:
    """Return a check that holds if there are no faults."""
    shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
    return Check(name, not faults, shown or held)


def invariants(plan: Plan, nodes: Sequence[Observed], shaken: Shaken) -> list[Check]:
    """Return all checks."""
    checks = [_left(shaken)]
    if not plan.shares or PATTERNS[plan.exchange].has_own_states:
        # A round of a node that averages pairwise is its own: nobody can miss it.
        return checks
    lives = spans(plan, nodes, shaken.events, shaken.ended)
    rounds = swarm_rounds(nodes)
    checks += [_lost(plan, lives, rounds), _starved(plan, lives, rounds), _back(plan, lives, rounds)]
    checks.append(_groups(nodes))
    if shaken.proxied:
        checks.append(_passed(plan, shaken.report))
    return checks


def _lost(plan: Plan, lives: Sequence[Span], rounds: dict[int, float]) -> Check:
    faults, allowed = [], plan.holds.lost_rounds
    whole = lost_by_all = 0
    for span in lives:
        lost = lost_rounds(span, rounds)
        lost_by_all += len(lost)
        whole += len(span.averaged)
        if len(lost) > allowed:
            shown = ", ".join(lost[:4]) + (", ..." if len(lost) > 4 else "")
            faults.append(f"{name_of(span.node)} lost {len(lost)}: {shown}")
    held = f"{whole} rounds by {len({span.node for span in lives})} nodes"
    if plan.group_size < plan.nodes and lost_by_all <= CROWD_LOSES * (whole + lost_by_all):
        faults, held = [], f"{held}, {lost_by_all} lost: groups do not wait for the last"
    return checked("no node lost a round by what befell others", faults, held)


def lost_rounds(span: Span, rounds: dict[int, float]) -> list[str]:
    """Return the rounds that a node lost while nothing happened to it: failed, or made by others alone.

    They count from its first average in this span on: before, it was on its way into the swarm. One that
    was frozen may end an old round as it wakes, which is no such average.
    """
    over = [round_ for round_, at in rounds.items() if at < span.begins]
    averaged = [round_ for round_ in span.averaged if round_ > max(over, default=-1)]
    if not averaged:
        return []
    inside = [each for each in span.rounds if each.round > averaged[0]]
    failed = [f"{each.round} failed" for each in inside if each.outcome == "failed"]
    missing = sorted(set(range(averaged[0], averaged[-1] + 1)) - set(averaged))
    # After the last that it averaged it may have been handed the state of later ones.
    later = [e.round for e in inside if e.outcome == "synced" and e.round > averaged[-1] and span.to_the_end]
    return failed + [f"{round_} missed" for round_ in [*missing, *later]]


def _starved(plan: Plan, lives: Sequence[Span], rounds: dict[int, float]) -> Check:
    faults, worst = [], 0
    for span in lives:
        ready = _ready_at(plan, span)
        # A round that ended right after the span began was under way without this node.
        passed = [round_ for round_, at in rounds.items() if ready < at < span.ends]
        longest = _longest_run(passed, set(span.averaged))
        worst = max(worst, longest)
        if longest > plan.holds.starved_rounds:
            faults.append(f"{name_of(span.node)} missed {longest} rounds in a row")
    held = f"at most {worst} rounds in a row were missed, {plan.holds.starved_rounds} may be"
    return checked("no live node was starved", faults, held)


def _ready_at(plan: Plan, span: Span) -> float:
    """Return from when on a node must not be starved."""
    if span.ready is not None:
        return span.ready.finished_at
    return span.ends if span.loaded is None else span.loaded + plan.holds.rejoin_seconds


def _longest_run(rounds: Sequence[int], had: set[int]) -> int:
    longest = run = 0
    for round_ in rounds:
        run = 0 if round_ in had else run + 1
        longest = max(longest, run)
    return longest


def _back(plan: Plan, lives: Sequence[Span], rounds: dict[int, float]) -> Check:
    faults, came, slowest = [], 0, 0
    for span in (each for each in lives if each.after != "start"):
        came_at = span.ends if span.ready is None else span.ready.finished_at
        since = span.begins if span.loaded is None else span.loaded
        patience = LOADING_SECONDS if span.loaded is None else plan.holds.rejoin_seconds
        if came_at - since > patience:
            faults.append(f"{name_of(span.node)} was not back {patience:.0f} s after its {span.after}")
        if span.ready is None:
            continue
        first = span.ready.round + (0 if span.ready.outcome == AVERAGED else 1)
        took_part = span.averaged[0] if span.averaged else None
        last = max((round_ for round_, at in rounds.items() if at < span.ends), default=0)
        waited = (last + 1 if took_part is None else took_part) - first
        came += took_part is not None
        slowest = max(slowest, waited)
        if waited > plan.holds.back_within:
            faults.append(f"{name_of(span.node)} took part {waited} rounds after it had the state")
    held = f"{came} came back and took part at most {slowest} rounds after they had the state"
    return checked(f"a node that came back took part within {plan.holds.back_within} rounds", faults, held)


def _groups(nodes: Sequence[Observed]) -> Check:
    by_state: dict[tuple[int, str], set[int]] = {}
    for node in nodes:
        for round_ in node.tries.values():
            if round_.outcome == AVERAGED:
                by_state.setdefault((round_.round, round_.state_hash), set()).add(round_.contributors)
    faults = [
        f"round {number}: {' and '.join(map(str, sorted(counts)))} contributors for one state"
        for (number, _), counts in sorted(by_state.items())
        if len(counts) > 1
    ]
    return checked("one state, one list of contributors", faults, f"{len(by_state)} states compared")


def _left(shaken: Shaken) -> Check:
    return checked("nothing is left running", list(shaken.left), "no process, no namespace")


def _passed(plan: Plan, report: ShaperReport | None) -> Check:
    name = "all traffic passed the proxy"
    if report is None:
        return Check(name, False, "the proxy reported nothing")
    silent = [name_of(i) for i in range(1, plan.nodes + 1) if not report.sent_bytes.get(i)]
    faults = [f"{each} sent nothing through it" for each in silent if plan.nodes > 1]
    total = sum(report.sent_bytes.values())
    held = f"{report.connections} connections, {total / 1e6:.1f} MB, {report.stalls} stalls for lost packets"
    return checked(name, faults, held)


def costs(plan: Plan, nodes: Sequence[Observed], shaken: Shaken) -> tuple[Cost, ...]:
    """Return every fault with what it cost."""
    rounds = swarm_rounds(nodes)
    took = durations(rounds)
    usual = sorted(took.values())[len(took) // 2] if took else 0.0
    lives = spans(plan, nodes, shaken.events, shaken.ended)
    found = []
    for event in shaken.events:
        if event.kind not in ("kill", "pause", "split", "slow", "died"):
            continue
        hit = next((round_ for round_, at in rounds.items() if at >= event.at), None)
        seconds = took.get(hit) if hit is not None else None
        found.append(
            Cost(
                at=round(event.at - shaken.began, 3),
                kind=event.kind,
                nodes=event.nodes,
                by=event.by,
                round=hit,
                round_seconds=None if seconds is None else round(seconds, 3),
                extra_seconds=None if seconds is None else round(max(0.0, seconds - usual), 3),
                back_seconds=_back_seconds(lives, event),
                hosting=_hosting(nodes, event, shaken),
            )
        )
    return tuple(found)


def _hosting(nodes: Sequence[Observed], event: Event, shaken: Shaken) -> HostCost | None:
    if len(event.nodes) != 1 or event.kind not in ("kill", "pause", "died"):
        return None
    again = [each.at for each in shaken.events if each.nodes == event.nodes and each.at > event.at]
    return host_cost(nodes, event.nodes[0], event.at, min(again, default=shaken.ended))


def _back_seconds(lives: Sequence[Span], event: Event) -> float | None:
    """Return how long the slowest of the befallen needed, from its way back to its next average."""
    needed = []
    for index in event.nodes:
        after = next((s for s in lives if s.node == index and s.begins > event.at), None)
        first = next((e for e in after.rounds if e.outcome == AVERAGED), None) if after else None
        if after is None or first is None:
            return None
        needed.append(first.finished_at - after.begins)
    return round(max(needed), 3) if needed else None
