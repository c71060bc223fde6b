"""DialPlan: whom to dial and when, in plain calls; the dice always show the middle."""

from collections.abc import Iterable

import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Dial, Effects, SetTimer
from shoal.gossip.membership.dial_plan import (
    AT_ONCE,
    DIAL_PATIENCE,
    ENOUGH,
    MAX_ADDRESSES,
    MAX_ATTEMPTS,
    MAX_RETRY,
    NEW_AT_ONCE,
    DialPlan,
    peer_in,
)

ME = PeerId("me")


class Middle:
    """Dice that show no spread."""

    def random(self) -> float:
        return 0.5


def address(number: int) -> str:
    return f"/ip4/20.0.{number >> 8}.{number & 255}/tcp/4710/p2p/p{number}"


def hear(plan: DialPlan, number: int, now: float = 0.0) -> Effects:
    """Let a peer of its own name an address, so that none names many."""
    return plan.hear((address(number),), PeerId(f"teller {number}"), "", now)


def hear_all(plan: DialPlan, numbers: Iterable[int]) -> Effects:
    """Let as many peers name an address each; return what is dialled for all of it."""
    return [effect for number in numbers for effect in hear(plan, number)]


def dials(effects: Effects) -> list[str]:
    return [effect.address for effect in effects if isinstance(effect, Dial)]


def wakes_at(effects: Effects) -> float:
    return [effect.at for effect in effects if isinstance(effect, SetTimer)][-1]


def linked(count: int, known: int = 0) -> DialPlan:
    """Return a plan with so many links, and so many further addresses."""
    plan = DialPlan(ME, Middle())
    for number in range(count):
        plan.found(PeerId(f"p{number}"), "", 0.0)
    for number in range(count, count + known):
        hear(plan, number, 0.0)
    return plan


def test_an_address_is_dialled_at_once_and_only_once() -> None:
    plan = DialPlan(ME, Middle())
    assert dials(hear(plan, 1, 0.0)) == [address(1)]
    assert not dials(hear(plan, 1, 0.0))
    assert not dials(plan.plan(1.0))


def test_we_do_not_dial_ourselves() -> None:
    assert not dials(DialPlan(ME, Middle()).add("/ip4/20.0.0.1/tcp/4710/p2p/me", "dht", 0.0))


def test_our_own_address_that_somebody_gave_us_is_kept_with_the_reason_and_never_dialled() -> None:
    discovery = DialPlan(ME, Middle())
    ours = "/ip4/20.0.0.1/tcp/4710/p2p/me"
    assert dials(discovery.add(ours, "bootstrap", 0.0)) == []
    bare, name = "/ip4/20.0.0.1/tcp/4710", "/dns/all.example/tcp/1"
    for text in (bare, name):
        assert dials(discovery.add(text, "bootstrap", 0.0)) == [text]
        discovery.failed(text, "own address", 1.0)
    found = {text: (target.state, target.reason) for text, target in discovery.targets.items()}
    assert found[ours] == found[bare] == ("own", "own address")
    # A name may stand for many nodes.
    assert found[name] == ("failed", "own address")
    assert dials(discovery.plan(1e6)) == [name]


def test_a_failed_dial_is_tried_again_with_growing_pauses() -> None:
    plan = DialPlan(ME, Middle())
    plan.add(address(1), "bootstrap", 0.0)
    now, pauses = 0.0, []
    for _ in range(12):
        at = wakes_at(plan.failed(address(1), "refused", now))
        pauses.append(at - now)
        now = at
        assert dials(plan.plan(now)) == [address(1)]
    assert pauses[:3] == pytest.approx([1.0, 2.0, 4.0])
    assert max(pauses) == MAX_RETRY


def test_a_bootstrap_is_never_given_up_and_keeps_its_reason() -> None:
    plan = DialPlan(ME, Middle())
    plan.add(address(1), "bootstrap", 0.0)
    for _ in range(5 * MAX_ATTEMPTS):
        plan.failed(address(1), "timeout", 0.0)
    assert plan.targets[address(1)].reason == "timeout"


