"""SwarmView: whom a node waits for, whom it believes, and when it is behind."""

from typing import Any

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.marks import SHORTEST_MARK
from shoal.gossip.lifecycle import Lifecycle, Phase
from shoal.gossip.membership.swarm_view import NO_BASE, SwarmView
from shoal.gossip.messages import Presence, Ready, Record
from shoal.gossip.run_spec import RunSpec, TensorSpec

ME, A, B, C = (PeerId(name) for name in ("me", "a", "b", "c"))
SPEC = RunSpec(method="m", task="t", tensors=(TensorSpec("w", "float32", (4,)),), group_size=3)
NOW, BEFORE, NEXT = b"n" * 32, b"b" * 32, b"x" * 32


def standing(*, mergeable: bool = False) -> SwarmView:
    """Return a node that works on round 5, among nobody."""
    view = SwarmView(ME, 12.0)
    view.run, view.spec, view.mergeable = b"run", SPEC, mergeable
    view.lifecycle, view.round, view.state, view.previous, view.has_finished_round = (
        Lifecycle(ME, Phase.WORKING),
        5,
        NOW,
        BEFORE,
        True,
    )
    return view


def meet(view: SwarmView, peer: PeerId, round_: int = 5, state: bytes = NOW, **changes: Any) -> None:
    """Let the node be linked to a peer that says this of itself."""
    plain = Presence(b"run", "run", round_, state, b"", "working", 12.0, (), has_finished_round=True)
    known = view.table.get(peer)
    sequence = known.record.sequence + 1 if known is not None else 1
    view.table.connected.add(peer)
    view.table.update(Record(peer, sequence, msgspec.structs.replace(plain, **changes)), 0.0, 0.0)


def test_who_works_at_our_state_is_waited_for() -> None:
    view = standing()
    meet(view, A)
    meet(view, B, phase="finished")
    meet(view, C, run=b"another")
    assert view.expected(0.0) == {A}


def test_who_has_no_link_to_us_is_not_waited_for() -> None:
    view = standing()
    meet(view, A)
    view.table.connected.clear()
    assert not view.expected(0.0)


def test_a_link_on_which_somebody_fell_silent_is_not_counted_on() -> None:
    view = standing()
    meet(view, A)
    meet(view, B)
    view.unresponsive.add(B)
    assert view.reach == {A}


def test_who_works_and_is_not_reached_is_counted_also_when_its_link_has_just_ended() -> None:
    view = standing()
    view.spec = msgspec.structs.replace(SPEC, group_size=4)
    meet(view, A)
    meet(view, B)
    meet(view, C, phase="finished")
    assert view.unreached(0.0) == 0
    view.unresponsive.add(A)
    assert view.unreached(0.0) == 1
    view.table.connected.discard(B)
    assert view.unreached(0.0) == 2
    view.table.forget(B, 1.0)
    assert (view.unreached(12.9), view.unreached(13.0)) == (2, 1)


def test_where_the_others_are_several_groups_nobody_is_counted_as_not_reached() -> None:
    view = standing()
    for peer in (A, B, C):
        meet(view, peer)
    view.table.connected.clear()
    assert view.unreached(0.0) == 0


def test_who_is_on_its_way_from_our_last_state_is_waited_for_also_while_it_fetches() -> None:
    view = standing()
    meet(view, A, 4, BEFORE)
    meet(view, B, 4, BEFORE, phase="syncing")
    meet(view, C, 3, b"o" * 32, phase="syncing")
    assert view.expected(0.0) == {A, B}


def test_who_was_missed_is_not_waited_for_until_something_comes_from_it() -> None:
    view = standing()
    meet(view, A)
    view.unresponsive.add(A)
    assert not view.expected(0.0)


def test_who_broke_the_protocol_is_left_out_for_longer_every_time() -> None:
    view = standing()
    meet(view, A)
    view.admission.ban(A, 0.0)
    assert not view.expected(SHORTEST_MARK - 0.1)
    assert view.expected(SHORTEST_MARK)
    view.admission.ban(A, 10.0)
    assert not view.admission.may_group(A, 10.0 + 2 * SHORTEST_MARK - 0.1)


