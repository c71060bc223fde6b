"""What a member says of itself, and makes of what others say of themselves."""

import random

import msgspec
import numpy as np
import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.charter import Charter
from shoal.gossip.events import DialFailed, Effects, Notify, PeerFound, Received, Send
from shoal.gossip.lifecycle import Phase
from shoal.gossip.member.commands import (
    AddAddress,
    Attach,
    Averaged,
    Contribute,
    Detach,
    Finish,
    NewState,
    PeerAddresses,
    Refused,
)
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.membership.dissemination import INTRODUCED
from shoal.gossip.messages import Describe, Presence, Record, Records
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id

SPEC = RunSpec(method="fedavg", task="digits", tensors=(TensorSpec("w", "float32", (4,)),))
RUN = run_id(SPEC)
OTHER = PeerId("b")


def member_at_work() -> Member:
    member = Member(PeerId("a"), MemberConfig(), random.Random(1), 1)
    member.handle(Attach(RUN, SPEC, True), 0.0)
    member.handle(NewState(0, b"0" * 32, b"", memoryview(b"")), 0.0)
    member.handle(NewState(1, b"1" * 32, b"0" * 32, memoryview(b"")), 1.0)
    return member


def met(effects: Effects) -> list[PeerAddresses]:
    notices = [effect.notice for effect in effects if isinstance(effect, Notify)]
    return [notice for notice in notices if isinstance(notice, PeerAddresses)]


def heard(member: Member, author: PeerId, sequence: int) -> Effects:
    presence = Presence(RUN, "", 1, b"1" * 32, b"0" * 32, "working", 12.0)
    return member.handle(Received(author, Records(((Record(author, sequence, presence), 0.0),))), 1.0)


def told(effects: Effects, of: PeerId) -> set[PeerId]:
    sent = [(effect.peer, effect.message) for effect in effects if isinstance(effect, Send)]
    records = [(peer, m.records) for peer, m in sent if isinstance(m, Records)]
    return {peer for peer, some in records if of in [record.author for record, _ in some]}


def averaged(effects: Effects) -> bool:
    return any(isinstance(effect, Notify) and isinstance(effect.notice, Averaged) for effect in effects)


@pytest.mark.parametrize("is_finished", [False, True])
def test_who_trains_no_more_claims_no_round_of_its_own_unless_the_run_is_over(is_finished: bool) -> None:
    member = member_at_work()
    assert member.view.presence().has_finished_round
    if is_finished:
        member.handle(Finish(), 2.0)
    member.handle(Detach(), 3.0)
    assert member.view.presence().has_finished_round == is_finished


def test_where_a_peer_that_dialled_us_is_reached_is_told_once_and_when_it_changes() -> None:
    member = member_at_work()
    member.handle(PeerFound(OTHER), 1.0)

    def hear(sequence: int, *addresses: str) -> list[PeerAddresses]:
        presence = Presence(RUN, "", 1, b"1" * 32, b"0" * 32, "working", 12.0, addresses)
        records = Records(((Record(OTHER, sequence, presence), 0.0),))
        return met(member.handle(Received(OTHER, records), 1.0))

    assert hear(1, "one") == [PeerAddresses(OTHER, ("one",))]
    assert not hear(2, "one")
    assert hear(3, "two") == [PeerAddresses(OTHER, ("two",))]
    assert not hear(4)


def test_who_was_just_started_does_not_go_on_alone_while_it_looks_for_those_it_knew() -> None:
    member = member_at_work()
    member.handle(AddAddress("/ip4/20.0.0.2/tcp/4710/p2p/b", "book"), 1.0)
    effects = member.handle(Contribute(0, np.zeros(4, np.float32), 1.0), 1.0)
    assert member.phase is Phase.SEEKING
    assert not averaged(effects)
    effects = member.handle(DialFailed("/ip4/20.0.0.2/tcp/4710/p2p/b", "refused"), 2.0)
    assert averaged(effects), "there is nobody"


def test_who_finds_a_swarm_that_is_ahead_fetches_its_state_before_it_goes_on_alone() -> None:
    member = member_at_work()
    member.handle(AddAddress("/ip4/20.0.0.2/tcp/4710/p2p/b", "book"), 1.0)
    member.handle(Contribute(0, np.zeros(4, np.float32), 1.0), 1.0)
    assert not averaged(member.handle(PeerFound(OTHER, "/ip4/20.0.0.2/tcp/4710/p2p/b"), 2.0)), (
        "its greeting is under way"
    )
    presence = Presence(RUN, "", 2, b"2" * 32, b"1" * 32, "working", 12.0, (), has_finished_round=True)
    effects = member.handle(Received(OTHER, Records(((Record(OTHER, 1, presence), 0.0),))), 2.0)
    assert member.phase is Phase.SYNCING
    assert not averaged(effects)


