"""How rosters travel: told to those that take part, believed by their signatures, and bounded a second."""

from random import Random

import pytest
from rosters import NOW, World, key, peer

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.admission import MAX_STRIKES
from shoal.gossip.admission.roster import Word
from shoal.gossip.events import (
    BANNED,
    Drop,
    Effects,
    Notify,
    PeerFound,
    Received,
    Send,
    Timer,
    TimerFired,
)
from shoal.gossip.member import commands
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.messages import Fetch, NotHeld, PeerMessage, Ready, RosterHave, RosterNews, Want
from shoal.gossip.run_spec import RunSpec, TensorSpec

WORLD = World()
RUN = b"r" * 32
MEMBERS = WORLD.admit("carl", "dora")


def member(name: str, *words: Word, world: World = WORLD) -> Member:
    """Return a member of the run, with a trainer, whose roster holds these words."""
    made = Member(peer(name), MemberConfig(), Random(1), 1)
    roster = world.roster()
    roster.merge(words)
    made.admission.use(roster)
    made.admission.set_clock(float(NOW))
    spec = RunSpec(tensors=(TensorSpec("w", "float32", (4,)),), charter=str(world.charter))
    made.handle(commands.Attach(RUN, spec, mergeable=True), 0.0)
    return made


def said(effects: Effects, to: PeerId) -> list[PeerMessage]:
    return [each.message for each in effects if isinstance(each, Send) and each.peer == to]


def link(one: Member, other: Member, now: float = 1.0) -> None:
    """Link two members, and carry all that they say of the roster to and fro."""
    queue: list[tuple[Member, Member, object]] = [
        (a, b, each) for a, b in ((one, other), (other, one)) for each in a.handle(PeerFound(b.me), now)
    ]
    talk(queue, now)


def talk(queue: list[tuple[Member, Member, object]], now: float) -> None:
    for _ in range(1000):
        if not queue:
            return
        sender, receiver, effect = queue.pop(0)
        is_word = isinstance(effect, Send) and type(effect.message).__name__.startswith("Roster")
        if isinstance(effect, Send) and is_word and effect.peer == receiver.me:
            heard = receiver.handle(Received(sender.me, effect.message), now)
            queue += [(receiver, sender, each) for each in heard]


def hashes(*members: Member) -> set[bytes]:
    return {each.admission.roster.hash for each in members if each.admission.roster is not None}


def test_two_members_that_link_hear_of_each_other_what_they_lack() -> None:
    carl = member("carl", *MEMBERS, WORLD.edict("ban", "emil"))
    dora = member("dora", *MEMBERS, WORLD.edict("admit", "fred"))
    link(carl, dora)
    assert len(hashes(carl, dora)) == 1
    assert carl.view.colleagues.roster == frozenset(map(peer, ("fred", "carl", "dora")))


def test_a_member_that_knows_nobody_yet_hears_the_roster() -> None:
    carl, dora = member("carl", *MEMBERS), member("dora")
    assert dora.view.is_outsider
    link(carl, dora)
    assert len(hashes(carl, dora)) == 1
    assert not dora.view.is_outsider


def test_a_newcomer_with_an_invite_is_let_in_by_its_own_word() -> None:
    grant = WORLD.grant("carl", "token")
    redeem = WORLD.redeem("emil", "token", grant)
    carl, emil = member("carl", *MEMBERS), member("emil")
    emil.handle(commands.JoinBy(redeem), 0.5)
    link(carl, emil)
    assert carl.admission.is_inside(emil.me, 1.0)
    assert emil.admission.is_inside(carl.me, 1.0)


def test_an_invite_that_is_shown_too_late_lets_nobody_in() -> None:
    grant = WORLD.grant("carl", "token", not_after=NOW)
    carl, emil = member("carl", *MEMBERS), member("emil")
    emil.handle(commands.JoinBy(WORLD.redeem("emil", "token", grant)), 0.5)
    link(carl, emil, now=700.0)
    assert not carl.admission.is_inside(emil.me, 700.0)
    assert carl.admission.counts["invite used too late"] == 1
    dora = member("dora", *MEMBERS)  # but a member hands on what it heard in time
    dora.handle(Received(carl.me, RosterNews(WORLD.charter.id, (), (emil.roster_sync.own,))), 700.0)  # type: ignore[arg-type]
    assert dora.admission.is_inside(emil.me, 700.0)


