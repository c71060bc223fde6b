"""Standing: whom a node waits for, whom it believes, and when it is behind."""

from typing import Any

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.membership.swarm_view import DOUBT, NO_BASE, Phase, Standing
from shoal.gossip.messages import Presence, Ready, Record
from shoal.gossip.run_spec import RunSpec, TensorSpec

ME, A, B, C = (PeerId(name) for name in ("me", "a", "b", "c"))
SPEC = RunSpec(method="m", task="t", tensors=(TensorSpec("w", "float32", (4,)),), group_size=3)
NOW, BEFORE, NEXT = b"n" * 32, b"b" * 32, b"x" * 32


def standing(*, mergeable: bool = False) -> Standing:
    """Return a node that works on round 5, among nobody."""
    at = Standing(ME, 12.0)
    at.run, at.spec, at.mergeable = b"run", SPEC, mergeable
    at.phase, at.round, at.state, at.previous, at.has_made = Phase.WORKING, 5, NOW, BEFORE, True
    return at


def meet(at: Standing, peer: PeerId, round_: int = 5, state: bytes = NOW, **changes: Any) -> None:
    """Let the node be linked to a peer that says this of itself."""
    plain = Presence(b"run", "run", round_, state, b"", "working", 12.0, (), has_made=True)
    known = at.table.get(peer)
    sequence = known.record.sequence + 1 if known is not None else 1
    at.table.connected.add(peer)
    at.table.update(Record(peer, sequence, msgspec.structs.replace(plain, **changes)), 0.0, 0.0)


def test_who_works_at_our_state_is_waited_for() -> None:
    at = standing()
    meet(at, A)
    meet(at, B, phase="finished")
    meet(at, C, run=b"another")
    assert at.expected(0.0) == {A}


def test_who_has_no_link_to_us_is_not_waited_for() -> None:
    at = standing()
    meet(at, A)
    at.table.connected.clear()
    assert not at.expected(0.0)


def test_a_link_on_which_somebody_fell_silent_is_not_counted_on() -> None:
    at = standing()
    meet(at, A)
    meet(at, B)
    at.late.add(B)
    assert at.reach == {A}


def test_who_works_and_is_not_reached_is_counted_also_when_its_link_has_just_ended() -> None:
    at = standing()
    at.spec = msgspec.structs.replace(SPEC, group_size=4)
    meet(at, A)
    meet(at, B)
    meet(at, C, phase="finished")
    assert at.unreached(0.0) == 0
    at.late.add(A)
    assert at.unreached(0.0) == 1
    at.table.connected.discard(B)
    assert at.unreached(0.0) == 2
    at.table.forget(B, 1.0)
    assert (at.unreached(12.9), at.unreached(13.0)) == (2, 1)


def test_where_the_others_are_several_groups_nobody_is_counted_as_not_reached() -> None:
    at = standing()
    for peer in (A, B, C):
        meet(at, peer)
    at.table.connected.clear()
    assert at.unreached(0.0) == 0


def test_who_is_on_its_way_from_our_last_state_is_waited_for_also_while_it_fetches() -> None:
    at = standing()
    meet(at, A, 4, BEFORE)
    meet(at, B, 4, BEFORE, phase="syncing")
    meet(at, C, 3, b"o" * 32, phase="syncing")
    assert at.expected(0.0) == {A, B}


def test_who_was_missed_is_not_waited_for_until_something_comes_from_it() -> None:
    at = standing()
    meet(at, A)
    at.late.add(A)
    assert not at.expected(0.0)


def test_who_broke_the_protocol_is_left_out_for_longer_every_time() -> None:
    at = standing()
    meet(at, A)
    at.ban(A, 0.0)
    assert not at.expected(DOUBT - 0.1)
    assert at.expected(DOUBT)
    at.ban(A, 10.0)
    assert at.is_banned(A, 10.0 + 2 * DOUBT - 0.1)


