"""A member without the base fetches it from several at once, and takes no wrong block of anyone."""

import random
from collections import Counter, deque
from collections.abc import Callable

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.events import (
    Data,
    Drop,
    Effects,
    Loan,
    Notify,
    PeerFound,
    PeerLost,
    Received,
    Send,
    SetTimer,
    Timer,
    TimerFired,
)
from shoal.gossip.member.commands import BaseArriving, BaseFetched, Event, FetchBase, HoldBase, Refused
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.messages import Chunk, NotHeld, Offer, PeerMessage, Want
from shoal.gossip.run_spec import TensorSpec
from shoal.gossip.state.base_blocks import BaseBlocks, BaseTree
from shoal.gossip.state.pinned_hash import BLOCK_BYTES

ME = PeerId("newcomer")
GIVERS = tuple(PeerId(name) for name in ("a", "b", "c"))
BLOCKS = 40
TREE = BaseTree([TensorSpec("base", "float32", (BLOCKS, BLOCK_BYTES // 4))])
BASE = memoryview(np.random.default_rng(7).bytes(TREE.n_bytes))
LEAVES = b"".join(TREE.leaf(BASE[TREE.span(chunk)]) for chunk in range(BLOCKS))
NAME = TREE.root(LEAVES)


def place(have: frozenset[int] = frozenset(), leaves: bytes = b"") -> BaseBlocks:
    data = memoryview(bytearray(TREE.n_bytes))
    for chunk in have:
        data[TREE.span(chunk)] = BASE[TREE.span(chunk)]
    return BaseBlocks(NAME, TREE, data, leaves, have)


class Nodes:
    """A newcomer and three givers that hand each other messages in turn; the test may bend what is said."""

    def __init__(self, holders: tuple[PeerId, ...] = GIVERS) -> None:
        self.now = 0.0
        self.members = {
            name: Member(name, MemberConfig(awaits_trainer=name == ME), random.Random(1), 1)
            for name in (ME, *GIVERS)
        }
        self.notices: list[object] = []
        self.blocks: Counter[PeerId] = Counter()
        self.queue: deque[tuple[PeerId, Send]] = deque()
        self.timers: dict[tuple[PeerId, Timer], float] = {}
        self.bend: Callable[[PeerId, PeerMessage, Data], Data] = lambda peer, message, data: data
        for giver in holders:
            self.take(giver, self.members[giver].handle(HoldBase(whole()), self.now))
        for giver in GIVERS:
            self.link(giver)

    def link(self, giver: PeerId) -> None:
        for me, peer in ((ME, giver), (giver, ME)):
            self.members[me].table.connected.add(peer)
            self.take(me, self.members[me].handle(PeerFound(peer), self.now))

    def kill(self, giver: PeerId) -> None:
        self.members[ME].table.connected.discard(giver)
        del self.members[giver]
        self.take(ME, self.members[ME].handle(PeerLost(giver), self.now))

    def take(self, sender: PeerId, effects: Effects) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self.queue.append((sender, effect))
                case Notify() if sender == ME:
                    self.notices.append(effect.notice)
                case Drop() if sender == ME:
                    self.kill(effect.peer)
                case SetTimer():
                    self.timers[sender, effect.name] = effect.at

    def run(self, event: Event, until: Callable[[], bool] = lambda: False) -> None:
        self.take(ME, self.members[ME].handle(event, self.now))
        for _ in range(5000):
            if until():
                return
            if self.queue:
                sender, sent = self.queue.popleft()
                if sent.peer in self.members and sender in self.members:
                    assert not isinstance(sent.data, Loan)
                    data = self.bend(sender, sent.message, sent.data)
                    self.blocks[sender] += isinstance(sent.message, Chunk)
                    received = Received(sender, sent.message, bytes(data))
                    self.take(sent.peer, self.members[sent.peer].handle(received, self.now))
                continue
            (who, name), at = min(self.timers.items(), key=lambda known: known[1])
            if at > self.now + 100:
                return
            self.now = max(self.now, at)
            del self.timers[who, name]
            if who in self.members:
                self.take(who, self.members[who].handle(TimerFired(name), self.now))

    def done(self) -> bool:
        return any(isinstance(notice, BaseFetched) for notice in self.notices)


def whole() -> BaseBlocks:
    return BaseBlocks(NAME, TREE, BASE, LEAVES, frozenset(range(BLOCKS)))


def test_several_givers_bring_it_and_the_newcomer_hands_it_on() -> None:
    nodes, base = Nodes(), place()
    nodes.run(FetchBase(base), nodes.done)
    assert base.data == BASE
    assert all(nodes.blocks[giver] >= 3 for giver in GIVERS)
    told = [notice for notice in nodes.notices if isinstance(notice, BaseArriving)]
    assert [notice.missing for notice in told] == sorted((n.missing for n in told), reverse=True)
    assert told[0].leaves == LEAVES
    answers = nodes.members[ME].handle(Received(GIVERS[0], Want(NAME), b""), nodes.now)
    assert any(isinstance(e, Send) and isinstance(e.message, Offer) for e in answers)


def test_a_giver_that_is_killed_is_done_without() -> None:
    nodes, base = Nodes(), place()
    nodes.run(FetchBase(base), lambda: nodes.blocks[GIVERS[0]] == 2)
    nodes.kill(GIVERS[0])
    nodes.run(TimerFired(Timer.BASE), nodes.done)
    assert base.data == BASE
    assert nodes.blocks[GIVERS[0]] == 2


def test_what_lies_on_the_disk_is_not_sent_again() -> None:
    have = frozenset(range(0, BLOCKS, 2))
    nodes, base = Nodes(), place(have, LEAVES)
    nodes.run(FetchBase(base), nodes.done)
    assert base.data == BASE
    assert nodes.blocks.total() <= BLOCKS // 2 + 2 * len(GIVERS)


def test_whole_on_the_disk_nobody_is_asked() -> None:
    nodes, base = Nodes(), place(frozenset(range(BLOCKS)), LEAVES)
    nodes.run(FetchBase(base), nodes.done)
    assert nodes.done()
    assert nodes.blocks.total() == 0


def test_a_giver_of_wrong_blocks_or_leaves_is_dropped_and_nothing_of_it_stays() -> None:
    nodes, base = Nodes(), place()

    def bend(peer: PeerId, message: PeerMessage, data: Data) -> Data:
        is_bent = (peer, type(message)) in ((GIVERS[0], Chunk), (GIVERS[1], Offer))
        return bytes(len(bytes(data))) if is_bent else data

    nodes.bend = bend
    nodes.run(FetchBase(base), nodes.done)
    assert base.data == BASE
    assert GIVERS[0] not in nodes.members
    assert GIVERS[1] not in nodes.members
    assert {n.peer for n in nodes.notices if isinstance(n, Refused)} == set(GIVERS[:2])


def test_who_comes_to_hold_it_is_asked_again() -> None:
    nodes, base = Nodes(holders=()), place()
    said = 0

    def count(peer: PeerId, message: PeerMessage, data: Data) -> Data:
        nonlocal said
        said += isinstance(message, NotHeld)
        return data

    nodes.bend = count
    nodes.run(FetchBase(base), lambda: said == 3)
    nodes.take(GIVERS[2], nodes.members[GIVERS[2]].handle(HoldBase(whole()), nodes.now))
    nodes.run(TimerFired(Timer.BEAT), nodes.done)
    assert base.data == BASE
    assert {giver for giver, n in nodes.blocks.items() if n} == {GIVERS[2]}