def test_an_outsider_is_told_no_word_and_given_no_state() -> None:
    carl, out = member("carl", *MEMBERS), member("mallory")
    link(carl, out)
    roster = out.admission.roster
    assert roster is not None
    assert roster.words == []
    for message in (Ready(0, bytes(32)), Fetch(bytes(32), (0,)), Want(bytes(32))):
        effects = carl.handle(Received(out.me, message), 2.0)
        answers = [each for each in said(effects, out.me) if not isinstance(each, NotHeld)]
        assert not answers
    assert carl.admission.counts["not on the roster"] == 3


def test_news_is_told_on_to_members_and_to_whom_it_is_about() -> None:
    carl = member("carl", *MEMBERS)
    for name in ("dora", "emil", "mallory"):
        carl.handle(PeerFound(peer(name)), 1.0)
    ban = WORLD.edict("admit", "emil")
    roster = carl.admission.roster
    assert roster is not None
    roster.add(ban)
    effects = carl.handle(commands.Submit((ban,)), 2.0)
    assert any(isinstance(each, RosterNews) for each in said(effects, peer("dora")))
    assert any(isinstance(each, RosterNews) for each in said(effects, peer("emil")))
    assert not said(effects, peer("mallory"))
    assert Notify(commands.RosterChanged()) in effects


def test_a_banned_peer_loses_its_link_and_gets_none_again() -> None:
    carl = member("carl", *MEMBERS)
    carl.handle(PeerFound(peer("dora")), 1.0)
    news = RosterNews(WORLD.charter.id, (WORLD.edict("ban", "dora", epoch=2),), ())
    effects = carl.handle(Received(peer("emil"), news), 2.0)  # whoever brings it
    assert any(isinstance(each, RosterNews) for each in said(effects, peer("dora"))), "it is told so"
    assert not carl.admission.is_inside(peer("dora"), 2.0)
    assert Drop(peer("dora"), BANNED) in carl.handle(TimerFired(Timer.BEAT), 3.0)
    assert Drop(peer("dora"), BANNED) in carl.handle(PeerFound(peer("dora")), 3.0)


def test_words_that_nobody_signed_cost_a_peer_its_link_in_the_end() -> None:
    carl = member("carl", *MEMBERS)
    bad = RosterNews(WORLD.charter.id, (WORLD.edict("ban", "dora", by=("ann",)),), ())
    dropped = [
        isinstance(each, Drop)
        for i in range(MAX_STRIKES)
        for each in carl.handle(Received(peer("dora"), bad), float(i))
    ]
    assert any(dropped)
    assert carl.admission.is_inside(peer("dora"), 0.0)


def test_so_many_bytes_a_second_are_read_and_said() -> None:
    carl = member("carl", *MEMBERS)
    carl.handle(PeerFound(peer("mallory")), 1.0)
    grant = WORLD.grant("carl", "token", uses=1000)
    uses = [WORLD.redeem(f"s{i}", "token", grant) for i in range(40)]
    for use in uses:
        carl.handle(Received(peer("mallory"), RosterNews(WORLD.charter.id, (), (use,))), 2.0)
    assert 0 < carl.admission.counts["too much said of the roster"] < 40
    roster = carl.admission.roster
    assert roster is not None
    assert len(roster.redeems) <= 17  # four seconds of 4 KiB, a kilobyte each

    sent = [
        each
        for _ in range(400)
        for each in said(
            carl.handle(Received(peer("dora"), RosterHave(WORLD.charter.id, bytes(128), b"")), 3.0),
            peer("dora"),
        )
    ]
    assert sum(len(each.edicts) + len(each.redeems) for each in sent if isinstance(each, RosterNews)) <= 300


@pytest.mark.parametrize("mode", ["open", "closed"])
def test_a_banned_member_of_any_run_is_out(mode: str) -> None:
    world = World(mode=mode)  # type: ignore[arg-type]
    carl = member("carl", *world.admit("carl", "dora"), world=world)
    assert carl.admission.is_inside(peer("dora"), 1.0)
    news = RosterNews(world.charter.id, (world.edict("ban", "dora", epoch=2),), ())
    carl.handle(Received(peer("emil"), news), 1.0)
    assert not carl.admission.is_inside(peer("dora"), 1.0)
    assert bytes(key("dora").verify_key)


def test_a_user_refuses_a_peer_without_anybody_s_word() -> None:
    alone = Member(peer("carl"), MemberConfig(), Random(1), 1)
    alone.admission.set_clock(float(NOW))
    alone.handle(PeerFound(peer("dora")), 1.0)
    alone.admission.refused[peer("dora")] = NOW + 10.0
    assert Drop(peer("dora"), BANNED) in alone.handle(TimerFired(Timer.BEAT), 2.0)
    assert not alone.admission.is_inside(peer("dora"), 9.0)
    assert alone.admission.is_inside(peer("dora"), 10.0)
