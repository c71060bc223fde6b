"""Strangers in a simulated swarm: what an outsider with many keys comes to, and a member that cuts all."""

from functools import cache
from typing import Any

import pytest
from sim.checks import CROWDED, IN_TURN, MEMORY
from sim.lineage_liars import state_of
from sim.network import Weather
from sim.node import SimNode
from sim.runs import SETTLED
from sim.world import Scenario, Sim

from shoal.crypto.keys import PeerId
from shoal.gossip.matchmaking.standing import Standing
from shoal.gossip.matchmaking.turns import Turns
from shoal.gossip.member.ask_queue import GIVES_NOTHING
from shoal.gossip.member.commands import Averaged, Event
from shoal.gossip.member.group_search import SILENT

OUTSIDER = 3


def outsider(lie: str) -> Sim:
    """Return a swarm of three that know each other well when a fourth comes and lies."""
    fault = (61.0, "lie", OUTSIDER, lie, 40.0)
    starts = (0.0, 0.0, 0.0, 60.0)
    return Sim(Scenario(1, 4, (fault,), starts=starts, trust=(3, 8.0), calm_rounds=5))


def states_held(sim: Sim) -> set[bytes]:
    """Return the states that the three held since the outsider came, after a run."""
    held: set[bytes] = set()
    names: list[PeerId] = sim.names[:OUTSIDER]
    look = sim.handled

    def handled(node: SimNode, event: Event) -> None:
        look(node, event)
        held.update(node.member.state for node in map(sim.nodes.get, names) if node is not None and node.life)

    sim.handled = handled  # type: ignore[method-assign]
    violations = sim.run().violations
    assert not violations, violations
    return held


@pytest.mark.parametrize("lie", ["lineage", "nan-state"])
def test_an_outsider_with_many_keys_moves_nobody_from_its_colleagues(lie: str) -> None:
    sim = outsider(lie)
    assert state_of(lie) not in states_held(sim)
    assert all(sim.nodes[name].member.view.colleagues.colleagues() for name in sim.names[:OUTSIDER])


def test_one_of_three_that_cuts_everybody_stops_no_round_and_is_shut_out() -> None:
    sim = Sim(Scenario(1, 3, ((10.0, "lie", 2, "cut", 50.0),)))
    averaged: dict[PeerId, list[int]] = {}
    tell = sim.oracle.noticed

    def noticed(node: SimNode, notice: Any) -> None:
        tell(node, notice)
        if isinstance(notice, Averaged) and 12.0 < sim.now < 60.0:
            averaged.setdefault(node.me, []).append(len(notice.exchanged.contributors))

    sim.oracle.noticed = noticed  # type: ignore[method-assign]
    assert not sim.run().violations
    honest = sim.names[:2]
    for name in honest:
        # A round takes them three seconds of work.
        assert len(averaged[name]) >= 12
        assert min(averaged[name]) >= 2
        assert sim.nodes[name].member.admission.counts["cut out too early"] == 3


@pytest.mark.parametrize("seed", range(1, 7))
def test_who_is_nearly_a_colleague_may_convene_before_who_missed_rounds(seed: int) -> None:
    # Colleagues come to be in the last minutes, and the third node has stood in fewer rounds than the others.
    pauses = [(at + seed * each, "trainer", 2, 150.0) for at, each in ((180.0, 6), (480.0, 18), (900.0, 0))]
    scenario = Scenario(seed, 3, (*pauses, (1200.0, "tired", 0, 1.0)), paces=(60.0,), alone="go-on")
    assert not Sim(scenario).run().violations


def test_who_claims_to_have_colleagues_in_a_young_run_convenes_no_earlier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = Scenario(1, 4, ((8.0, "lie", 3, "settled", 40.0),))
    assert not Sim(scenario).run().violations
    # The lie would be one, if it were believed.
    monkeypatch.setattr(Turns, "is_settled", lambda self, peer: self._ready[peer].has_colleagues)
    (violation,) = Sim(scenario).run().violations
    assert violation.invariant == IN_TURN


