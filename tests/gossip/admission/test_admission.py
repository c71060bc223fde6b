"""Admission: counts, strikes, bans and limits, in plain calls."""

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.admission import MAX_FETCHERS, MAX_STRIKES, Admission
from shoal.gossip.admission.marks import MAX_MARKED, SHORTEST_MARK, Marks

A, B = PeerId("a"), PeerId("b")


def test_what_two_layers_count_for_one_reason_is_added_up() -> None:
    admission = Admission()
    for reason in ("malformed frame", "queue full", "malformed frame"):
        admission.count(reason)
    assert admission.counts == {"malformed frame": 2, "queue full": 1}


def test_a_peer_is_cut_after_many_malformed_messages_of_one_link() -> None:
    admission = Admission()
    assert not any(admission.strike(A) for _ in range(MAX_STRIKES - 1))
    assert not admission.strike(B)
    admission.link_lost(A)
    assert [admission.strike(A) for _ in range(MAX_STRIKES)] == [False] * (MAX_STRIKES - 1) + [True]


def test_a_ban_keeps_a_peer_out_of_groups_for_longer_every_time() -> None:
    admission = Admission()
    assert admission.may_group(A, 0.0)
    admission.ban(A, 0.0)
    assert not admission.may_group(A, SHORTEST_MARK - 0.1)
    assert admission.may_group(A, SHORTEST_MARK)
    assert admission.may_group(B, 0.0)
    admission.ban(A, 10.0)
    admission.pardon(A, 11.0)
    assert admission.may_group(A, 11.0)
    admission.ban(A, 12.0)
    assert not admission.may_group(A, 12.0 + 4 * SHORTEST_MARK - 0.1), "a pardon forgets nothing"


def test_links_and_fetchers_are_limited() -> None:
    admission = Admission(max_links=2)
    assert admission.doors.may_dial(A)
    assert [admission.may_serve(n) for n in (0, MAX_FETCHERS - 1, MAX_FETCHERS)] == [True, True, False]


def test_marks_double_up_to_a_bound_and_are_bounded_in_number() -> None:
    marks = Marks(max_doublings=2)
    for _ in range(5):
        marks.add(A, 0.0)
    assert marks.has(A, 4 * SHORTEST_MARK - 0.1)
    assert not marks.has(A, 4 * SHORTEST_MARK)
    for number in range(MAX_MARKED):
        marks.add(PeerId(f"peer {number}"), 100.0)
    assert not marks.has(A, 0.0), "whose mark ends first is forgotten"
    marks.forget(PeerId("peer 5"))
    assert not marks.has(PeerId("peer 5"), 100.0)
