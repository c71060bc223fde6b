"""Turns: who may convene, by the order of one node."""

from typing import Any

import msgspec
import pytest
from core_net import peers

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Effects, Send
from shoal.gossip.matchmaking.accepted import MAX_QUESTIONS, MAX_SAME
from shoal.gossip.matchmaking.matchmaking import (
    LEAVES_OUT,
    NOT_DERIVED,
    NOT_READY,
    OTHER_GROUP,
    OUT_OF_TURN,
    Matchmaking,
)
from shoal.gossip.matchmaking.proposals import named_by
from shoal.gossip.matchmaking.search import MatchmakingConfig, State
from shoal.gossip.matchmaking.standing import Standing, seated, seats
from shoal.gossip.matchmaking.turns import Turns, rank
from shoal.gossip.messages import (
    Accept,
    Commit,
    Decline,
    Propose,
    Ready,
    Shown,
    Signed,
    Unheard,
)
from shoal.gossip.scope import CIRCUITS

RUN, BASE, ROUND = b"r" * 32, b"b" * 32, 7
READY = Ready(ROUND, BASE)
SETTLED = Ready(ROUND, BASE, has_colleagues=True)


def in_order(count: int) -> list[PeerId]:
    """Return peers in the order of their hashes."""
    return sorted(peers(count), key=lambda peer: rank(RUN, ROUND, peer))


NAMES = in_order(6)


def core(
    me: PeerId,
    ready: dict[PeerId, Ready],
    standing: Standing,
    *,
    expected: tuple[PeerId, ...] = (),
    **changes: Any,
) -> Matchmaking:
    """Return a search in which these are ready, and one more is awaited."""
    config = MatchmakingConfig(ready_wait=4.0, answer_wait=1.0, patience=10.0, **changes)
    made = Matchmaking(me, RUN, ROUND, BASE, config, 99, set(NAMES), standing=standing)
    made.begin((*ready, *expected), list(ready.items()), 0.0)
    return made


def propose(names: list[PeerId], ballot: int = 0, shares: tuple[int, ...] = ()) -> Propose:
    return Propose(ROUND, BASE, ballot, 5, tuple(names), shares or (1,) * len(names))


def commit(names: list[PeerId], convener: PeerId, shares: tuple[int, ...] = (), **changes: Any) -> Commit:
    return Commit(ROUND, BASE, 0, 5, convener, tuple(names), shares or (1,) * len(names), **changes)


def said(effects: Effects) -> list[str]:
    return [type(effect.message).__name__ for effect in effects if isinstance(effect, Send)]


def dict_of(names: list[PeerId], word: Ready = READY) -> dict[PeerId, Ready]:
    return dict.fromkeys(names, word)


# --- the order ----------------------------------------------------------------------------------------


def places(standing: Standing, ready: dict[PeerId, Ready], me: PeerId = NAMES[0]) -> list[PeerId]:
    turns = Turns(me, RUN, ROUND, standing, ready)
    return sorted(ready, key=turns.place)


def test_colleagues_come_first_and_among_them_those_with_the_fewest_missing_links() -> None:
    ready = dict_of(NAMES[:5])
    ready[NAMES[3]] = Ready(ROUND, BASE, unreached=1)
    standing = Standing(colleagues=frozenset((NAMES[2], NAMES[3], NAMES[4])))
    assert places(standing, ready, NAMES[2]) == [NAMES[2], NAMES[4], NAMES[3], NAMES[0], NAMES[1]]


def test_what_a_stranger_says_of_its_links_changes_no_order_of_a_node_with_colleagues() -> None:
    ready = dict_of(NAMES[:4])
    ready[NAMES[1]] = Ready(ROUND, BASE, unreached=9)
    assert places(Standing(colleagues=frozenset(NAMES[3:4])), ready, NAMES[3]) == [
        NAMES[3],
        *NAMES[:3],
    ]


def test_a_newcomer_to_an_old_run_lets_those_convene_first_that_have_colleagues() -> None:
    ready = dict_of(NAMES[:4])
    ready[NAMES[2]] = ready[NAMES[3]] = SETTLED
    linked = Standing(linked_before=frozenset(NAMES[1:4]), is_run_older=True)
    assert places(linked, ready) == [NAMES[2], NAMES[3], NAMES[0], NAMES[1]]
    mine = Standing(colleagues=frozenset(NAMES[1:2]), is_run_older=True)
    assert places(mine, ready) == NAMES[:4], "a node with colleagues goes by no such word"


