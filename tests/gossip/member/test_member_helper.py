"""A node without a trainer keeps the swarm's state, and hands it to whoever comes."""

import random
from collections import deque

import numpy as np
import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Effects, Notify, PeerFound, Received, Send, Timer, TimerFired
from shoal.gossip.member.commands import Attach, Event, NewState, Synced
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id
from shoal.gossip.state.tree_hash import state_hash

SPEC = RunSpec(method="fedavg", task="digits", tensors=(TensorSpec("w", "float32", (300_000,)),))
RUN = run_id(SPEC)


class Nodes:
    """Members that hand each other every message at once, under a clock that the test turns."""

    def __init__(self, *names: str, awaiting: str = "") -> None:
        """`awaiting`: whose trainer is still to come."""
        self.now = 0.0
        self.frozen: set[PeerId] = set()
        self.members = {
            PeerId(name): Member(
                PeerId(name), MemberConfig(awaits_trainer=name == awaiting), random.Random(1), 1
            )
            for name in names
        }
        self.notices: dict[PeerId, list[object]] = {name: [] for name in self.members}
        self.queue: deque[tuple[PeerId, Send]] = deque()

    def tell(self, name: str, event: Event) -> None:
        self.take(PeerId(name), self.members[PeerId(name)].handle(event, self.now))
        while self.queue:
            sender, sent = self.queue.popleft()
            if sent.peer in self.frozen:
                continue
            if sent.peer in self.members and sent.peer in self.members[sender].table.connected:
                received = Received(sender, sent.message, bytes(sent.data))
                self.take(sent.peer, self.members[sent.peer].handle(received, self.now))

    def take(self, sender: PeerId, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.queue.append((sender, effect))
            elif isinstance(effect, Notify):
                self.notices[sender].append(effect.notice)

    def link(self, one: str, other: str) -> None:
        for me, peer in ((one, other), (other, one)):
            self.members[PeerId(me)].table.connected.add(PeerId(peer))
        self.tell(one, PeerFound(PeerId(other)))
        self.tell(other, PeerFound(PeerId(one)))

    def beat(self, name: str, seconds: float = 3.0) -> None:
        self.now += seconds
        self.tell(name, TimerFired(Timer.BEAT))


def vector(value: float) -> np.ndarray:
    return np.full(300_000, value, dtype=np.float32)


def hold(nodes: Nodes, name: str, round_: int, value: float) -> bytes:
    data = vector(value)
    state = state_hash(data.data)
    nodes.tell(name, Attach(RUN, SPEC, True))
    nodes.tell(name, NewState(round_, state, b"", data.data))
    return state


def test_a_helper_takes_over_the_state_of_the_trainers() -> None:
    nodes = Nodes("trainer", "helper")
    nodes.link("trainer", "helper")
    state = hold(nodes, "trainer", 7, 1.5)
    nodes.beat("helper")
    helper = nodes.members[PeerId("helper")]
    assert (helper.state, helper.round) == (state, 7)
    assert helper.phase.value == "helping"


def test_a_newcomer_gets_from_the_helper_what_a_frozen_trainer_does_not_give() -> None:
    nodes = Nodes("trainer", "helper", "newcomer")
    nodes.link("trainer", "helper")
    state = hold(nodes, "trainer", 7, 1.5)
    nodes.beat("helper")
    nodes.link("helper", "newcomer")
    nodes.link("trainer", "newcomer")
    nodes.frozen.add(PeerId("trainer"))
    hold(nodes, "newcomer", 0, 0.0)
    nodes.beat("newcomer")
    synced = [notice for notice in nodes.notices[PeerId("newcomer")] if isinstance(notice, Synced)]
    assert [(notice.round, notice.state) for notice in synced] == [(7, state)]
    assert set(synced[0].donors) == {"helper"}
    assert np.array_equal(synced[0].vector, vector(1.5))


def bytes_sent(nodes: Nodes) -> int:
    return sum(member.serving.sent_bytes for member in nodes.members.values())


@pytest.mark.parametrize("round_", [0, 7])
def test_a_node_whose_trainer_is_still_to_come_is_sent_no_state(round_: int) -> None:
    nodes = Nodes("trainer", "starting", awaiting="starting")
    nodes.link("trainer", "starting")
    hold(nodes, "trainer", round_, 1.5)
    nodes.beat("starting")
    nodes.beat("starting")
    assert bytes_sent(nodes) == 0


def test_trainers_that_start_one_after_the_other_from_one_state_send_none() -> None:
    nodes = Nodes("first", "second", awaiting="second")
    nodes.link("first", "second")
    state = hold(nodes, "first", 0, 1.5)
    nodes.beat("second")
    assert hold(nodes, "second", 0, 1.5) == state
    nodes.beat("second")
    assert bytes_sent(nodes) == 0


def test_a_newcomer_is_sent_the_state_of_the_swarm_once() -> None:
    nodes = Nodes("trainer", "newcomer", awaiting="newcomer")
    nodes.link("trainer", "newcomer")
    hold(nodes, "trainer", 7, 1.5)
    nodes.beat("newcomer")
    hold(nodes, "newcomer", 0, 0.0)
    nodes.beat("newcomer")
    assert [notice for notice in nodes.notices[PeerId("newcomer")] if isinstance(notice, Synced)]
    assert bytes_sent(nodes) == vector(1.5).nbytes


def test_a_helper_is_sent_no_state_that_every_trainer_makes_for_itself() -> None:
    nodes = Nodes("trainer", "helper")
    nodes.link("trainer", "helper")
    hold(nodes, "trainer", 0, 1.5)
    nodes.beat("helper")
    assert bytes_sent(nodes) == 0