def test_two_that_come_at_the_same_moment_are_told_of_each_other_at_once() -> None:
    member, first, second = member_at_work(), PeerId("b"), PeerId("c")
    for peer in (first, second):
        assert not told(member.handle(PeerFound(peer), 1.0), of=first), "neither has said anything"
    assert told(heard(member, first, 1), of=first) == {second}
    assert told(heard(member, second, 1), of=second) == {first}
    assert not told(heard(member, second, 2), of=second), "what is new later goes the ways of all news"


def test_a_new_neighbour_is_introduced_to_few_of_many() -> None:
    member = member_at_work()
    neighbours = [PeerId(f"n{number}") for number in range(40)]
    for peer in neighbours:
        member.handle(PeerFound(peer), 1.0)
    assert len(told(heard(member, neighbours[0], 1), of=neighbours[0])) == INTRODUCED


def reasons(effects: Effects) -> list[str]:
    """Return what a member says of peers in other runs of the same name."""
    notices = [effect.notice for effect in effects if isinstance(effect, Notify)]
    return [notice.reason for notice in notices if isinstance(notice, Refused)]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (msgspec.to_builtins(SPEC, builtin_types=(bytes,)) | {"quorum": 3}, "quorum: 1 here, 3 there"),
        (
            msgspec.to_builtins(SPEC, builtin_types=(bytes,)) | {"telepathy": 1},
            "it has settings that this node does not know",
        ),
        (
            msgspec.to_builtins(SPEC, builtin_types=(bytes,)) | {"max_chunk_numel": 1 << 20},
            "settings that this node does not know",
        ),
    ],
)
def test_a_peer_of_another_run_is_told_apart_in_words_whatever_build_it_is_of(
    spec: dict[str, object], words: str
) -> None:
    [reason] = reasons(member_at_work().handle(Received(OTHER, Describe(msgspec.msgpack.encode(spec))), 1.0))
    assert words in reason


def helper_heard(member: Member, now: float, sequence: int = 1) -> list[bytes]:
    """Return the specs that a helper is told when it has something new to say of itself."""
    member.handle(PeerFound(OTHER), now)
    presence = Presence(b"", "", 0, b"", b"", "helping", 12.0, (f"/ip4/20.0.0.{sequence}/tcp/1",))
    effects = member.handle(Received(OTHER, Records(((Record(OTHER, sequence, presence), 0.0),))), now)
    sent = [effect.message for effect in effects if isinstance(effect, Send) and effect.peer == OTHER]
    return [message.spec for message in sent if isinstance(message, Describe)]


def test_a_helper_is_told_once_what_the_run_does() -> None:
    member = member_at_work()
    assert helper_heard(member, 1.0) == [msgspec.msgpack.encode(SPEC)]
    assert helper_heard(member, 2.0, 2) == []


def test_an_outsider_is_not_told_what_a_closed_run_does() -> None:
    charter = str(Charter(mode="closed", founders=(bytes(32),)))
    spec = msgspec.structs.replace(SPEC, charter=charter)
    member = Member(PeerId("a"), MemberConfig(), random.Random(1), 1)
    member.handle(Attach(run_id(spec), spec, True), 0.0)
    member.handle(NewState(0, b"0" * 32, b"", memoryview(b"")), 0.0)
    assert helper_heard(member, 1.0) == []


def test_a_helper_hears_what_a_run_does() -> None:
    member = Member(PeerId("a"), MemberConfig(), random.Random(1), 1)
    member.handle(PeerFound(OTHER), 0.0)
    presence = Presence(RUN, "main", 4, b"1" * 32, b"0" * 32, "working", 12.0)
    member.handle(Received(OTHER, Records(((Record(OTHER, 1, presence), 0.0),))), 0.0)
    member.handle(Received(OTHER, Describe(msgspec.msgpack.encode(SPEC))), 0.0)
    [heard] = member.run_mismatch.heard.found({})
    assert (heard.name, heard.round, heard.linked, heard.spec) == ("main", 4, 1, SPEC)


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x81"])
def test_a_spec_that_is_none_is_passed_over(garbage: bytes) -> None:
    assert not reasons(member_at_work().handle(Received(OTHER, Describe(garbage)), 1.0))