def settled(*names: PeerId) -> dict[PeerId, Ready]:
    """Return five that are ready, of whom these say that they have colleagues."""
    return {**dict_of(NAMES[:5]), **dict_of(list(names), SETTLED)}


LIAR = NAMES[4]


@pytest.mark.parametrize(
    ("standing", "ready"),
    [
        # In a young run nobody can have colleagues: none of its rounds was without us, or they are too few.
        (Standing(linked_before=frozenset(NAMES[1:5])), settled(*NAMES[1:5])),
        # Most of those we know would say so too.
        (Standing(linked_before=frozenset(NAMES[1:5]), is_run_older=True), settled(LIAR)),
        # However many say it, those that the user named know better.
        (
            Standing(named=frozenset(NAMES[1:2]), linked_before=frozenset(NAMES[2:5]), is_run_older=True),
            settled(*NAMES[2:5]),
        ),
        (Standing(is_run_older=True), settled(LIAR)),
    ],
)
def test_who_merely_claims_to_have_colleagues_convenes_no_earlier_and_seats_no_newcomers(
    standing: Standing, ready: dict[PeerId, Ready]
) -> None:
    assert places(standing, ready) == NAMES[:5]
    for convener in (NAMES[3], LIAR):  # a supporter, or none
        one = core(NAMES[0], {peer: each for peer, each in ready.items() if peer != NAMES[0]}, standing)
        mask = (1 << 0).to_bytes(8, "big")
        offer = Propose(ROUND, BASE, 0, 5, tuple(NAMES[:5]), (0, 1, 1, 1, 1), newcomers=mask)
        assert not one._may_seat(convener, offer.members, frozenset(NAMES[:1]))
        assert said(one.handle_propose(convener, offer, 0.1)) == ["Decline"]


def test_the_named_who_say_it_are_believed_and_so_are_those_that_are_nearly_colleagues() -> None:
    named = Standing(named=frozenset(NAMES[1:2]), linked_before=frozenset(NAMES[2:5]), is_run_older=True)
    assert places(named, settled(NAMES[1], LIAR)) == [NAMES[1], LIAR, NAMES[0], *NAMES[2:4]]
    nearly = Standing(nearly=frozenset((LIAR,)))
    turns = Turns(NAMES[0], RUN, ROUND, nearly, settled(LIAR))
    assert turns.is_settled(LIAR)
    assert not turns.is_settled(PeerId("somebody who is not ready"))


def test_who_is_nearly_a_colleague_comes_neither_before_nor_after() -> None:
    standing = Standing(colleagues=frozenset(NAMES[1:2]), nearly=frozenset(NAMES[:1]))
    turns = Turns(NAMES[2], RUN, ROUND, standing, dict_of(NAMES[:4]))
    assert not turns.is_before(NAMES[0], NAMES[1])
    assert not turns.is_before(NAMES[1], NAMES[0])
    assert turns.is_before(NAMES[1], NAMES[3])


# --- whose proposal is taken --------------------------------------------------------------------------


def test_a_proposal_of_a_peer_that_did_not_say_that_it_is_ready_is_ignored() -> None:
    one = core(NAMES[1], {}, Standing(), expected=(NAMES[2],))
    assert said(one.handle_propose(NAMES[0], propose(NAMES[:2]), 0.1)) == []
    assert one.refused == {NOT_READY: 1}


def test_a_stranger_convenes_only_after_all_colleagues_were_silent() -> None:
    stranger, colleague, me = NAMES[0], NAMES[1], NAMES[2]
    standing = Standing(colleagues=frozenset((colleague,)), linked_before=frozenset((stranger,)))
    one = core(me, dict_of([stranger, colleague]), standing)
    for ballot in (0, 900):
        assert said(one.handle_propose(stranger, propose(NAMES[:3], ballot), 0.1)) == ["Decline"]
    assert one.refused == {OUT_OF_TURN: 2}
    one.timer(1.0)
    assert one.state is State.PROPOSING, "after the colleague it is our own turn"