def test_who_is_lost_in_exchanges_in_a_row_is_waited_for_less_often() -> None:
    view = standing()
    view.note_round((ME, A), {A})
    view.round = 6
    meet(view, A, 6)
    assert view.expected(0.0)
    view.note_round((ME, A), {A})
    for view.round in (7, 8):
        meet(view, A, view.round)
        assert not view.expected(0.0)
    view.round = 9
    meet(view, A, 9)
    assert view.expected(0.0)


def test_who_was_lost_again_and_again_is_waited_for_over_a_new_link() -> None:
    view = standing()
    for _ in range(3):
        view.note_round((ME, A), {A})
    meet(view, A)
    assert not view.expected(0.0)
    view.link_up(A)
    assert view.expected(0.0) == {A}


def test_who_is_lost_again_and_again_is_waited_for_where_the_quorum_needs_it() -> None:
    view = standing()
    view.spec = msgspec.structs.replace(SPEC, quorum=2)
    for _ in range(3):
        view.note_round((ME, A), {A})
    meet(view, A)
    assert view.expected(0.0) == {A}
    meet(view, B)
    assert view.expected(0.0) == {B}


def test_who_lags_is_behind_a_swarm_of_its_lineage() -> None:
    view = standing()
    for peer in (A, B):
        meet(view, peer, 6, NEXT, previous=NOW)
    target = view.ahead(0.0)
    assert target is not None
    assert (target.round, target.state, target.holders) == (6, NEXT, (A, B))


def test_equal_bytes_in_a_later_round_are_ahead_too() -> None:
    view = standing()
    for peer in (A, B):
        meet(view, peer, 9, NOW, previous=NOW)
    assert view.ahead(0.0) is not None


def test_among_those_that_hold_what_we_hold_nobody_is_behind() -> None:
    view = standing()
    for peer in (A, B):
        meet(view, peer)
    assert view.ahead(0.0) is None


def test_another_lineage_of_the_many_is_gone_over_to() -> None:
    view = standing()
    for peer in (A, B):
        meet(view, peer, 5, b"other" * 4, previous=b"elsewhere")
    target = view.ahead(0.0)
    assert target is not None
    assert not target.includes_us


def test_those_who_made_our_state_with_us_count_as_having_it_before_they_say_so() -> None:
    """Four of six, started again, finish a round; two others are two rounds ahead, on a line of their own."""
    view = standing()
    for peer in (A, B, C):
        meet(view, peer, 4, BEFORE, has_finished_round=False)
    for peer in (PeerId("d"), PeerId("e")):
        meet(view, peer, 7, b"o" * 32, previous=b"p" * 32)
    behind = view.ahead(0.0)
    assert behind is not None
    assert behind.round == 7
    view.note_round((ME, A, B, C), set())
    assert view.ahead(0.0) is None
    # Who was lost on the way is not counted, nor who says that it is elsewhere.
    view.note_round((ME, A, B, C), {B, C})
    meet(view, A, 7, b"o" * 32, previous=b"p" * 32)
    assert view.ahead(0.0) is not None


def test_in_the_middle_of_an_exchange_nobody_looks_elsewhere() -> None:
    view = standing()
    for peer in (A, B):
        meet(view, peer, 6, NEXT, previous=NOW)
    view.lifecycle = Lifecycle(ME, Phase.EXCHANGING)
    assert view.ahead(0.0) is None


def test_who_did_not_give_the_state_it_claims_is_not_believed_for_a_while() -> None:
    view = standing()
    meet(view, A, 6, NEXT, previous=NOW)
    view.doubts.distrust(A, 0.0)
    assert view.ahead(0.0) is None
    assert view.ahead(SHORTEST_MARK) is not None
    view.doubts.distrust(A, 0.0)
    view.doubts.trust(A)
    assert view.ahead(0.0) is not None


def test_states_mix_only_where_means_of_them_make_sense_and_there_are_several_groups() -> None:
    for mergeable, peers, mixes in ((True, 3, True), (True, 2, False), (False, 3, False)):
        view = standing(mergeable=mergeable)
        for peer in (A, B, C)[:peers]:
            meet(view, peer, 5, peer.encode())
        assert view.states_differ() is mixes


