"""Presence: which records count and for how long."""

from typing import Any

import msgspec
import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.membership.presence import MAX_LEASE, MAX_RECORDS, REMEMBERED, PresenceTable
from shoal.gossip.messages import Presence, Record

ME, A, B = (PeerId(name) for name in ("me", "a", "b"))


def presence(round_: int = 0, state: bytes = b"s", previous: bytes = b"", **changes: Any) -> Presence:
    plain = Presence(b"run", "run", round_, state, previous, "working", 12.0, (), has_finished_round=True)
    return msgspec.structs.replace(plain, **changes)


def record(author: PeerId, sequence: int = 1, **changes: Any) -> Record:
    return Record(author, sequence, presence(**changes))


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


@pytest.mark.parametrize("ends", ["expired", "left"])
def test_a_record_that_had_its_lease_is_not_kept_alive_by_the_words_of_others(ends: str) -> None:
    table = PresenceTable(ME)
    table.update(record(A, 5), 0.0, 0.0)
    if ends == "left":
        table.forget(A, 1.0)
    else:
        table.expire(12.0)
    # Whoever brings it again and again does not outlast what is remembered.
    for now in range(20, 20 + 10 * int(REMEMBERED), int(REMEMBERED) - 1):
        assert not table.update(record(A, 5), 0.0, float(now), teller=B)
        assert not table.update(record(A, 4), 0.0, float(now), teller=B)
    assert table.get(A) is None
    assert table.update(record(A, 6), 0.0, float(now), teller=B)


def test_who_is_back_is_believed_though_its_record_expired() -> None:
    table = PresenceTable(ME)
    table.update(record(A, 5), 0.0, 0.0)
    table.expire(12.0)
    table.connected.add(A)
    assert table.update(record(A, 2), 0.0, 20.0, teller=A)


def test_of_records_that_expired_a_bounded_number_is_remembered() -> None:
    table = PresenceTable(ME)
    for number in range(MAX_RECORDS + 10):
        table.update(record(PeerId(f"p{number}")), 0.0, 100.0 * number)
        table.expire(100.0 * number + 50)
    assert len(table._expired) == MAX_RECORDS
