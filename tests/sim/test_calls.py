"""Calls in simulated swarms: hosts that die or lie, callers that flood, and bugs that the invariants find."""

from collections.abc import Callable
from typing import Any

import pytest
import sim.callers
from sim.callers import ENDS, GROWS, ONCE, host_faults
from sim.world import Fault, Result, Scenario, Sim

import shoal.gossip.calls.answering
from shoal.gossip.calls.answering import Answering
from shoal.gossip.calls.asking import Asking

HOST = 2
"""Of four nodes, the ablest: it takes the role."""
FAULTS: dict[str, tuple[Fault, ...]] = host_faults(HOST) | {
    "it answers nonsense": ((20.0, "lie", HOST, "calls", 30.0),),
    "a client floods it": ((20.0, "lie", 1, "calls", 30.0),),
}


def run(faults: tuple[Fault, ...], seed: int = 0) -> Result:
    return Sim(Scenario(seed, 4, faults, calls=True, patience=5.0, calm_rounds=8)).run()


@pytest.mark.parametrize("what", FAULTS)
def test_steps_act_once_calls_end_and_rounds_go_on(what: str) -> None:
    for seed in range(3):
        result = run(FAULTS[what], seed)
        assert not result.violations, (seed, result.violations)
        assert result.counts["RoleTaken"] >= 1 + (what in ("the host dies", "the host leaves"))
        assert result.counts["HandedOut"] > 10


def forgets_steps(patch: pytest.MonkeyPatch) -> None:
    honest = Answering.called

    def called(self: Answering, peer: Any, message: Any, data: Any, now: float) -> Any:
        known = self._peers.get(peer)
        if known is not None and (message.verb, message.step) not in known.pending:
            known.steps.pop((message.verb, message.step), None)
        return honest(self, peer, message, data, now)

    patch.setattr(Answering, "called", called)


def waits_for_ever(patch: pytest.MonkeyPatch) -> None:
    honest = Asking._send

    def send(self: Asking, call: Any, now: float) -> Any:
        effects = honest(self, call, now)
        call.due = float("inf")
        return effects

    patch.setattr(Asking, "_send", send)


def queues_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shoal.gossip.calls.answering, "MAX_QUEUED", 10**9)


@pytest.mark.parametrize(
    ("plant", "caught_by", "what"),
    [
        (forgets_steps, ONCE, "nothing happens"),
        (waits_for_ever, ENDS, "it is cut off"),
        (queues_everything, GROWS, "a client floods it"),
    ],
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], caught_by: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = {each.invariant for seed in range(5) for each in run(FAULTS[what], seed).violations}
    assert caught_by in found


def test_the_bounds_that_are_checked_are_not_those_of_the_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    queues_everything(monkeypatch)
    assert sim.callers.MOST["queued"] == 4