def test_a_colleague_that_seats_all_newcomers_of_a_house_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    count = SETTLED + 3
    starts = (0.0,) * SETTLED + (6.0,) * 3
    friends, house = tuple(range(SETTLED)), tuple(range(SETTLED, count))
    # Several lie, so that one of them convenes while all three ask for a seat.
    lies = tuple((8.0, "lie", number, "crowds", 60.0) for number in range(4))
    scenario = Scenario(1, count, lies, starts=starts, acquainted=friends, house=house, calm_rounds=5)
    assert not Sim(scenario).run().violations
    # The group would form, if nobody looked.
    monkeypatch.setattr(Standing, "are_spread", lambda self, newcomers: True)
    assert CROWDED in {violation.invariant for violation in Sim(scenario).run().violations}


def test_a_member_that_joins_groups_and_gives_nothing_is_named() -> None:
    sim = Sim(Scenario(1, 4, ((8.0, "lie", 3, "mute", 60.0),)))
    named: set[tuple[PeerId, PeerId]] = set()
    look = sim.handled

    def handled(node: SimNode, event: Event) -> None:
        look(node, event)
        faults = node.member.admission.named_faults.newest_first()
        named.update((node.me, each.peer) for each in faults if each.reason == GIVES_NOTHING)

    sim.handled = handled  # type: ignore[method-assign]
    assert not sim.run().violations
    assert named == {(name, sim.name(3)) for name in sim.names[:3]}


def test_a_liar_does_not_keep_the_dead_alive() -> None:
    sim = Sim(Scenario(1, 4, ((10.0, "lie", 3, "undead", 100.0), (20.0, "crash", 1, 0, False, 0.0))))
    known: set[tuple[PeerId, PeerId]] = set()
    look = sim.handled

    def handled(node: SimNode, event: Event) -> None:
        look(node, event)
        if sim.now > 20.0 + MEMORY and node.number != 3:
            known.update((node.me, peer) for peer, _ in node.member.table)

    sim.handled = handled  # type: ignore[method-assign]
    assert not sim.run().violations
    assert (sim.name(0), sim.name(2)) in known
    assert sim.name(1) not in {peer for _, peer in known}


@cache
def rounds_beside(lie: str) -> int:
    """Return how many rounds three colleagues make in some seconds beside a newcomer that lies."""
    faults = ((25.02, "lie", OUTSIDER, lie, 12.0),) if lie else ()
    starts = (0.0, 0.0, 0.0, 25.0 if lie else 1000.0)
    # A round takes a seventh of a second; whoever comes now is no colleague before the end.
    quick = Weather(latency=0.001)
    sim = Sim(
        Scenario(1, 4, faults, starts=starts, trust=(20, 24.0), paces=(0.1,), steps=(0.01,), weather=quick)
    )
    made: list[int] = []
    for when in (26.0, 37.0):
        sim.at(when, lambda: made.append(min(sim.nodes[name].member.round for name in sim.names[:OUTSIDER])))
    sim.at(37.5, setattr, sim, "is_over", True)
    assert not sim.run().violations
    return made[1] - made[0]


@pytest.mark.slow
@pytest.mark.parametrize("lie", ["unanswering", "never-ready", "mute", "promises", "late"])
def test_a_newcomer_that_falls_silent_leaves_the_others_four_fifths_of_their_rounds(lie: str) -> None:
    assert rounds_beside(lie) >= 0.8 * rounds_beside("")


def test_a_colleague_that_offers_groups_and_falls_silent_is_muted_with_the_reason() -> None:
    # A round takes less than the four seconds within which a convener has to say something.
    fault = (5.0, "lie", 3, "uncommitting", 60.0)
    quick = Weather(latency=0.001)
    sim = Sim(
        Scenario(1, 4, (fault,), trust=(3, 2.0), calm_rounds=5, paces=(0.1,), steps=(0.01,), weather=quick)
    )
    liar, muted = sim.name(3), dict[PeerId, list[str]]()

    def look() -> None:
        for name in sim.names[:3]:
            admission = sim.nodes[name].member.admission
            assert liar in sim.nodes[name].member.view.colleagues.colleagues()
            if liar in admission.mutes.at(sim.nodes[name].member.round):
                faults = admission.named_faults.newest_first()
                muted[name] = [each.reason for each in faults if each.peer == liar]

    for at in range(20, 45):
        sim.at(float(at), look)
    sim.at(45.0, setattr, sim, "is_over", True)
    assert not sim.run().violations
    assert muted.keys() == set(sim.names[:3])
    assert all(SILENT in reasons for reasons in muted.values())