def test_where_states_mix_others_of_our_round_are_waited_for_whatever_their_state() -> None:
    view = standing(mergeable=True)
    meet(view, A, 5, b"1")
    meet(view, B, 5, b"2")
    meet(view, C, 4, b"3")
    assert view.expected(0.0) == {A, B}
    assert view.ahead(0.0) is None


def test_everyone_in_a_group_starts_from_one_state_unless_states_may_mix() -> None:
    assert standing().base == NOW
    assert standing(mergeable=True).base == NO_BASE
    assert standing().is_mine(Ready(5, NOW))
    assert not standing().is_mine(Ready(5, NEXT))
    assert not standing().is_mine(Ready(6, NOW))


def test_of_ourselves_we_say_that_we_work_whatever_step_of_a_round_it_is() -> None:
    view = standing()
    for phase in (Phase.WORKING, Phase.SEEKING, Phase.EXCHANGING, Phase.APPLYING):
        view.lifecycle = Lifecycle(ME, phase)
        assert view.presence().phase == "working"


PAIRWISE = msgspec.structs.replace(SPEC, exchange="pairwise", rounds=7)


def test_where_all_average_pairwise_who_is_one_round_behind_is_waited_for_and_at_the_end_everyone() -> None:
    view = standing(mergeable=True)
    view.spec = PAIRWISE
    meet(view, A, 5, b"1")
    meet(view, B, 4, b"2")
    meet(view, C, 3, b"3")
    assert view.expected(0.0) == {A, B}
    view.round = 6
    assert view.expected(0.0) == {A, B, C}


def test_nothing_is_given_to_who_averages_what_all_hold_at_the_end() -> None:
    view = standing(mergeable=True)
    view.spec = PAIRWISE
    meet(view, A, 5, b"1")
    meet(view, B, 6, b"2")
    assert view.takers(0.0) == {A}


def test_who_is_done_does_not_go_back_to_a_round_of_others_but_waits_for_them() -> None:
    view = standing(mergeable=True)
    view.spec, view.lifecycle, view.round = PAIRWISE, Lifecycle(ME, Phase.FINISHED), 7
    for peer in (A, B):
        meet(view, peer, 5, b"1")
    assert view.ahead(0.0) is None
    for peer in (A, B):
        meet(view, peer, 7, b"2", phase="finished")
    target = view.ahead(0.0)
    assert target is not None
    assert (target.round, target.state) == (7, b"2")


def test_who_has_another_outcome_of_a_round_waits_while_somebody_changes_over() -> None:
    view = standing()
    meet(view, A, state=NEXT, previous=BEFORE)
    meet(view, B, state=NEXT, previous=BEFORE, phase="syncing")
    assert view.ahead(0.0) is None
    meet(view, B, state=NEXT, previous=BEFORE)
    target = view.ahead(0.0)
    assert target is not None
    assert target.state == NEXT


def test_who_is_new_here_holds_up_nobody_that_chooses_between_two_outcomes() -> None:
    view = standing()
    for peer in (A, B):
        meet(view, peer, state=NEXT, previous=BEFORE)
    meet(view, C, state=NOW, previous=BEFORE, phase="syncing", has_finished_round=False)
    assert view.ahead(0.0) is not None


def test_after_the_last_round_of_several_groups_those_too_few_to_make_it_fetch_it() -> None:
    view = standing(mergeable=True)
    view.spec = msgspec.structs.replace(SPEC, group_size=2, quorum=3, rounds=6)
    meet(view, A, state=BEFORE)
    for peer in (B, C, PeerId("d")):
        meet(view, peer, round_=6, state=NEXT, previous=NOW, phase="finished")
    assert view.states_differ()
    assert view.expected(0.0) == {A}
    behind = view.ahead(0.0)
    assert behind is not None
    assert (behind.round, behind.state) == (6, NEXT)

    view.spec = msgspec.structs.replace(view.spec, quorum=2)  # enough to make it
    assert view.ahead(0.0) is None
    view.spec = msgspec.structs.replace(
        view.spec, quorum=3, rounds=7
    )  # the others go on, two rounds ahead soon
    assert view.ahead(0.0) is None
