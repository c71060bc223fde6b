"""A state from several donors: shared out by speed, verified, resumed; donors that die, lie, lag, forget."""

import heapq
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest

import shoal.gossip.state.tree_hash
from shoal.crypto.keys import PeerId
from shoal.gossip.events import Data, Drop, Effects, Send, SetTimer, Timer, Vector
from shoal.gossip.messages import Chunk, Fetch, NotHeld, Offer, Wait, Want
from shoal.gossip.state.fetch import ASK_AGAIN, Fetching
from shoal.gossip.state.serve import Serving, ServingConfig
from shoal.gossip.state.tree_hash import leaf, leaves, n_chunks, state_hash

ME = PeerId("me")
CHUNK = 64
STALL = 2.0


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shoal.gossip.state.tree_hash, "CHUNK_BYTES", CHUNK)


def made(chunks: int, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).standard_normal(chunks * CHUNK // 4).astype(np.float32)


def named(vector: Vector) -> bytes:
    return state_hash(vector.data)


class Net:
    """One node that fetches and donors that serve, in virtual time."""

    def __init__(self, vector: Vector, **rates: float) -> None:
        """`rates`: chunks per second by donor; what is on its way takes `latency` besides."""
        self.now, self.latency = 0.0, 0.01
        self.vector = vector
        self.donors: dict[PeerId, Serving] = {}
        self.rates = {PeerId(name): rate for name, rate in rates.items()}
        for name in self.rates:
            self.donors[name] = Serving(ServingConfig(rate=CHUNK * self.rates[name]))
            self.donors[name].hold(7, named(vector), b"p" * 32, vector.data)
        self.bend: Callable[[PeerId, Any, Data], tuple[Any, Data] | None] = lambda peer, m, data: (m, data)
        """What becomes of a donor's message on its way."""
        self.dead: set[PeerId] = set()
        self.dropped: list[tuple[PeerId, str]] = []
        self.sent: dict[PeerId, int] = dict.fromkeys(self.rates, 0)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = count()
        self._timers: dict[tuple[PeerId, Timer], float] = {}
        self.fetching = self.fetcher()

    def fetcher(self, **more: Any) -> Fetching:
        n_bytes = more.pop("n_bytes", self.vector.nbytes)
        self.fetching = Fetching(named(self.vector), 7, n_bytes, tuple(self.rates), STALL, **more)
        return self.fetching

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._serial), action))

    def kill(self, name: str) -> None:
        """Its link breaks."""
        self.dead.add(PeerId(name))
        self.ours(self.fetching.lost(PeerId(name), self.now))
        self.donors[PeerId(name)].lost(ME)

    def freeze(self, name: str) -> None:
        """It says nothing any more."""
        self.dead.add(PeerId(name))

    def run(self, seconds: float = 1000.0) -> float:
        """Run until the fetch is over, or so long; returns when that was."""
        self.ours(self.fetching.begin(self.now))
        return self.go_on(seconds)

    def go_on(self, seconds: float = 1000.0) -> float:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end and not self.fetching.is_over:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        return self.now

    def ours(self, effects: Effects) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self.at(self.now + self.latency, partial(self._to_donor, effect.peer, effect.message))
                case SetTimer():
                    self._set(ME, effect)
                case Drop():
                    self.dropped.append((effect.peer, effect.reason))

    def theirs(self, donor: PeerId, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, SetTimer):
                self._set(donor, effect)
            elif isinstance(effect, Send):
                self.sent[donor] += isinstance(effect.message, Chunk)
                bent = self.bend(donor, effect.message, bytes(effect.data))
                if bent is not None:
                    self.at(self.now + self.latency, partial(self._to_us, donor, *bent))

    def _to_donor(self, donor: PeerId, message: Any) -> None:
        if donor in self.dead:
            return
        serving = self.donors[donor]
        if isinstance(message, Want):
            self.theirs(donor, serving.want(ME, message, self.now))
        else:
            self.theirs(donor, serving.fetch(ME, message, self.now))

    def _to_us(self, donor: PeerId, message: Any, data: Data) -> None:
        if donor not in self.dead:
            self.ours(self.fetching.handle(donor, message, data, self.now))

    def _set(self, who: PeerId, timer: SetTimer) -> None:
        self._timers[who, timer.name] = timer.at
        if timer.at < float("inf"):
            self.at(max(self.now, timer.at), lambda: self._fire(who, timer))

    def _fire(self, who: PeerId, timer: SetTimer) -> None:
        if self._timers.get((who, timer.name)) != timer.at or who in self.dead:
            return
        del self._timers[who, timer.name]
        if who == ME:
            assert timer.name == Timer.FETCH
            self.ours(self.fetching.timer(self.now))
        else:
            assert timer.name == Timer.SERVING
            self.theirs(who, self.donors[who].go_on(self.now))

    def assert_done(self) -> None:
        assert self.fetching.is_done, self.fetching.failure
        assert np.array_equal(self.fetching.vector, self.vector)
        assert self.fetching.previous == b"p" * 32