def test_who_is_lost_in_exchanges_in_a_row_is_waited_for_less_often() -> None:
    at = standing()
    at.note_round((ME, A), {A})
    at.round = 6
    meet(at, A, 6)
    assert at.expected(0.0)
    at.note_round((ME, A), {A})
    for at.round in (7, 8):
        meet(at, A, at.round)
        assert not at.expected(0.0)
    at.round = 9
    meet(at, A, 9)
    assert at.expected(0.0)


def test_who_was_lost_again_and_again_is_waited_for_over_a_new_link() -> None:
    at = standing()
    for _ in range(3):
        at.note_round((ME, A), {A})
    meet(at, A)
    assert not at.expected(0.0)
    at.note_link(A)
    assert at.expected(0.0) == {A}


def test_who_is_lost_again_and_again_is_waited_for_where_the_quorum_needs_it() -> None:
    at = standing()
    at.spec = msgspec.structs.replace(SPEC, quorum=2)
    for _ in range(3):
        at.note_round((ME, A), {A})
    meet(at, A)
    assert at.expected(0.0) == {A}
    meet(at, B)
    assert at.expected(0.0) == {B}


def test_who_lags_is_behind_a_swarm_of_its_lineage() -> None:
    at = standing()
    for peer in (A, B):
        meet(at, peer, 6, NEXT, previous=NOW)
    target = at.ahead(0.0)
    assert target is not None
    assert (target.round, target.state, target.holders) == (6, NEXT, (A, B))


def test_equal_bytes_in_a_later_round_are_ahead_too() -> None:
    at = standing()
    for peer in (A, B):
        meet(at, peer, 9, NOW, previous=NOW)
    assert at.ahead(0.0) is not None


def test_among_those_that_hold_what_we_hold_nobody_is_behind() -> None:
    at = standing()
    for peer in (A, B):
        meet(at, peer)
    assert at.ahead(0.0) is None


def test_another_lineage_of_the_many_is_gone_over_to() -> None:
    at = standing()
    for peer in (A, B):
        meet(at, peer, 5, b"other" * 4, previous=b"elsewhere")
    target = at.ahead(0.0)
    assert target is not None
    assert not target.includes_us


def test_those_who_made_our_state_with_us_count_as_having_it_before_they_say_so() -> None:
    """Four of six, started again, finish a round; two others are two rounds ahead, on a line of their own."""
    at = standing()
    for peer in (A, B, C):
        meet(at, peer, 4, BEFORE, has_made=False)
    for peer in (PeerId("d"), PeerId("e")):
        meet(at, peer, 7, b"o" * 32, previous=b"p" * 32)
    behind = at.ahead(0.0)
    assert behind is not None
    assert behind.round == 7
    at.note_round((ME, A, B, C), set())
    assert at.ahead(0.0) is None
    # Who was lost on the way is not counted, nor who says that it is elsewhere.
    at.note_round((ME, A, B, C), {B, C})
    meet(at, A, 7, b"o" * 32, previous=b"p" * 32)
    assert at.ahead(0.0) is not None


def test_in_the_middle_of_an_exchange_nobody_looks_elsewhere() -> None:
    at = standing()
    for peer in (A, B):
        meet(at, peer, 6, NEXT, previous=NOW)
    at.phase = Phase.EXCHANGING
    assert at.ahead(0.0) is None


def test_who_did_not_give_the_state_it_claims_is_not_believed_for_a_while() -> None:
    at = standing()
    meet(at, A, 6, NEXT, previous=NOW)
    at.doubt(A, 0.0)
    assert at.ahead(0.0) is None
    assert at.ahead(DOUBT) is not None
    at.doubt(A, 0.0)
    at.trust(A)
    assert at.ahead(0.0) is not None


def test_states_mix_only_where_means_of_them_make_sense_and_there_are_several_groups() -> None:
    for mergeable, peers, mixes in ((True, 3, True), (True, 2, False), (False, 3, False)):
        at = standing(mergeable=mergeable)
        for peer in (A, B, C)[:peers]:
            meet(at, peer, 5, peer.encode())
        assert at.is_mixing() is mixes