def test_of_those_that_are_no_colleagues_one_convenes_in_a_round() -> None:
    me, strangers = NAMES[5], NAMES[:3]
    one = core(me, dict_of(strangers), Standing(linked_before=frozenset((NAMES[4],))))
    assert said(one.handle_propose(strangers[0], propose([*strangers, me]), 0.1)) == ["Accept"]
    one.timer(1.2)
    assert said(one.handle_propose(strangers[1], propose([*strangers, me]), 1.3)) == ["Decline"]
    assert one.state is State.PROPOSING


def test_the_next_convenes_once_the_one_before_was_silent() -> None:
    me, others = NAMES[3], NAMES[:3]
    one = core(me, dict_of(others), Standing(linked_before=frozenset(others)))
    offer = propose(NAMES[1:4])
    assert said(one.handle_propose(others[1], offer, 0.1)) == ["Decline"]
    one.timer(1.0)
    assert said(one.handle_propose(others[1], offer, 1.1)) == ["Accept"]


def test_who_comes_first_and_still_waits_for_others_convenes_when_the_next_waits_no_longer() -> None:
    me, other, late = NAMES[0], NAMES[1], NAMES[2]
    one = core(me, {}, Standing(linked_before=frozenset((other, late))), expected=(other, late))
    one.handle_ready(other, READY, 0.1)
    assert one.state is State.WAITING
    assert said(one.handle_propose(other, propose([me, other]), 0.2)) == ["Decline", "Propose"]


def test_no_stranger_hurries_a_node_on() -> None:
    me, other, late = NAMES[0], NAMES[1], NAMES[2]
    one = core(me, {}, Standing(colleagues=frozenset((late,))), expected=(other, late))
    one.handle_ready(other, READY, 0.1)
    assert said(one.handle_propose(other, propose([me, other]), 0.2)) == ["Decline"]
    assert one.state is State.WAITING


def test_whom_its_members_decline_steps_down_for_the_one_before_it() -> None:
    me, others = NAMES[0], NAMES[1:4]
    one = core(me, dict_of(others), Standing(linked_before=frozenset(others)))
    assert one.state is State.PROPOSING
    one.handle_accept(others[2], Accept(ROUND, 0, 99, bytes(8)), 0.1)
    assert one.handle_decline(others[0], Decline(ROUND, 0, 99), 0.1) == []
    effects = one.handle_decline(others[1], Decline(ROUND, 0, 99), 0.1)
    assert said(effects) == ["Decline"], "who had accepted is free"
    assert said(one.handle_propose(others[0], propose(NAMES[:4]), 0.2)) == ["Accept"]


def test_a_member_that_declines_is_asked_again_since_it_lives() -> None:
    me, others = NAMES[0], NAMES[1:5]
    one = core(me, dict_of(others), Standing(linked_before=frozenset(others)))
    one.handle_decline(others[0], Decline(ROUND, 0, 99), 0.1)
    for other in others[1:3]:
        one.handle_accept(other, Accept(ROUND, 0, 99, bytes(8)), 0.1)
    one.timer(1.2)
    assert one.silent == {others[3]}
    assert one._offering is not None
    assert one._offering.members == {me, *others[:3]}


# --- what is derived ----------------------------------------------------------------------------------


def young(*names: PeerId) -> Standing:
    return Standing(linked_before=frozenset(names))


def test_a_member_that_we_have_not_heard_is_taken_once_its_signed_word_is_shown() -> None:
    convener, unheard, me = NAMES[0], NAMES[1], NAMES[2]
    one, offer = core(me, dict_of([convener]), young(convener)), propose(NAMES[:3])
    (asked,) = (each for each in one.handle_propose(convener, offer, 0.1) if isinstance(each, Send))
    assert asked.message == Unheard(ROUND, 0, 5, (0b010).to_bytes(8, "big"))
    one.handle_shown(convener, Shown(ROUND, (Signed(unheard, READY),)))
    assert said(one.handle_propose(convener, offer, 0.2)) == ["Accept"]


