"""A node whose means another engine makes: it is not led away meanwhile, and peers' bytes may differ."""

import random

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Effects, Notify, Received, Send
from shoal.gossip.lifecycle import Phase
from shoal.gossip.member.commands import (
    AbortRound,
    Attach,
    BeginExternalExchange,
    Behind,
    Failed,
    NewState,
    SetEngine,
)
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.messages import Presence, Record, Records
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id

SPEC = RunSpec(method="fedavg", task="digits", tensors=(TensorSpec("w", "float32", (4,)),), engine="hivemind")
ME, OTHER = PeerId("a"), PeerId("b")


def state(number: int) -> bytes:
    return bytes([number]) * 32


def working(round_: int = 5) -> Member:
    """Return a member at work on this round, linked with another."""
    member = Member(ME, MemberConfig(), random.Random(1), 1)
    member.table.connected.add(OTHER)
    member.handle(Attach(run_id(SPEC), SPEC, True), 0.0)
    member.handle(NewState(round_, state(round_), state(round_ - 1), memoryview(b"")), 0.0)
    return member


def hear(member: Member, round_: int, sequence: int, *, own: int = 100) -> Effects:
    """Let the other say that it has finished a round, with a state whose bytes are its own."""
    presence = Presence(
        run_id(SPEC), "run", round_, state(own + round_), state(own + round_ - 1), "working", 12.0, (), True
    )
    return member.handle(Received(OTHER, Records(((Record(OTHER, sequence, presence), 0.0),))), 0.0)


def phase(member: Member) -> Phase:
    return member.phase


def notices(effects: Effects) -> list[object]:
    return [effect.notice for effect in effects if isinstance(effect, Notify)]


def test_a_peer_that_has_the_mean_first_does_not_lead_us_away() -> None:
    member = working()
    member.handle(BeginExternalExchange(), 0.0)
    assert phase(member) is Phase.EXCHANGING
    assert notices(hear(member, 6, 2)) == []
    effects = member.handle(NewState(6, state(6), state(5), memoryview(b"")), 1.0)
    assert phase(member) is Phase.WORKING
    assert notices(effects) == []


def test_other_bytes_in_the_same_round_are_no_other_swarm() -> None:
    member = working()
    assert notices(hear(member, 5, 2)) == []
    assert member.view.expected(0.0) == {OTHER}


def test_who_lags_fetches_the_state_of_the_others() -> None:
    member = working()
    assert notices(hear(member, 8, 2)) == [Behind(8)]
    assert notices(member.handle(BeginExternalExchange(), 0.0)) == [
        Failed("LeftOut", "the swarm went on without this node")
    ]


def test_a_round_that_failed_ends_with_it() -> None:
    member = working()
    member.handle(BeginExternalExchange(), 0.0)
    member.handle(AbortRound(), 1.0)
    assert phase(member) is Phase.WORKING


def test_the_record_tells_where_hivemind_is() -> None:
    member = working()
    address = "/ip4/192.0.2.1/tcp/1/p2p/Qm"
    sent = [each for each in member.handle(SetEngine((address,)), 0.0) if isinstance(each, Send)]
    assert isinstance(sent[0].message, Records)
    assert sent[0].message.records[0][0].presence.engine == (address,)
    assert member.handle(SetEngine((address,)), 0.0) == [], "nothing is told twice"
    assert member.view.presence() == msgspec.structs.replace(member.view.presence(), engine=(address,))