def test_where_states_mix_others_of_our_round_are_waited_for_whatever_their_state() -> None:
    at = standing(mergeable=True)
    meet(at, A, 5, b"1")
    meet(at, B, 5, b"2")
    meet(at, C, 4, b"3")
    assert at.expected(0.0) == {A, B}
    assert at.ahead(0.0) is None


def test_everyone_in_a_group_starts_from_one_state_unless_states_may_mix() -> None:
    assert standing().base == NOW
    assert standing(mergeable=True).base == NO_BASE
    assert standing().is_mine(Ready(5, NOW))
    assert not standing().is_mine(Ready(5, NEXT))
    assert not standing().is_mine(Ready(6, NOW))


def test_of_ourselves_we_say_that_we_work_whatever_step_of_a_round_it_is() -> None:
    at = standing()
    for phase in (Phase.WORKING, Phase.SEEKING, Phase.EXCHANGING, Phase.APPLYING):
        at.phase = phase
        assert at.presence().phase == "working"


PAIRWISE = msgspec.structs.replace(SPEC, exchange="pairwise", rounds=7)


def test_where_all_average_pairwise_who_is_one_round_behind_is_waited_for_and_at_the_end_everyone() -> None:
    at = standing(mergeable=True)
    at.spec = PAIRWISE
    meet(at, A, 5, b"1")
    meet(at, B, 4, b"2")
    meet(at, C, 3, b"3")
    assert at.expected(0.0) == {A, B}
    at.round = 6
    assert at.expected(0.0) == {A, B, C}


def test_nothing_is_given_to_who_averages_what_all_hold_at_the_end() -> None:
    at = standing(mergeable=True)
    at.spec = PAIRWISE
    meet(at, A, 5, b"1")
    meet(at, B, 6, b"2")
    assert at.takers(0.0) == {A}


def test_who_is_done_does_not_go_back_to_a_round_of_others_but_waits_for_them() -> None:
    at = standing(mergeable=True)
    at.spec, at.phase, at.round = PAIRWISE, Phase.FINISHED, 7
    for peer in (A, B):
        meet(at, peer, 5, b"1")
    assert at.ahead(0.0) is None
    for peer in (A, B):
        meet(at, peer, 7, b"2", phase="finished")
    target = at.ahead(0.0)
    assert target is not None
    assert (target.round, target.state) == (7, b"2")


def test_who_has_another_outcome_of_a_round_waits_while_somebody_changes_over() -> None:
    at = standing()
    meet(at, A, state=NEXT, previous=BEFORE)
    meet(at, B, state=NEXT, previous=BEFORE, phase="syncing")
    assert at.ahead(0.0) is None
    meet(at, B, state=NEXT, previous=BEFORE)
    target = at.ahead(0.0)
    assert target is not None
    assert target.state == NEXT


def test_who_is_new_here_holds_up_nobody_that_chooses_between_two_outcomes() -> None:
    at = standing()
    for peer in (A, B):
        meet(at, peer, state=NEXT, previous=BEFORE)
    meet(at, C, state=NOW, previous=BEFORE, phase="syncing", has_made=False)
    assert at.ahead(0.0) is not None


def test_after_the_last_round_of_several_groups_those_too_few_to_make_it_fetch_it() -> None:
    at = standing(mergeable=True)
    at.spec = msgspec.structs.replace(SPEC, group_size=2, quorum=3, rounds=6)
    meet(at, A, state=BEFORE)
    for peer in (B, C, PeerId("d")):
        meet(at, peer, round_=6, state=NEXT, previous=NOW, phase="finished")
    assert at.is_mixing()
    assert at.expected(0.0) == {A}
    behind = at.ahead(0.0)
    assert behind is not None
    assert (behind.round, behind.state) == (6, NEXT)

    at.spec = msgspec.structs.replace(at.spec, quorum=2)  # enough to make it
    assert at.ahead(0.0) is None
    at.spec = msgspec.structs.replace(at.spec, quorum=3, rounds=7)  # the others go on, two rounds ahead soon
    assert at.ahead(0.0) is None
