"""Colleagues: who becomes one, and what is remembered of peers."""

import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.events import PeerFound
from shoal.gossip.member.commands import AddAddress, RemoveAddress
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.membership.colleagues import MAX_KNOWN, Colleagues
from shoal.gossip.membership.dial_plan import DialPlan

ME, A, B = (PeerId(name) for name in ("me", "a", "b"))


def together(colleagues: Colleagues, *peers: PeerId, rounds: int, every: float, start: float = 0.0) -> None:
    for number in range(rounds):
        colleagues.note_round((ME, *peers), start + number * every)


@pytest.mark.parametrize(
    ("rounds", "every", "is_one"), [(20, 32.0, True), (19, 60.0, False), (20, 31.0, False), (500, 1.0, False)]
)
def test_a_colleague_stood_in_enough_rounds_over_a_long_enough_time(
    rounds: int, every: float, is_one: bool
) -> None:
    colleagues = Colleagues(ME)
    together(colleagues, A, rounds=rounds, every=every)
    assert (A in colleagues.colleagues()) is is_one
    assert colleagues.rounds_with(A) == rounds
    assert colleagues.rounds_with(B) == colleagues.rounds_with(ME) == 0


def test_what_was_kept_counts_after_a_restart_and_the_time_between_does_not() -> None:
    before = Colleagues(ME)
    together(before, A, rounds=20, every=30.0)
    together(before, B, rounds=30, every=30.0)
    after = Colleagues(ME)
    after.restore(before.known())
    assert after.colleagues() == {B}
    # The clock of the new process began anew.
    together(after, A, rounds=2, every=1e6, start=5.0)
    assert after.colleagues() == {A, B}
    assert [each.peer for each in after.known()] == [B, A]


def test_where_the_run_has_a_roster_its_members_are_the_colleagues() -> None:
    colleagues = Colleagues(ME, 1, 0.0)
    together(colleagues, A, rounds=1, every=1.0)
    colleagues.roster = frozenset({ME, B})
    assert colleagues.colleagues() == {B}


def test_passers_by_do_not_push_colleagues_out() -> None:
    colleagues = Colleagues(ME, 2, 0.0)
    together(colleagues, A, rounds=2, every=1.0)
    for number in range(2 * MAX_KNOWN):
        together(colleagues, PeerId(f"key {number}"), rounds=1, every=1.0)
    assert len(colleagues.known()) == MAX_KNOWN
    assert colleagues.colleagues() == {A}


class Dice:
    def random(self) -> float:
        return 0.5


def test_the_user_names_whom_he_gives_and_whoever_answers_there() -> None:
    member = Member(ME, MemberConfig(), Dice(), 1)
    member.handle(AddAddress(f"/ip4/192.0.2.1/tcp/1/p2p/{A}", "bootstrap"), 0.0)
    member.handle(AddAddress("/ip4/192.0.2.2/tcp/1", "bootstrap"), 0.0)
    member.handle(AddAddress("/ip4/192.0.2.3/tcp/1/p2p/c", "mdns"), 0.0)
    assert member.view.colleagues.named == {A}
    member.handle(PeerFound(B, "/ip4/192.0.2.2/tcp/1"), 1.0)
    member.handle(PeerFound(PeerId("c"), "/ip4/192.0.2.3/tcp/1/p2p/c"), 1.0)
    assert member.view.colleagues.named == {A, B}
    member.handle(RemoveAddress("/ip4/192.0.2.2/tcp/1"), 2.0)
    assert member.view.colleagues.named == {A}


def test_a_node_does_not_name_itself() -> None:
    plan = DialPlan(ME, Dice())
    plan.add(f"/ip4/192.0.2.1/tcp/1/p2p/{ME}", "bootstrap", 0.0)
    assert plan.named() == frozenset()