def test_three_donors_are_three_times_as_fast_as_one() -> None:
    one, three = Net(made(100), a=20.0), Net(made(100), a=20.0, b=20.0, c=20.0)
    alone, together = one.run(), three.run()
    one.assert_done()
    three.assert_done()
    assert alone == pytest.approx(5.0, abs=0.3)
    assert alone > 2.5 * together
    assert min(three.fetching.served.values()) > 25


def test_a_fast_donor_gives_more_and_a_slow_one_does_not_hold_up_the_end() -> None:
    net = Net(made(60), fast=100.0, slow=1.0)
    seconds = net.run()
    net.assert_done()
    assert net.fetching.served[PeerId("fast")] >= 55
    # At its own pace the slow one alone would have owed its second chunk until then.
    assert seconds < 1.5


def test_hardly_a_chunk_is_sent_twice() -> None:
    net = Net(made(200), a=100.0, b=50.0, c=10.0)
    net.run()
    net.assert_done()
    assert sum(net.sent.values()) <= 200 + 4


def test_what_a_dead_donor_owed_is_asked_of_the_others() -> None:
    net = Net(made(100), a=20.0, b=20.0, c=20.0)
    net.at(1.0, lambda: net.kill("b"))
    seconds = net.run()
    net.assert_done()
    assert net.fetching.failed == []
    assert seconds < 3.0


def test_a_frozen_donor_is_given_up_after_the_stall_and_costs_no_more() -> None:
    net = Net(made(100), a=20.0, b=20.0)
    net.at(0.5, lambda: net.freeze("b"))
    seconds = net.run()
    net.assert_done()
    assert net.fetching.failed == ["b"]
    assert seconds < 0.5 + 90 / 20 + 0.5, "the other works on meanwhile"


@pytest.mark.parametrize("at", [0, 63, 64 * 57 + 5])
def test_a_flipped_byte_is_refused_and_its_donor_named(at: int) -> None:
    net = Net(made(100), good=20.0, bad=20.0)

    def flip(peer: PeerId, message: Any, data: Data) -> tuple[Any, Data]:
        if peer == "bad" and isinstance(message, Chunk):
            flipped = bytearray(data)
            flipped[at % CHUNK] ^= 1
            return message, bytes(flipped)
        return message, data

    net.bend = flip
    net.run()
    net.assert_done()
    assert net.dropped == [("bad", "chunk of a state does not verify")]
    assert net.fetching.liars == net.fetching.failed == ["bad"]
    assert set(net.fetching.served) == {"good"}


def test_an_offer_of_another_state_is_refused() -> None:
    net = Net(made(10), good=20.0, bad=20.0)

    def lie(peer: PeerId, message: Any, data: Data) -> tuple[Any, Data]:
        is_lie = peer == "bad" and isinstance(message, Offer)
        return message, leaves(made(10, seed=1).data) if is_lie else data

    net.bend = lie
    net.run()
    net.assert_done()
    assert net.dropped == [("bad", "offer does not hash to the state")]


def test_what_was_verified_before_a_break_is_not_sent_again() -> None:
    net = Net(made(100), a=20.0)
    net.at(2.0, lambda: net.kill("a"))
    net.run()
    first = net.fetching
    assert first.failure
    had = len(first.known_chunks())
    assert had >= 30
    net.dead.clear()
    net.sent[PeerId("a")] = 0
    net.fetcher(known=first.known_chunks())
    net.run()
    net.assert_done()
    assert net.fetching.reused == had
    assert net.sent[PeerId("a")] == 100 - had


def test_chunks_that_did_not_change_since_our_own_state_are_not_asked_for() -> None:
    net = Net(made(100), a=20.0)
    ours = net.vector.copy()
    ours[CHUNK * 10 : CHUNK * 12] += 1.0
    ours_leaves = leaves(ours.data)
    view = ours.data.cast("B")
    known = {ours_leaves[32 * i : 32 * i + 32]: view[64 * i : 64 * i + 64] for i in range(100)}
    net.fetcher(known=known)
    net.run()
    net.assert_done()
    assert net.fetching.reused == 92
    assert net.fetching.served == {"a": 8}


def test_known_bytes_that_were_overwritten_are_asked_for() -> None:
    net = Net(made(10), a=20.0)
    view = net.vector.copy().data.cast("B")
    known: dict[bytes, Data] = {leaf(view[0:64]): view[0:64]}
    view[5] ^= 1
    net.fetcher(known=known)
    net.run()
    net.assert_done()
    assert net.fetching.reused == 0


def test_chunks_found_on_disk_while_it_fetches_are_taken_off_the_lists() -> None:
    net = Net(made(100), a=20.0, b=20.0)
    view = net.vector.copy().data.cast("B")
    known: dict[bytes, Data] = {
        leaf(view[64 * i : 64 * i + 64]): view[64 * i : 64 * i + 64] for i in range(90)
    }
    net.at(0.1, lambda: net.ours(net.fetching.know(known, net.now)))
    seconds = net.run()
    net.assert_done()
    assert net.fetching.reused >= 85
    assert seconds < 1.5