def test_a_learned_address_that_never_worked_is_forgotten_and_one_that_worked_is_not() -> None:
    plan = DialPlan(ME, Middle())
    for number in (1, 2):
        hear(plan, number, 0.0)
    plan.found(PeerId("p2"), address(2), 0.0)
    plan.lost(PeerId("p2"), 1.0)
    for _ in range(MAX_ATTEMPTS):
        plan.failed(address(1), "refused", 0.0)
        plan.failed(address(2), "refused", 0.0)
    assert list(plan.targets) == [address(2)]


def test_a_lost_peer_is_dialled_again_soon() -> None:
    plan = DialPlan(ME, Middle())
    hear(plan, 1, 0.0)
    plan.found(PeerId("p1"), address(1), 0.1)
    at = wakes_at(plan.lost(PeerId("p1"), 10.0))
    assert at == 10.5
    assert dials(plan.plan(at)) == [address(1)]


def test_a_dial_that_reports_nothing_counts_as_failed() -> None:
    plan = DialPlan(ME, Middle())
    hear(plan, 1, 0.0)
    plan.plan(DIAL_PATIENCE)
    assert plan.targets[address(1)].reason == "timeout"


def test_only_so_many_dials_are_under_way() -> None:
    plan = DialPlan(ME, Middle())
    assert len(dials(hear_all(plan, range(50)))) == AT_ONCE


def test_made_up_addresses_are_dialled_at_a_bounded_rate() -> None:
    plan = DialPlan(ME, Middle())
    seconds, tried = 100, 0
    hear_all(plan, range(300))
    for now in range(seconds):
        for target in [t for t in plan.targets.values() if t.state == "dialling"]:
            plan.failed(target.address, "refused", float(now))
            tried += 1
    assert NEW_AT_ONCE < tried <= NEW_AT_ONCE + 2 * seconds + AT_ONCE


def test_a_small_swarm_is_fully_linked() -> None:
    assert linked(ENOUGH - 1, known=1).seeks_links
    assert not linked(ENOUGH, known=5).seeks_links


def test_in_a_large_swarm_half_as_many_are_dialled_since_others_dial_us() -> None:
    plan = linked(ENOUGH // 2, known=3 * ENOUGH)
    assert not plan.seeks_links
    assert not dials(hear(plan, 999, 1.0))
    assert linked(ENOUGH // 2 - 1, known=3 * ENOUGH).seeks_links


def test_a_bootstrap_is_dialled_however_many_links_there_are() -> None:
    assert dials(linked(ENOUGH).add(address(999), "bootstrap", 0.0)) == [address(999)]


def test_with_links_enough_nothing_wakes_us() -> None:
    plan = linked(ENOUGH, known=10)
    assert wakes_at(plan.plan(5.0)) == float("inf")


def test_everyone_has_other_neighbours_since_the_lot_decides_among_equals() -> None:
    class Falling:
        value = 1.0

        def random(self) -> float:
            self.value -= 0.01
            return self.value

    plan = DialPlan(ME, Falling())
    former = [PeerId(f"former {number}") for number in range(ENOUGH)]
    for peer in former:
        plan.found(peer, "", 0.0)
    assert not dials(hear_all(plan, range(40)))
    found = [each for peer in former for each in dials(plan.lost(peer, 1.0))]
    assert found == [address(number) for number in range(39, 39 - AT_ONCE, -1)]


def test_memory_for_addresses_is_bounded_and_the_worst_makes_room() -> None:
    plan = DialPlan(ME, Middle())
    hear_all(plan, range(2 * MAX_ADDRESSES))
    assert len(plan.targets) == MAX_ADDRESSES
    plan.failed(address(3), "refused", 0.0)
    hear(plan, 5000, 0.0)
    assert address(3) not in plan.targets
    assert address(5000) in plan.targets


def test_a_peer_is_dialled_under_one_address_at_a_time() -> None:
    plan = DialPlan(ME, Middle())
    one, other = "/ip4/20.0.0.1/tcp/4710/p2p/p1", "/ip4/20.0.0.2/tcp/4710/p2p/p1"
    assert dials(plan.add_all((one, other), "peers", 0.0)) == [one]


@pytest.mark.parametrize(
    ("text", "peer"), [(address(1), "p1"), ("/ip4/20.0.0.1/tcp/4710", None), ("a/p2p/b/p2p-circuit", None)]
)
def test_the_peer_is_what_an_address_ends_in(text: str, peer: str | None) -> None:
    assert peer_in(text) == peer
