"""Lineages: which state a swarm goes by, and whose word counts for that."""

from typing import Any

import msgspec
import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.membership.colleagues import Colleagues
from shoal.gossip.membership.lineages import Basis, SwarmState, Voters, swarm_state, voters_of
from shoal.gossip.messages import Presence

ME, A, B, C, D = (PeerId(name) for name in ("me", "a", "b", "c", "d"))
EVERYONE = {A, B, C, D}
CROWD = {PeerId(f"key {number}") for number in range(20)}


def presence(round_: int = 0, state: bytes = b"s", previous: bytes = b"", **changes: Any) -> Presence:
    plain = Presence(b"run", "run", round_, state, previous, "working", 12.0, (), has_finished_round=True)
    return msgspec.structs.replace(plain, **changes)


def goes_by(
    others: dict[PeerId, Presence],
    ours: Presence,
    linked: set[PeerId] | None = None,
    voters: Voters | None = None,
    *,
    states_differ: bool = False,
) -> SwarmState:
    linked = EVERYONE | CROWD if linked is None else linked
    found = swarm_state(others.items(), ME, ours, linked, voters, states_differ=states_differ)
    assert found is not None
    return found


def test_without_a_state_there_is_nothing_to_go_by() -> None:
    assert swarm_state([(A, presence(state=b""))], ME, presence(state=b""), EVERYONE) is None


def test_the_state_of_most_counts_and_its_holders_are_those_that_we_are_linked_to() -> None:
    others = {A: presence(5, b"x"), B: presence(5, b"x"), C: presence(5, b"y")}
    found = goes_by(others, presence(5, b"y"), {A, C})
    assert (found.state, found.holders) == (b"y", (C,)) or found.state == b"x"
    others[D] = presence(5, b"x")
    found = goes_by(others, presence(5, b"y"), {A, C})
    assert (found.round, found.state, found.holders, found.includes_us) == (5, b"x", (A,), False)


def test_states_that_follow_each_other_are_one_lineage() -> None:
    others = {A: presence(6, b"next", b"now"), B: presence(6, b"next", b"now")}
    found = goes_by(others, presence(5, b"now"))
    assert (found.state, found.includes_us) == (b"next", True)


def test_lineages_that_one_peer_joins_are_one_whatever_the_order() -> None:
    chain = [presence(i, bytes([i]), bytes([i - 1])) for i in (1, 3, 5, 2, 4)]
    for turn in range(5):
        turned = chain[turn:] + chain[:turn]
        others = {PeerId(f"p{i}"): each for i, each in enumerate(turned)}
        assert goes_by(others, presence(0, b"\0"), {PeerId("p0")}).includes_us


def test_one_that_ran_ahead_alone_does_not_lead_the_many() -> None:
    others = {A: presence(9, b"next", b"now"), B: presence(8, b"now"), C: presence(8, b"now")}
    assert goes_by(others, presence(8, b"now")).round == 8


def test_a_crowd_of_newcomers_does_not_undo_what_was_made() -> None:
    fresh = presence(0, b"init", has_finished_round=False)
    found = goes_by({A: fresh, B: fresh, C: fresh, D: presence(40, b"trained")}, fresh)
    assert (found.round, found.state) == (40, b"trained")


def test_who_comes_back_with_an_old_state_does_not_count() -> None:
    old = presence(7, b"old", b"older", has_finished_round=False)
    made = presence(9, b"new", b"old")
    assert goes_by({A: old, B: old, C: made}, old).round == 9


def test_where_nobody_has_made_a_round_the_highest_counts() -> None:
    others = {
        A: presence(9, b"s9", b"s8", has_finished_round=False),
        B: presence(8, b"s8", has_finished_round=False),
    }
    assert goes_by(others, presence(8, b"s8", has_finished_round=False)).round == 9


def test_a_lineage_to_which_we_have_no_link_is_hearsay() -> None:
    others = {A: presence(9, b"x"), B: presence(9, b"x"), C: presence(9, b"x")}
    assert goes_by(others, presence(1, b"y"), {D}).state == b"y"