def test_who_offers_group_after_group_is_asked_a_few_times_and_not_for_ever() -> None:
    convener, me = NAMES[0], NAMES[2]
    one, offer = core(me, dict_of([convener]), young(convener)), propose(NAMES[:3])
    offers = [msgspec.structs.replace(offer, nonce=nonce) for nonce in range(20)]
    answers = [said(one.handle_propose(convener, each, 0.1)) for _ in range(3) for each in offers]
    assert answers.count(["Unheard"]) == MAX_QUESTIONS
    assert answers.count(["Decline"]) == len(answers) - MAX_QUESTIONS


@pytest.mark.parametrize("word", [Ready(ROUND + 1, BASE), Ready(ROUND, b"o" * 32)])
def test_a_word_of_another_round_or_state_shows_nothing(word: Ready) -> None:
    convener, ghost, me = NAMES[0], NAMES[1], NAMES[2]
    one, offer = core(me, dict_of([convener]), young(convener)), propose(NAMES[:3])
    one.handle_propose(convener, offer, 0.1)
    one.handle_shown(convener, Shown(ROUND, (Signed(ghost, word),)))
    assert said(one.handle_propose(convener, offer, 0.2)) == ["Decline"]
    assert one.refused == {NOT_DERIVED: 1}


def test_a_convener_shows_what_its_members_signed() -> None:
    me, one_member, other = NAMES[0], NAMES[1], NAMES[2]
    sealed = {other: b"as it came"}
    made = Matchmaking(
        me, RUN, ROUND, BASE, MatchmakingConfig(), 99, set(NAMES), standing=young(*NAMES[1:3]), sealed=sealed
    )
    made.begin(NAMES[1:3], list(dict_of(NAMES[1:3]).items()), 0.0)
    assert made._offering is not None
    offer = made._offering.proposal
    mask = 1 << offer.members.index(other)
    asks = Unheard(ROUND, 0, 99, mask.to_bytes(8, "big"))
    shown = Send(one_member, Shown(ROUND, (Signed(other, READY, b"as it came"),)))
    assert made.handle_unheard(one_member, asks) == [shown, Send(one_member, offer)]
    assert made.handle_unheard(one_member, asks) == [], "once for a proposal"


@pytest.mark.parametrize("shares", [(0, 0, 1), (1, 1, 2), (1024, 0, 0)])
def test_shares_that_do_not_follow_from_what_the_members_said_are_refused(shares: tuple[int, ...]) -> None:
    convener, me = NAMES[0], NAMES[2]
    one = core(me, dict_of(NAMES[:2]), young(*NAMES[:2]))
    offer = propose(NAMES[:3], shares=shares)
    assert said(one.handle_propose(convener, offer, 0.1)) == ["Unheard"]
    one.handle_shown(convener, Shown(ROUND, tuple(Signed(name, READY) for name in NAMES[:2])))
    assert said(one.handle_propose(convener, offer, 0.2)) == ["Decline"]


def test_a_proposal_that_leaves_out_more_than_half_of_the_colleagues_is_refused() -> None:
    convener, me, colleagues = NAMES[0], NAMES[5], NAMES[:5]
    standing = Standing(colleagues=frozenset(colleagues))
    one = core(me, dict_of(colleagues), standing)
    assert said(one.handle_propose(convener, propose([NAMES[0], NAMES[1], me]), 0.1)) == ["Decline"]
    assert one.refused == {LEAVES_OUT: 1}
    assert said(one.handle_propose(convener, propose([*NAMES[:3], me]), 0.1)) == ["Accept"]


def test_a_commit_takes_parts_only_from_members_that_lack_a_link() -> None:
    convener, other, me = NAMES[0], NAMES[1], NAMES[2]
    lacking = Accept(ROUND, 0, 5, (0b001 | 0b010).to_bytes(8, "big"))
    for shown, is_kept in (((Signed(other, lacking),), True), ((), False)):
        one = core(me, dict_of(NAMES[:2]), young(*NAMES[:2]))
        one.handle_propose(convener, propose(NAMES[:3]), 0.1)
        one.handle_shown(convener, Shown(ROUND, shown))
        one.handle_commit(convener, commit(NAMES[:3], convener, (1, 0, 0)), 0.2)
        assert (one.group is not None) == is_kept
        assert one.faults == ([] if is_kept else [(convener, OTHER_GROUP)])