def test_a_donor_that_comes_later_helps() -> None:
    net = Net(made(100), a=10.0, b=50.0)
    net.fetching = Fetching(named(net.vector), 7, net.vector.nbytes, (PeerId("a"),), STALL)
    net.at(1.0, lambda: net.ours(net.fetching.add([PeerId("a"), PeerId("b")], net.now)))
    seconds = net.run()
    net.assert_done()
    assert net.fetching.served[PeerId("b")] > 60
    assert seconds < 4.0


def test_a_spare_donor_takes_the_place_of_a_lost_one() -> None:
    net = Net(made(40), a=10.0, b=10.0, c=10.0, d=10.0, e=10.0)
    net.at(0.3, lambda: net.kill("a"))
    net.run()
    net.assert_done()
    assert net.fetching.served.get(PeerId("e"), 0) > 2


def test_a_chunk_that_was_lost_on_its_way_is_asked_for_again() -> None:
    net = Net(made(30), a=20.0)
    lost: list[int] = []

    def lose(peer: PeerId, message: Any, data: Data) -> tuple[Any, Data] | None:
        if isinstance(message, Chunk) and message.chunk in (3, 29) and message.chunk not in lost:
            lost.append(message.chunk)
            return None
        return message, data

    net.bend = lose
    seconds = net.run()
    net.assert_done()
    assert lost == [3, 29]
    assert net.sent[PeerId("a")] == 32
    assert seconds < 25.0, "the last one is missed by silence only"


@pytest.mark.parametrize("is_moving", [True, False])
def test_a_chunk_is_asked_for_again_unless_bytes_of_it_come(is_moving: bool) -> None:
    vector, donor = made(3), PeerId("a")
    fetching = Fetching(named(vector), 7, vector.nbytes, (donor,), STALL)
    fetching.begin(0.0)
    offer = Offer(named(vector), b"p" * 32, 7, vector.nbytes)
    fetching.handle(donor, offer, leaves(vector.data), 0.0)
    again: list[Any] = []
    for second in range(1, int(2 * ASK_AGAIN)):
        fetching.handle(donor, Wait(named(vector)), b"", float(second))
        if is_moving:
            fetching.arriving(donor, float(second))
        effects = fetching.timer(float(second))
        again += [each for each in effects if isinstance(each, Send) and isinstance(each.message, Fetch)]
    assert bool(again) != is_moving
    assert not fetching.failed


def test_a_donor_without_the_state_is_left_and_without_donors_it_fails() -> None:
    net = Net(made(10), a=20.0, b=20.0)
    net.donors[PeerId("a")].hold(8, b"x" * 32, b"y" * 32, made(10, seed=2).data, keeps_former=False)
    net.run()
    net.assert_done()
    assert net.fetching.failed == ["a"]
    net.donors[PeerId("b")] = Serving()
    net.fetcher()
    net.run()
    assert net.fetching.failure == "no peer that holds the swarm's state answered"


def test_a_donor_slower_than_the_stall_is_waited_for_as_long_as_it_lives() -> None:
    net = Net(made(4), slow=0.1)
    seconds = net.run()
    net.assert_done()
    assert 25 < seconds < 60
    assert net.fetching.failed == []


def test_a_run_of_unknown_size_is_fetched_if_it_is_not_too_large() -> None:
    net = Net(made(10), a=20.0)
    net.fetcher(n_bytes=None)
    net.run()
    net.assert_done()
    net.fetcher(n_bytes=None)
    huge = Offer(named(net.vector), b"", 7, 1 << 40)
    net.bend = lambda peer, message, data: (huge if isinstance(message, Offer) else message, data)
    net.run()
    assert net.fetching.failure
    assert net.fetching.n_bytes == 0, "nothing was allocated"


def test_the_donors_are_told_when_it_is_over() -> None:
    net = Net(made(10), a=20.0, b=1.0)
    net.run()
    net.assert_done()
    while net._heap and net.now < 30:
        net.now, _, action = heapq.heappop(net._heap)
        action()
    for serving in net.donors.values():
        assert not serving._line
    assert sum(net.sent.values()) <= 12


def test_nothing_that_a_stranger_says_matters() -> None:
    net = Net(made(10), a=20.0)
    net.fetching.begin(0.0)
    stranger = PeerId("x")
    state = named(net.vector)
    for message, data in (
        (Offer(state, b"", 7, 640), leaves(net.vector.data)),
        (Chunk(state, 0), bytes(64)),
        (NotHeld(state), b""),
        (Wait(state), b""),
        (Fetch(state, ()), b""),
    ):
        assert net.fetching.handle(stranger, message, data, 0.1) == []  # type: ignore[arg-type]
    assert net.fetching.handle(PeerId("a"), Chunk(state, 0), bytes(64), 0.1) == [], "not asked for"
    assert n_chunks(net.vector.nbytes) == 10