# --- whose word counts ----------------------------------------------------------------------------


def colleagues(*peers: PeerId) -> Voters:
    return Voters(Basis.COLLEAGUES, frozenset(peers))


def crowd(round_: int, state: bytes, previous: bytes = b"") -> dict[PeerId, Presence]:
    return dict.fromkeys(CROWD, presence(round_, state, previous))


@pytest.mark.parametrize("state", ["elsewhere", "after ours", "bridging"])
def test_no_number_of_keys_moves_a_node_from_its_colleagues(state: str) -> None:
    ours = presence(8, b"now", b"before")
    made_up = {
        "elsewhere": crowd(11, b"x", b"w"),
        "after ours": crowd(9, b"x", b"now"),
        "bridging": crowd(11, b"x", b"now"),
    }[state]
    others = {A: ours, B: ours, **made_up}
    found = goes_by(others, ours, voters=colleagues(A, B))
    assert (found.round, found.state, found.includes_us) == (8, b"now", True)
    # Without colleagues they are followed: what this test would miss.
    assert goes_by(others, ours).state == b"x"


def test_more_than_half_of_the_colleagues_are_followed_and_half_of_them_are_not() -> None:
    ours, there = presence(8, b"now"), presence(9, b"x", b"w")
    most = goes_by({A: ours, B: there, C: there}, ours, voters=colleagues(A, B, C))
    assert (most.state, most.holders, most.includes_us) == (b"x", (B, C), False)
    half = goes_by({A: ours, B: ours, C: there, D: there}, ours, voters=colleagues(A, B, C, D))
    assert half.includes_us


def test_two_colleagues_of_each_other_come_to_one_state() -> None:
    one, other = presence(8, b"x"), presence(9, b"y")
    assert goes_by({A: other}, one, voters=colleagues(A)).state == b"y"
    assert goes_by({A: one}, other, voters=colleagues(A)).state == b"y"


def test_who_stands_alone_joins_its_colleagues_also_where_they_are_in_several_places() -> None:
    others = {A: presence(8, b"x"), B: presence(9, b"y"), C: presence(7, b"z")}
    assert goes_by(others, presence(9, b"u"), voters=colleagues(A, B, C)).state == b"u"
    assert goes_by(others, presence(6, b"u"), voters=colleagues(A, B, C)).state == b"y"


def test_colleagues_that_come_back_with_an_old_state_hold_nobody_up() -> None:
    old = presence(7, b"old", has_finished_round=False)
    made = presence(9, b"new", b"newer")
    found = goes_by({A: old, B: old, C: old, D: made}, old, voters=colleagues(A, B, C, D))
    assert found.state == b"new"


def test_anybody_may_hold_the_state_that_the_colleagues_go_by() -> None:
    there = presence(9, b"x", b"now")
    others = {A: there, B: there, **crowd(9, b"x", b"now")}
    found = goes_by(others, presence(8, b"now"), voters=colleagues(A, B))
    assert (found.round, set(found.holders)) == (9, {A, B, *CROWD})
    assert found.voters == {A, B}


def test_a_newcomer_goes_by_whom_its_user_named() -> None:
    fresh = presence(0, b"init", has_finished_round=False)
    for made_up in (crowd(50, b"x"), crowd(0, b"init")):
        others = {A: presence(40, b"trained"), **made_up}
        found = goes_by(others, fresh, voters=Voters(Basis.NAMED, frozenset({A})))
        assert (found.round, found.state) == (40, b"trained")


def test_where_the_named_one_and_we_differ_the_most_decide_between_the_two() -> None:
    ours, theirs = presence(12, b"x"), presence(10, b"y")
    voters = Voters(Basis.NAMED, frozenset({A}))
    assert goes_by({A: theirs}, ours, voters=voters).state == b"x"
    assert goes_by({A: theirs, B: theirs}, ours, voters=voters).state == b"y"
    assert goes_by({A: theirs, **crowd(99, b"z")}, ours, voters=voters).state == b"x"