def test_a_commit_that_is_handed_on_comes_with_what_its_shares_follow_from() -> None:
    convener, other, me = NAMES[0], NAMES[1], NAMES[2]
    word = Signed(other, Accept(ROUND, 0, 5, (0b011).to_bytes(8, "big")), b"as it came")
    one = core(me, dict_of(NAMES[:2]), young(*NAMES[:2]))
    one.handle_propose(convener, propose(NAMES[:3]), 0.1)
    one.handle_shown(convener, Shown(ROUND, (word,)))
    one.handle_commit(convener, commit(NAMES[:3], convener, (1, 0, 0)), 0.2)
    assert said(one.handle_ready(other, READY, 0.3)) == ["Shown", "Commit"]


def test_a_convener_commits_with_the_words_of_those_that_lack_a_link() -> None:
    me, other, lacks = NAMES[0], NAMES[1], NAMES[2]
    one = core(me, dict_of(NAMES[1:3]), young(*NAMES[1:3]))
    assert one._offering is not None
    members = one._offering.proposal.members
    one.handle_accept(other, Accept(ROUND, 0, 99, (0b111).to_bytes(8, "big")), 0.1)
    missing = (0b111 & ~(1 << members.index(other))).to_bytes(8, "big")
    effects = one.handle_accept(lacks, Accept(ROUND, 0, 99, missing), 0.1, b"as it came")
    assert said(effects) == ["Shown", "Commit", "Shown", "Commit"]
    shown = next(e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Shown))
    assert [(word.author, word.sealed) for word in shown.words] == [(lacks, b"as it came")]


def test_what_a_stranger_says_of_others_groups_takes_nobody_away_but_itself() -> None:
    me, stranger, colleague = NAMES[2], NAMES[0], NAMES[1]
    standing = Standing(colleagues=frozenset((colleague,)))
    one = core(me, dict_of([stranger, colleague]), standing, expected=(NAMES[3],))
    one.handle_commit(stranger, commit([stranger, colleague], stranger), 0.1)
    assert one.ready.keys() == {me, colleague}


# --- newcomers ----------------------------------------------------------------------------------------


def watching(*colleagues: PeerId, **more: Any) -> Standing:
    return Standing(colleagues=frozenset(colleagues), has_watched=True, **more)


def test_newcomers_get_a_quarter_of_the_seats_and_no_part() -> None:
    me, colleagues, newcomers = NAMES[0], NAMES[1:3], NAMES[3:]
    one = core(me, dict_of(NAMES[1:]), watching(*colleagues))
    assert one._offering is not None
    proposal = one._offering.proposal
    assert set(proposal.members) == {me, *colleagues, newcomers[0]}
    shares = dict(zip(proposal.members, proposal.shares, strict=True))
    assert shares == {me: 1, colleagues[0]: 1, colleagues[1]: 1, newcomers[0]: 0}
    assert named_by(proposal.members, proposal.newcomers) == [newcomers[0]]


@pytest.mark.parametrize("standing", [Standing(), Standing(linked_before=frozenset(NAMES))])
def test_while_nobody_has_colleagues_there_are_no_newcomers(standing: Standing) -> None:
    one = core(NAMES[0], dict_of(NAMES[1:]), standing)
    assert one._offering is not None
    assert one._offering.proposal.newcomers == bytes(8)


@pytest.mark.parametrize("mode", ["invite", "closed"])
def test_where_a_run_is_not_open_there_are_no_newcomers(mode: str) -> None:
    one = core(NAMES[0], dict_of(NAMES[1:]), watching(NAMES[1]), mode=mode)
    assert one._offering is not None
    assert one._offering.members == set(NAMES)


def test_of_one_prefix_two_newcomers_are_seated() -> None:
    some = [PeerId(name) for name in "abcd"]
    standing = Standing(prefixes=dict.fromkeys(some[:3], "198.51.100"))
    assert seated(some, 12, standing) == {some[0], some[1], some[3]}
    assert [seats(count) for count in (1, 2, 3, 6, 9)] == [1, 1, 1, 2, 3]


OLD, NEW = NAMES[1:5], NAMES[5]


def offered(newcomers: tuple[PeerId, ...]) -> Propose:
    names = [NAMES[0], *OLD, NEW]
    shares = tuple(int(name not in newcomers) for name in names)
    mask = sum(1 << names.index(name) for name in newcomers).to_bytes(8, "big")
    return Propose(ROUND, BASE, 0, 5, tuple(names), shares, newcomers=mask)


