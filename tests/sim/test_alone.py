"""Who trained with others and loses them: it waits and keeps what they agreed on, or does as it is told."""

import pytest
from sim.node import SimNode
from sim.world import Fault, Scenario, Sim

from shoal.gossip.membership.company import Alone, Company, InCompany, Policy

CUT: float = 12.0
"""Seconds into a run: some rounds have been averaged by then."""
GONE: float = 60.0
"""Seconds: the time of twenty rounds."""


class Watched(Sim):
    """A run of two nodes that notes the round of each at given moments, and what the first is told."""

    def __init__(self, *faults: Fault, alone: Policy = "wait", nodes: int = 2) -> None:
        super().__init__(Scenario(3, nodes, faults, alone=alone, patience=5.0))
        self.rounds: dict[float, list[int]] = {}
        self.states: dict[float, set[bytes]] = {}
        self.told: list[Alone | InCompany] = []

    def look_at(self, *moments: float) -> "Watched":
        for moment in moments:
            self.at(moment, self._look)
        return self

    def _look(self) -> None:
        nodes = list(self.nodes.values())
        self.rounds[self.now] = [node.member.round for node in nodes]
        self.states[self.now] = {node.member.state for node in nodes}

    def went_well(self) -> "Watched":
        honest = self.oracle.noticed

        def noticed(node: SimNode, notice: object) -> None:
            if node.number == 0 and isinstance(notice, Alone | InCompany):
                self.told.append(notice)
            honest(node, notice)

        self.oracle.noticed = noticed  # type: ignore[method-assign]
        assert not self.run().violations
        return self


AFTER, LATER = CUT + 5.0, CUT + GONE - 1.0


@pytest.mark.parametrize("quiet", [False, True])
def test_two_that_are_cut_off_for_twenty_rounds_keep_what_they_agreed_on(quiet: bool) -> None:
    cut = (CUT, "split", (1,), GONE, quiet)
    swarm = Watched(cut).look_at(AFTER, LATER).went_well()
    assert swarm.rounds[AFTER] == swarm.rounds[LATER]
    assert min(swarm.rounds[LATER]) > 1
    assert len(swarm.states[LATER]) == 1, "neither has drifted"
    first, last = swarm.told[0], swarm.told[-1]
    assert isinstance(first, Alone)
    assert (first.rounds, first.waits) == (0, True)
    assert isinstance(last, InCompany)
    assert GONE / 2 < last.seconds < GONE + 15


def test_who_was_told_to_go_on_counts_the_rounds_it_makes_alone() -> None:
    swarm = Watched((CUT, "split", (1,), GONE, False), alone="go-on").look_at(AFTER, LATER).went_well()
    assert min(swarm.rounds[LATER]) > max(swarm.rounds[AFTER]) + 8
    assert len(swarm.states[LATER]) == 2
    said = [each for each in swarm.told if isinstance(each, Alone)]
    assert not any(each.waits for each in said)
    assert isinstance(swarm.told[-1], InCompany)
    assert swarm.told[-1].rounds > 8


def test_who_waits_still_waits_after_a_restart() -> None:
    gone, again = (CUT, "crash", 1, 0, False, GONE), (CUT + 10.0, "crash", 0, 0, False, 1.0)
    swarm = Watched(gone, again).look_at(AFTER, LATER).went_well()
    assert swarm.rounds[AFTER][0] == swarm.rounds[LATER][0]


def test_the_larger_side_of_a_split_goes_on_and_the_single_one_waits() -> None:
    swarm = Watched((CUT, "split", (2,), GONE, False), nodes=3).look_at(AFTER, LATER).went_well()
    (one, two, single), (_, _, before) = swarm.rounds[LATER], swarm.rounds[AFTER]
    assert single == before
    assert min(one, two) > single + 8


@pytest.mark.parametrize(("alone", "goes_on"), [("wait", False), ("wait-for-lost", True), ("go-on", True)])
def test_after_a_goodbye_only_the_lost_are_waited_for_where_that_is_wanted(
    alone: Policy, goes_on: bool
) -> None:
    swarm = Watched((CUT, "leave", 1, GONE), alone=alone).look_at(AFTER, LATER).went_well()
    assert (swarm.rounds[LATER][0] > swarm.rounds[AFTER][0] + 5) is goes_on


def test_who_never_had_company_trains_on() -> None:
    swarm = Sim(Scenario(3, 2, starts=(0.0, 40.0)))
    rounds: list[int] = []
    swarm.at(39.0, lambda: rounds.append(next(iter(swarm.nodes.values())).member.round))
    assert not swarm.run().violations
    assert rounds[0] > 5


def test_one_says_that_it_is_alone_at_once_and_then_less_and_less_often() -> None:
    company = Company("wait")
    company.note_state(("me", "other"), "me", is_fetched=False)  # type: ignore[arg-type]
    said = [now for now in range(1000) if company.look(0, 7, float(now))]
    assert said == [0, 60, 120, 240, 480, 960]
