"""A peer that was started again with its clock set back: its records are older than what is known of it."""

import random

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Received, Send
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.messages import Presence, Record, Records

ME, OTHER, THIRD = PeerId("a"), PeerId("b"), PeerId("c")


def record(author: PeerId, sequence: int, round_: int) -> Record:
    state = bytes([round_]) * 32
    return Record(author, sequence, Presence(b"run", "run", round_, state, b"", "working", 12.0))


def test_a_peer_whose_record_is_older_than_its_last_is_shown_that_and_says_something_newer() -> None:
    """It speaks all the time, so what is known of it never expires, and nobody hands it on any more."""
    member = Member(ME, MemberConfig(), random.Random(1), 1)
    again = Member(OTHER, MemberConfig(), random.Random(2), 7)
    for one, other in ((member, OTHER), (again, ME)):
        one.table.connected.add(other)
    known = record(OTHER, 3_600_000_000, 4)
    member.handle(Received(OTHER, Records(((known, 0.0),))), 0.0)
    shown = member.handle(Received(OTHER, Records(((record(OTHER, 8, 5), 0.0),))), 60.0)
    assert Send(OTHER, Records(((known, 0.0),))) in shown
    answers = [answer for each in shown if isinstance(each, Send) for answer in hear(again, each)]
    for answer in answers:
        member.handle(Received(OTHER, answer.message), 60.0)
    entry = member.table.get(OTHER)
    assert entry is not None
    assert entry.record.sequence == known.sequence + 1


def test_what_another_knows_of_before_is_not_believed_but_shown_to_its_author() -> None:
    member = Member(ME, MemberConfig(), random.Random(1), 1)
    member.table.connected |= {OTHER, THIRD}
    member.handle(Received(THIRD, Records(((record(THIRD, 8, 5), 0.0),))), 10.0)
    before = Records(((record(THIRD, 3_600_000_000, 4), 9.0),))
    assert member.handle(Received(OTHER, before), 12.0) == [Send(THIRD, before)]
    entry = member.table.get(THIRD)
    assert entry is not None
    assert entry.presence.round == 5
    since = Records(((record(THIRD, 3_600_000_001, 5), 1.0),))
    member.handle(Received(OTHER, since), 12.0)
    entry = member.table.get(THIRD)
    assert entry is not None
    assert entry.record.sequence == 3_600_000_001


def test_an_old_record_that_another_hands_on_is_not_answered() -> None:
    member = Member(ME, MemberConfig(), random.Random(1), 1)
    member.handle(Received(OTHER, Records(((record(THIRD, 9, 4), 0.0),))), 0.0)
    assert member.handle(Received(OTHER, Records(((record(THIRD, 8, 3), 0.0),))), 1.0) == []


def hear(member: Member, sent: Send) -> list[Send]:
    return [e for e in member.handle(Received(ME, sent.message), 60.0) if isinstance(e, Send)]
