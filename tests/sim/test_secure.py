"""Secure runs in virtual time: whoever vanishes or lies, and what a planted bug does to them."""

from collections.abc import Callable, Mapping
from typing import Final

import pytest
from sim.secure import LEFT, ONE_LIST, OPENED, SHARES, secure_scenario
from sim.world import Scenario, Sim

from shoal.crypto import masking
from shoal.gossip.averaging.secure.doubts import Doubts
from shoal.gossip.averaging.secure.integer_grid import Dice, Grid, Words
from shoal.gossip.averaging.secure.masked_sum import MaskedSum
from shoal.gossip.events import Effects, Vector
from shoal.gossip.member.ask_queue import VOIDS

SEEDS: Final = 40


def violations(scenario: Scenario) -> set[str]:
    return {each.invariant for each in Sim(scenario).run().violations}


def test_five_peers_finish_every_round() -> None:
    result = Sim(Scenario(1, 5, secure=True, calm_rounds=5)).run()
    assert not result.violations
    assert result.rounds >= 5
    assert result.counts["Averaged"] >= 25


def test_no_invariant_is_violated_by_the_first_seeds() -> None:
    # In 125 two crash while they tell whose shares came.
    for seed in (0, 1, 125):
        assert not violations(secure_scenario(seed)), f"seed {seed}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_invariant_is_violated_by_more_seeds() -> None:
    failed = {seed: violations(secure_scenario(seed)) for seed in range(2, SEEDS)}
    assert not {seed: found for seed, found in failed.items() if found}


@pytest.mark.parametrize("lie", ["residues", "withholds", "two-lists", "deaf"])
def test_a_liar_stops_no_round_for_good_and_opens_nothing(lie: str) -> None:
    scenario = Scenario(3, 5, ((4.0, "lie", 2, lie, 15.0),), secure=True, calm_rounds=3)
    assert not violations(scenario)


def test_one_that_voids_every_sum_neither_stops_the_run_nor_stays_unnamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = Scenario(3, 4, ((1.0, "lie", 2, "residues", 60.0),), secure=True, calm_rounds=1)
    sim = Sim(scenario)
    result = sim.run()
    assert not result.violations
    named = [
        fault.peer
        for node in sim.nodes.values()
        if node.member is not None
        for fault in node.member.admission.named_faults.newest_first()
        if fault.reason == VOIDS
    ]
    assert sim.names[2] in named
    monkeypatch.setattr(Doubts, "unwanted", lambda self, group: frozenset())
    assert result.rounds >= 2 * Sim(scenario).run().rounds


def _opens_with_two(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(masking, "threshold_of", lambda members: 2)


def _takes_its_own_list(patch: pytest.MonkeyPatch) -> None:
    honest = MaskedSum._consented

    def consented(self: MaskedSum, bodies: Mapping[int, bytes], now: float) -> Effects:
        if self._mine % 2 and len(self._lists[0]) > 3:
            self._lists[0] = self._lists[0] - {max(self._lists[0])}
        return honest(self, bodies, now)

    patch.setattr(MaskedSum, "_consented", consented)


def _writes_before_it_looks(patch: pytest.MonkeyPatch) -> None:
    honest = MaskedSum._refuse

    def refuse(self: MaskedSum, why: str) -> Effects:
        self._vector[:] = 0
        return honest(self, why)

    patch.setattr(MaskedSum, "_refuse", refuse)


def _forgets_weights(patch: pytest.MonkeyPatch) -> None:
    honest = Grid.encode

    def encode(self: Grid, numbers: Vector, factor: int, dice: Dice, base: Vector | None = None) -> Words:
        return honest(self, numbers, 1, dice, base)

    patch.setattr(Grid, "encode", encode)


@pytest.mark.parametrize(
    ("bug", "caught_by", "lies"),
    [
        (_opens_with_two, SHARES, ("withholds", "withholds")),
        (_takes_its_own_list, ONE_LIST, ()),
        (_writes_before_it_looks, LEFT, ("residues",)),
        (_forgets_weights, OPENED, ()),
    ],
)
def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None],
    caught_by: str,
    lies: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bug(monkeypatch)
    faults = tuple((4.0, "lie", 2 + number, lie, 15.0) for number, lie in enumerate(lies))
    found = violations(Scenario(3, 5, faults, secure=True, calm_rounds=3))
    assert caught_by in found
