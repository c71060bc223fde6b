"""Split learning in simulated swarms: hosts and stages that die or lie, and clients that lie."""

import pytest
from sim.callers import ENDS, host_faults
from sim.runs import run_seed
from sim.split import SplitWatch
from sim.world import Fault, Result, Scenario, Sim

from shoal.gossip.calls.asking import Asking

HOST, CLIENT = 2, 1
"""The ablest of four nodes, which takes the role; and a node that does not."""
FAULTS: dict[str, tuple[Fault, ...]] = host_faults(HOST) | {
    "it answers wrongly": ((20.0, "lie", HOST, "split-host", 15.0),),
    "another says that it hosts": ((20.0, "lie", CLIENT, "split-host", 15.0),),
    "a client calls out of order": ((20.0, "lie", CLIENT, "split-client", 15.0),),
}


def run(faults: tuple[Fault, ...], stages: int) -> tuple[Result, SplitWatch]:
    nodes = 4 if stages == 1 else 6
    sim = Sim(Scenario(0, nodes, faults, stages=stages, patience=5.0, calm_rounds=3))
    result, watch = sim.run(), sim.oracle.calls
    assert isinstance(watch, SplitWatch)
    return result, watch


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("what", FAULTS)
def test_steps_act_once_and_go_on_whoever_dies_or_lies(what: str, stages: int) -> None:
    result, watch = run(FAULTS[what], stages)
    assert not result.violations, result.violations
    assert watch.taken > 4 * watch.lost > 0


def test_a_step_that_is_never_given_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Asking._send

    def send(self: Asking, call: object, now: float) -> object:
        effects = honest(self, call, now)  # type: ignore[arg-type]
        call.due = float("inf")  # type: ignore[attr-defined]
        return effects

    monkeypatch.setattr(Asking, "_send", send)
    result, _ = run(FAULTS["it is cut off"], 1)
    assert ENDS in {each.invariant for each in result.violations}


def test_a_host_that_takes_its_role_again_names_its_steps_anew() -> None:
    """The stage behind it knows the names of before, and would answer what it answered then."""
    assert not run_seed(288).violations
