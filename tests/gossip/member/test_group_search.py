"""GroupSearch: what a node learns of how long others take."""

import random

import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.admission import TARDY
from shoal.gossip.admission.newcomer_waits import MOST, SHARE
from shoal.gossip.events import PeerFound, PeerLost, Send
from shoal.gossip.group import Group
from shoal.gossip.matchmaking.matchmaking import Matchmaking
from shoal.gossip.matchmaking.proposals import commit_of
from shoal.gossip.matchmaking.search import State
from shoal.gossip.member.commands import Attach, NewState
from shoal.gossip.member.group_search import LATE, SILENT, GroupSearch
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.membership.colleagues import Acquaintance
from shoal.gossip.messages import Accept, Commit, Propose, Ready
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id
from shoal.gossip.scope import CIRCUITS

ME, A, B = (PeerId(name) for name in ("me", "a", "b"))
SPEC = RunSpec(method="m", task="t", tensors=(TensorSpec("w", "float32", (4,)),))


def seeker() -> GroupSearch:
    """Return the searches of a node that is linked to both others, and waits a second for an answer."""
    member = Member(ME, MemberConfig(), random.Random(1), 1)
    member.handle(Attach(run_id(SPEC), SPEC, True), 0.0)
    member.handle(NewState(5, b"s" * 32, b"p" * 32, memoryview(b"")), 0.0)
    member.table.connected |= {A, B}
    for _ in range(6):
        member.group_search.answer_wait.observe(0.5)
    return member.group_search


def ended(one: GroupSearch, members: tuple[PeerId, ...]) -> Matchmaking:
    """Return a search that ended at once, in a group of these; all were ready."""
    view = one._view
    search = Matchmaking(ME, view.run, view.round, view.base, one._config(), 7, view.reach)
    search.ready |= dict.fromkeys((A, B), Ready(view.round, view.base))
    search.group = Group(b"g" * 16, view.round, members, (1,) * len(members))
    search.answered_in = 0.5
    return search


def test_who_stays_silent_is_waited_for_longer_until_nobody_is_left_out() -> None:
    one = seeker()
    missed = ended(one, (ME, A))
    missed.silent = {B}
    one.search = missed
    one.learn(0.0, 0.0)
    assert one.answer_wait.seconds() == 2.0
    one.search = ended(one, (ME, A))
    one.learn(0.0, 1.0)
    assert one.answer_wait.seconds() == 2.0, (
        "another convener left it out: that the two are fast says nothing"
    )
    one.search = ended(one, (ME, A, B))
    one.learn(0.0, 2.0)
    assert one.answer_wait.seconds() == 1.0


@pytest.mark.parametrize("is_with_us", [False, True])
def test_a_convener_that_we_did_not_wait_for_is_waited_for_longer(is_with_us: bool) -> None:
    one = seeker()
    search = ended(one, (ME, A, B) if is_with_us else (ME, A))
    search.turns.passed = {B}
    one.search = search
    one.learn(0.0, 0.0)
    assert one.answer_wait.seconds() == (1.0 if is_with_us else 2.0)


def offered_by(convener: PeerId) -> GroupSearch:
    """Return a node that is promised to a convener, and heard nothing more of it."""
    one = seeker()
    view = one._view
    one.new_round(0.0)
    for peer in (A, B):
        one.ready(peer, Ready(view.round, view.base), 0.0)
    one.begin((), 0.0)
    assert one.search is not None
    one.search.turns.passed |= {ME, A, B} - {convener}
    members = tuple(sorted((ME, A, B)))
    one.search._offering, one.search.state = None, State.WAITING
    offer = Propose(view.round, view.base, 0, 5, members, (1, 1, 1))
    (accept, *_) = one.handle(convener, offer, 0.1)
    assert isinstance(accept, Send)
    assert isinstance(accept.message, Accept)
    one.search.timer(one.search._fire_at)
    return one


def test_a_convener_that_had_our_word_and_says_nothing_convenes_nothing_for_twenty_rounds() -> None:
    one = offered_by(A)
    admission, round_ = one._view.admission, one._view.round
    one.new_round(3.0)
    assert not admission.named_faults.newest_first()
    one.end()
    for count in range(1, LATE + 1):
        assert not admission.mutes.at(round_)
        one._owing[A] = 0.1
        one.new_round(5.0)
        (fault,) = admission.named_faults.newest_first()
        assert (fault.peer, fault.reason, fault.count) == (A, SILENT, count)
    assert one._standing(5.0).muted == {A}


def test_a_convener_that_is_silent_in_every_round_owes_since_the_first() -> None:
    one = offered_by(A)
    search = one.search
    assert search is not None
    for second in range(1, 6):
        assert not one._view.admission.named_faults.newest_first()
        search.owing = {A: float(second)}  # it was silent again in this round
        one.search = search
        one.end()
        one.new_round(second + 0.2)
    (fault,) = one._view.admission.named_faults.newest_first()
    assert (fault.peer, fault.reason) == (A, SILENT)


def test_a_convener_whose_commit_comes_in_the_next_round_was_not_silent() -> None:
    one = offered_by(A)
    assert one.search is not None
    offer = one.search._proposal
    assert offer is not None
    one.end()
    one._view.take_state(offer.round + 1, b"n" * 32, b"s" * 32)
    one.new_round(1.0)
    one.handle(A, commit_of(offer, A), 1.1)
    one.new_round(9.0)
    assert not one._view.admission.named_faults.newest_first()


