"""Round records: they show whose data is in a state, or say why they cannot."""

import json
from typing import Any

import msgspec
import pytest

from shoal.crypto.keys import key_from_seed, peer_id_of
from shoal.node.retraining.round_records import RoundRecord, by_place, checked, past_of, seal

KEY = key_from_seed(bytes(32))
ME = peer_id_of(bytes(KEY.verify_key))
RUN = "ab" * 32


def record(round_: int, *members: str, **changes: Any) -> RoundRecord:
    fields = {"run": RUN, "round": round_, "before": f"s{round_}", "after": f"s{round_ + 1}"}
    return RoundRecord(members=members, **{**fields, **changes})


def test_all_who_were_in_a_round_that_leads_to_a_state_are_in_it_and_nobody_else() -> None:
    records = by_place([record(0, "a"), record(1, "a", "b"), record(2, "a", "c")])
    assert past_of(records, 2, "s2").members == {"a", "b"}
    assert past_of(records, 3, "s3").members == {"a", "b", "c"}
    assert not past_of(records, 3, "s3").gap
    assert past_of(records, 0, "s0").members == frozenset()


def test_a_past_that_was_given_up_does_not_count() -> None:
    given_up = record(1, "a", "x", after="other")
    past = past_of(by_place([record(0, "a"), given_up, record(1, "a")]), 2, "s2")
    assert (past.members, past.gap) == (frozenset({"a"}), "")


def test_two_records_of_one_state_count_together() -> None:
    assert past_of(by_place([record(0, "a"), record(0, "b")]), 1, "s1").members == {"a", "b"}


def test_a_round_that_left_the_state_as_it_was_is_a_step_all_the_same() -> None:
    still = [record(0, "a", after="s0"), record(1, "b", before="s0", after="s0")]
    past = past_of(by_place(still), 2, "s0")
    assert (past.members, past.gap) == (frozenset({"a", "b"}), "")


@pytest.mark.parametrize(
    ("records", "gap"),
    [
        ([record(0, "a"), record(2, "a")], "no record of how the state of round 2 was made"),
        ([record(1, "a"), record(2, "a")], "no record of how the state of round 1 was made"),
        ([record(0, "a"), record(1, "a", is_whole=False), record(2, "a")], "mixed in round 1"),
        ([], "no record of how the state of round 3 was made"),
    ],
)
def test_where_records_do_not_lead_to_the_beginning_they_say_so(records: list[RoundRecord], gap: str) -> None:
    assert gap in past_of(by_place(records), 3, "s3").gap


def test_a_run_that_began_with_a_file_begins_there() -> None:
    start = record(4, "a", "b", before="")
    past = past_of(by_place([start, record(5, "c")]), 6, "s6")
    assert (past.members, past.gap) == (frozenset({"a", "b", "c"}), "")


def test_only_what_this_node_signed_of_this_run_counts() -> None:
    good = seal(KEY, record(0, "a"))
    altered = good.replace(b'"a"', b'"b"')
    other_key = seal(key_from_seed(bytes([1]) * 32), record(0, "a"))
    other_run = seal(KEY, record(0, "a", run="cd" * 32))
    unsigned = json.dumps({"document": msgspec.to_builtins(record(0, "a"))}).encode()
    found, bad = checked(ME, RUN, [good, altered, other_key, other_run, unsigned, b"\xff"])
    assert (found, bad) == ([record(0, "a")], 5)