@pytest.mark.parametrize(
    ("newcomers", "halfway", "has_watched", "answer"),
    [
        ((NEW,), (), True, "Accept"),
        ((OLD[1],), (), True, "Decline"),  # a colleague of ours
        ((NEW, OLD[1]), (), True, "Decline"),
        ((), (), True, "Decline"),  # a stranger to us as a full member
        ((), (NEW,), True, "Accept"),  # its convener may count some rounds more
        ((), (), False, "Accept"),  # we were away, and cannot tell
    ],
)
def test_a_member_refuses_newcomers_that_no_honest_count_gives(
    newcomers: tuple[PeerId, ...], halfway: tuple[PeerId, ...], has_watched: bool, answer: str
) -> None:
    me = OLD[3]
    standing = Standing(
        colleagues=frozenset((NAMES[0], *OLD[:3])), halfway=frozenset(halfway), has_watched=has_watched
    )
    one = core(me, dict_of([NAMES[0], *OLD[:3], NEW], SETTLED), standing)
    assert said(one.handle_propose(NAMES[0], offered(newcomers), 0.1)) == [answer]


def test_a_member_refuses_more_newcomers_of_one_prefix_than_may_be() -> None:
    names = [PeerId(name) for name in ("one", "two", "three")]
    assert not Standing(prefixes=dict.fromkeys(names, "198.51.100")).are_spread(names)
    assert Standing(prefixes=dict.fromkeys(names[:2], "198.51.100")).are_spread(names)
    # Through relays, and in a local network, nobody sees where they are.
    assert Standing(prefixes=dict.fromkeys(names, CIRCUITS)).are_spread(names)
    assert Standing().are_spread(names)
    old = [PeerId(f"old {number}") for number in range(9)]
    members = (*old, *names)
    crowd = Standing(colleagues=frozenset(old), prefixes=dict.fromkeys(names, "198.51.100"))
    spread = Standing(colleagues=frozenset(old))
    for standing, may in ((spread, True), (crowd, False)):
        one = core(old[8], dict_of(old[:8], SETTLED), standing)
        assert one._may_seat(old[0], members, frozenset(names)) == may


# --- conveners that do not keep to what they offer ----------------------------------------------------


def test_a_convener_that_was_silent_is_taken_again_a_few_times_and_then_only_with_smaller_groups() -> None:
    me, convener = NAMES[3], NAMES[0]
    one = core(me, dict_of(NAMES[:3]), young(*NAMES[:3]))
    for ballot in range(MAX_SAME):
        now = 2.0 * ballot
        assert said(one.handle_propose(convener, propose(NAMES[:4], ballot), now)) == ["Accept"]
        assert one.owing == {}
        one.timer(now + 1.0)
        assert one.owing == {convener: now}
    assert said(one.handle_propose(convener, propose(NAMES[:4], 8), 20.0)) == ["Decline"]
    assert said(one.handle_propose(convener, propose([NAMES[0], *NAMES[2:4]], 9), 20.0)) == ["Accept"]


def test_a_muted_convener_comes_last() -> None:
    me, muted = NAMES[1], NAMES[0]
    standing = Standing(linked_before=frozenset(NAMES), muted=frozenset((muted,)))
    one = core(me, dict_of([muted, NAMES[2]]), standing)
    assert one.state is State.PROPOSING
    assert said(one.handle_propose(muted, propose(NAMES[:3]), 0.1)) == ["Decline"]


def test_strangers_are_named_for_proposals_that_no_honest_node_makes_and_colleagues_are_not() -> None:
    stranger, colleague, me = NAMES[3], NAMES[1], NAMES[2]
    one = core(me, dict_of([colleague, stranger]), Standing(colleagues=frozenset((colleague, NAMES[0]))))
    one.handle_ready(NAMES[0], READY, 0.1)
    one.handle_propose(stranger, propose(NAMES[1:4]), 0.1)
    one.handle_propose(colleague, propose(NAMES[:4]), 0.1)
    assert one.refused == {OUT_OF_TURN: 2}
    assert one.faults == [(stranger, OUT_OF_TURN)]