def test_where_states_differ_a_node_goes_on_to_where_more_than_half_have_come() -> None:
    ours = presence(3, b"ours")
    others = {A: presence(9, b"a"), B: presence(8, b"b"), C: presence(8, b"c"), D: presence(99, b"d")}
    found = goes_by(others, ours, voters=colleagues(A, B, C, D), states_differ=True)
    assert found.round == 8
    alone = goes_by(
        {A: ours, B: ours, C: ours, D: presence(99, b"d")},
        ours,
        voters=colleagues(A, B, C, D),
        states_differ=True,
    )
    assert alone.round == 3


def test_where_states_differ_the_most_decide_between_the_rounds_of_the_named_one_and_ours() -> None:
    named = Voters(Basis.NAMED, frozenset({A}))
    ahead, there = presence(87, b"ahead"), presence(33, b"a")
    others = {A: there, B: presence(34, b"b"), C: presence(33, b"c")}
    back = goes_by(others, ahead, voters=named, states_differ=True)
    assert (back.round, back.includes_us) == (33, False)
    assert goes_by({A: there}, ahead, voters=named, states_differ=True).round == 87
    assert goes_by({A: there, **crowd(99, b"x")}, ahead, voters=named, states_differ=True).round == 87
    fresh = presence(0, b"init", has_finished_round=False)
    newcomers = dict.fromkeys(CROWD, fresh)
    assert goes_by({A: there, **newcomers}, fresh, voters=named, states_differ=True).round == 33
    assert goes_by({A: fresh, **newcomers}, fresh, voters=named, states_differ=True).round == 0


def known(*peers: PeerId, named: tuple[PeerId, ...] = (), met: tuple[PeerId, ...] = ()) -> Colleagues:
    found = Colleagues(ME, 2, 0.0)
    for _ in range(2):
        found.note_round(peers, 0.0)
    found.note_round(met, 0.0)
    found.named = frozenset(named)
    return found


def test_voters_are_the_living_colleagues_then_the_named_then_those_met_and_else_the_most() -> None:
    living = {peer: presence() for peer in (A, B, C)}
    for node, basis, peers in [
        (known(A, D, named=(B,)), Basis.COLLEAGUES, {A}),
        (known(D, named=(B,)), Basis.NAMED, {B}),
        (known(named=(B, D)), Basis.NAMED, {B}),
        (known(D, met=(C,)), Basis.MET, {C}),
        (known(D), Basis.MET, set()),
        (known(met=(C,)), Basis.MOST, set()),
        (known(named=(D,)), Basis.MOST, set()),
        (known(), Basis.MOST, set()),
    ]:
        assert voters_of(node, living.items()) == Voters(basis, frozenset(peers))


def test_a_node_whose_colleagues_are_all_away_stays_where_it_is() -> None:
    ours = presence(8, b"now")
    found = goes_by({A: presence(9, b"x", b"now"), **crowd(11, b"y")}, ours, voters=Voters(Basis.MET))
    assert (found.round, found.state) == (8, b"now")
    # Those it has met lead it on in its own lineage, and to no other.
    met = Voters(Basis.MET, frozenset({A, B}))
    for differ in (False, True):
        near = {A: presence(9, b"x", b"now"), B: presence(9, b"x", b"now")}
        assert goes_by(near, ours, voters=met, states_differ=differ).state == b"x"
        far = {A: presence(11, b"y", b"w"), B: presence(11, b"y", b"w")}
        assert goes_by(far, ours, voters=met, states_differ=differ).state == b"now"


def test_who_has_no_trainer_or_took_its_state_from_the_most_is_nobodys_anchor() -> None:
    for nobody in (presence(phase="helping"), presence(state=b""), presence(is_unanchored=True)):
        assert voters_of(known(named=(A,)), [(A, nobody), (B, presence())]).basis is Basis.MOST
    # A colleague's word counts by the rounds made together, however it began.
    assert voters_of(known(A), [(A, presence(is_unanchored=True))]).basis is Basis.COLLEAGUES
