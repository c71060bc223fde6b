"""Presence: which records count and for how long, and which state a swarm goes by."""

from typing import Any

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.membership.presence import MAX_LEASE, MAX_RECORDS, PresenceTable, SwarmState, swarm_state
from shoal.gossip.messages import Presence, Record

ME, A, B, C, D = (PeerId(name) for name in ("me", "a", "b", "c", "d"))
EVERYONE = {A, B, C, D}


def presence(round_: int = 0, state: bytes = b"s", previous: bytes = b"", **changes: Any) -> Presence:
    plain = Presence(b"run", "run", round_, state, previous, "working", 12.0, (), has_finished_round=True)
    return msgspec.structs.replace(plain, **changes)


def record(author: PeerId, sequence: int = 1, **changes: Any) -> Record:
    return Record(author, sequence, presence(**changes))


def goes_by(others: dict[PeerId, Presence], ours: Presence, linked: set[PeerId] = EVERYONE) -> SwarmState:
    found = swarm_state(others.items(), ME, ours, linked)
    assert found is not None
    return found


# --- the table ------------------------------------------------------------------------------------


def test_the_newer_record_of_an_author_counts() -> None:
    table = PresenceTable(ME)
    assert table.update(record(A, 2, round_=5), 0.0, 0.0)
    assert not table.update(record(A, 1, round_=4), 0.0, 0.0)
    assert not table.update(record(A, 2, round_=4), 0.0, 0.0)
    assert table.get(A).presence.round == 5  # type: ignore[union-attr]


def test_no_record_outlives_its_author_by_more_than_a_lease_whoever_repeats_it() -> None:
    table = PresenceTable(ME)
    assert table.update(record(A), 9.0, 0.0)
    assert not table.expire(2.9)
    assert table.expire(3.0)
    assert not table.update(record(A), 12.0, 3.0)


def test_who_speaks_to_us_is_there_without_a_record() -> None:
    table = PresenceTable(ME)
    table.update(record(A), 0.0, 0.0)
    table.touch(A, 10.0)
    assert not table.expire(21.9)


def test_our_own_sleep_is_nobodys_absence() -> None:
    table = PresenceTable(ME)
    table.update(record(A), 0.0, 0.0)
    table.forgive(100.0, 100.0)
    assert not table.expire(111.0)


def test_who_was_heard_when_we_woke_is_not_there_for_longer_than_that() -> None:
    table = PresenceTable(ME)
    table.update(record(A), 0.0, 100.0)
    table.forgive(100.0, 101.0)
    assert not table.expire(112.0)
    assert table.expire(113.0)


def test_who_has_left_comes_back_only_with_a_newer_record() -> None:
    table = PresenceTable(ME)
    table.update(record(A, 7), 0.0, 0.0)
    table.forget(A, 1.0)
    assert not table.update(record(A, 7), 1.0, 2.0)
    assert table.update(record(A, 8), 0.0, 2.0)


def test_who_is_back_with_a_clock_set_back_is_believed_when_it_says_so_itself() -> None:
    table = PresenceTable(ME)
    table.update(record(A, 7), 0.0, 0.0)
    table.forget(A, 1.0)
    assert not table.update(record(A, 3), 0.0, 2.0, teller=A), "a word that was under way when its link ended"
    table.connected.add(A)
    assert not table.update(record(A, 3), 0.0, 2.0, teller=B)
    assert table.update(record(A, 3), 0.0, 2.0, teller=A)


def test_nobody_is_believed_for_longer_than_a_minute() -> None:
    table = PresenceTable(ME)
    table.update(record(A, lease=600.0), 0.0, 0.0)
    assert table.expire(MAX_LEASE)


def test_strangers_heard_of_longest_ago_make_room_and_neighbours_stay() -> None:
    table = PresenceTable(ME)
    table.connected.add(A)
    table.update(record(A), 5.0, 0.0)
    for number in range(MAX_RECORDS + 10):
        table.update(record(PeerId(f"p{number}")), 1.0 if number else 4.0, 0.0)
    assert len(table) == MAX_RECORDS
    assert table.get(A) is not None
    assert table.get(PeerId("p0")) is None


# --- the state of the swarm -----------------------------------------------------------------------


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
