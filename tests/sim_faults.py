"""Faults: what may happen to a simulated swarm, each a plain tuple ``(time, kind, arguments…)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim import Fault, Sim


def plan(sim: Sim, fault: Fault) -> None:
    """Put a fault into a world's plan."""


def end_of(fault: Fault) -> float:
    """Return when a fault is over, so that peace may be expected from then on."""
    when: Any = fault[0]
    return float(when)