def test_a_convener_whose_link_is_gone_had_a_reason() -> None:
    one = offered_by(A)
    one.lost(A, 1.0)
    one.end()
    one.new_round(9.0)
    assert not one._view.admission.mutes.at(one._view.round)


def test_a_convener_that_was_muted_before_its_link_was_found_dead_is_excused_once() -> None:
    one = offered_by(A)
    one._view.admission.mutes.add(A, one._view.round)
    one.lost(A, 6.0)
    assert not one._view.admission.mutes.at(one._view.round)


def test_a_convener_that_commits_late_owes_nothing() -> None:
    one = offered_by(A)
    view = one._view
    one.handle(A, Commit(view.round, view.base, 1, 5, A, (A, B), (1, 1)), 2.0)
    one.end()
    one.new_round(9.0)
    assert not view.admission.mutes.at(view.round)


def test_peers_linked_since_before_the_round_stand_in_for_colleagues() -> None:
    one = seeker()
    one.new_round(0.0)
    one._view.table.connected.add(PeerId("late"))
    assert one._standing(0.0).supporters == {A, B}
    one._view.colleagues.restore([Acquaintance(B, 100, 1e6)])
    assert one._standing(0.0).supporters == {B}


def test_newcomers_that_leave_us_waiting_are_not_waited_for_and_get_no_seat_for_a_while() -> None:
    one = seeker()
    view, newcomer = one._view, B
    view.colleagues.restore([Acquaintance(A, 100, 1e6)])
    one.search = ended(one, (ME, A))
    one.search.tardy = {newcomer}
    wait = one.answer_wait.seconds()
    one.learn(0.0, 0.0)
    (fault,) = view.admission.named_faults.newest_first()
    assert (fault.peer, fault.reason, fault.count) == (newcomer, TARDY, 1)
    assert one.answer_wait.seconds() == wait, "nobody waits longer for the others"
    view.unresponsive.clear()
    assert newcomer not in one.expected(0.0)
    one.early = {peer: (Ready(view.round, view.base), 9.0) for peer in (A, newcomer)}
    one.begin((), 0.0)
    assert one.search is not None
    assert one.search._seat([ME, A, newcomer]) == ((ME, A), frozenset())


def test_colleagues_that_leave_us_waiting_are_no_newcomers() -> None:
    one = seeker()
    one._view.colleagues.restore([Acquaintance(A, 100, 1e6), Acquaintance(B, 100, 1e6)])
    for _ in range(2 * LATE):
        one.search = ended(one, (ME, A))
        one.search.silent = {B}
        one.learn(0.0, 0.0)
    assert not one._view.admission.named_faults.newest_first()


def test_a_run_is_older_than_our_part_in_it_only_where_it_went_on_without_us() -> None:
    member = Member(ME, MemberConfig(colleague_rounds=3), random.Random(1), 1)
    member.handle(Attach(run_id(SPEC), SPEC, True), 0.0)
    said = []
    for round_, is_fetched in ((0, False), (1, False), (4, False), (4, True), (5, False)):
        member.view.take_state(round_, bytes([round_ + 1]) * 32, b"p" * 32)
        member.group_search.new_round(1.0, is_fetched=is_fetched)
        said.append(member.group_search._standing(1.0).is_run_older)
    # Two rounds make no colleague in this run, whoever was there.
    assert said == [False, False, True, True, True]


def test_newcomers_count_to_the_prefix_at_which_we_see_them_and_colleagues_to_none() -> None:
    member = Member(ME, MemberConfig(), random.Random(1), 1)
    known = (Acquaintance(A, 20, 600.0, 8),)
    member.handle(Attach(run_id(SPEC), SPEC, True, True, known), 0.0)
    lan, there, six, hop = (PeerId(name) for name in ("lan", "there", "six", "hop"))
    hosts = {A: "8.8.8.9", B: "8.8.8.8", there: "8.8.8.200", lan: "192.168.1.9", six: "2600:1:2:3::4"}
    for peer, host in hosts.items():
        member.handle(PeerFound(peer, host=host), 0.1)
    member.handle(PeerFound(hop, link="relayed"), 0.1)
    prefixes = member.group_search._standing(0.2).prefixes
    assert prefixes == {B: "8.8.8.0/24", there: "8.8.8.0/24", six: "2600:1:2::/48", hop: CIRCUITS}
    member.handle(PeerFound(hop, host="8.8.4.4"), 0.3)
    member.handle(PeerLost(six), 0.3)
    prefixes = member.group_search._standing(0.4).prefixes
    assert prefixes[hop] == "8.8.4.0/24", "a direct link tells more than a circuit"
    assert six not in prefixes


def test_a_node_that_waited_for_newcomers_for_long_waits_for_none_until_its_time_has_come_back() -> None:
    one = seeker()
    view = one._view
    view.colleagues.restore([Acquaintance(A, 100, 1e6)])
    assert one._ignored(0.0) == frozenset()
    view.admission.newcomer_waits.charge(MOST + 1.0, 0.0)
    assert one._ignored(0.0) == {B}
    assert one._standing(0.0).muted == {B}
    assert one._ignored(1.01 / SHARE) == frozenset()


def test_where_nobody_is_a_colleague_nobody_is_ignored() -> None:
    one = seeker()
    one._view.admission.newcomer_waits.charge(100.0, 0.0)
    assert one._ignored(0.0) == frozenset()
    assert one._config().newcomer_wait == float("inf")
