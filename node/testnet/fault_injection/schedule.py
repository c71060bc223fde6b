"""When what happens: the faults of a plan as a stream of actions, the same for the same seed.

    plan.churn, plan.faults --actions--> kill 3 at 18.2 s, start 3 at 23.2 s, kill 7 at 55.0 s, ...

Churn is the share of the nodes that is killed per minute. The kills come at even distances, each moved by
up to a quarter of it: a Poisson stream of the same rate leaves many short runs without any kill, and they
would prove nothing.

A node that is already down is not drawn again. Everything is lazy, because a plan may run without end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import count
from random import Random
from typing import Final, Literal, TypeAlias

from shoal.node.testnet.faults import Fault, Link
from shoal.node.testnet.plan import Plan

ActionKind: TypeAlias = Literal["kill", "restart", "pause", "resume", "split", "heal", "slow", "restore"]

AFTER: Final[dict[str, ActionKind]] = {
    "kill": "restart",
    "pause": "resume",
    "split": "heal",
    "slow": "restore",
}
"""What ends a fault."""
INFINITY: Final = float("inf")
DOWN_SECONDS: Final = 5.0
"""How long churn keeps a node away: longer than the others need to notice."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do to nodes."""

    at: float
    """Seconds after the first round of the swarm."""
    kind: ActionKind
    nodes: tuple[int, ...]
    link: Link | None = None
    """With slow: how the links of the nodes are from now on."""
    lasts: bool = False
    """Whether another action will end it."""


def actions(plan: Plan) -> Iterator[Action]:
    """Return what happens to the nodes of a plan, in order of time, perhaps without end."""
    end = plan.seconds - plan.quiet_end if plan.seconds else INFINITY
    faults = [_begins(fault, number, end) for number, fault in enumerate(plan.faults)]
    if plan.churn:
        faults.append(_churn(plan, end))
    return _paired(merge(*faults, key=lambda pair: pair[0]), plan)


def _begins(fault: Fault, number: int, end: float) -> Iterator[tuple[float, int, Fault]]:
    yield fault.at, number, fault
    at = fault.at + fault.every
    while fault.every and at <= min(end, fault.until or INFINITY):
        yield at, number, fault
        at += fault.every


def _churn(plan: Plan, end: float) -> Iterator[tuple[float, int, Fault]]:
    dice = Random(f"churn {plan.seed}")
    distance = 60.0 / (plan.churn * plan.nodes)
    fault = Fault(kind="kill", at=0.0, seconds=DOWN_SECONDS)
    for number in count():
        at = distance * (number + 0.5 + dice.uniform(-0.25, 0.25))
        if at > end:
            return
        yield at, len(plan.faults), fault


def _paired(begins: Iterator[tuple[float, int, Fault]], plan: Plan) -> Iterator[Action]:
    """Yield every fault and its end, in order."""
    dice = Random(f"who {plan.seed}")
    ends: list[Action] = []
    away: dict[int, float] = {}
    last: tuple[int, ...] = ()
    for at, _, fault in begins:
        while ends and ends[0].at <= at:
            yield ends.pop(0)
        nodes = fault.nodes or _drawn(dice, plan.nodes, fault.pick, {n for n in away if away[n] > at}, last)
        if not nodes:
            continue
        last = nodes
        until = at + fault.seconds if fault.seconds else INFINITY
        if fault.kind in ("kill", "pause"):
            away |= dict.fromkeys(nodes, until)
        yield Action(at, fault.kind, nodes, fault.link if fault.kind == "slow" else None, fault.seconds > 0)
        if fault.seconds:
            ends.append(Action(until, AFTER[fault.kind], nodes))
            ends.sort(key=lambda action: action.at)
    yield from ends


def _drawn(
    dice: Random, n_nodes: int, n_drawn: int, away: set[int], last: tuple[int, ...]
) -> tuple[int, ...]:
    """Draw nodes that are there, another than the last where there is one."""
    there = [node for node in range(1, n_nodes + 1) if node not in away]
    fresh = [node for node in there if node not in last]
    chosen = fresh if len(fresh) >= n_drawn else there
    return tuple(sorted(dice.sample(chosen, min(n_drawn, len(chosen)))))
