"""Exchanges over slow lines, in virtual time: who moves is waited for, who stops or trickles is not."""

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from core_net import peers
from sim.network import Network, Weather

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.all_reduce import DONE_GRACE, AllReduce
from shoal.gossip.averaging.announcing import ExchangeConfig
from shoal.gossip.deadlines import BEAT, LONGEST, SLOWEST_LINE, Deadline, bulk_seconds
from shoal.gossip.events import Arriving, Effects, Loan, Received, Send, SetTimer, Timer
from shoal.gossip.group import Group
from shoal.gossip.messages import Alive, Cut, Part

PATIENCE = 15.0
KBIT = 125.0
"""Bytes per second."""


class Slow:
    """An all-reduce of members whose lines are slow."""

    def __init__(self, numel: int, lines: list[float], *, chunk_numel: int = 65_536, codec: str = "float32"):
        """`lines`: bytes per second, out of each member to each other."""
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self.net = Network(Random(1), Weather(), self.at, self.deliver)
        self.names = peers(len(lines))
        self.bulk: list[tuple[float, PeerId, PeerId]] = []
        """When which bulk message began to leave, from whom and to whom."""
        self.cuts: list[tuple[float, PeerId, PeerId]] = []
        """When who was cut by whom."""
        self.net.on_bulk = lambda sender, to, message, n_bytes: self.bulk.append((self.now, sender, to))
        group = Group(b"g" * 16, 0, tuple(self.names), (1,) * len(lines), chunk_numel)
        share = 4 * numel * 2 * (len(lines) - 1) / len(lines)
        longest = bulk_seconds(share, SLOWEST_LINE, Deadline(LONGEST, PATIENCE), PATIENCE)
        config = ExchangeConfig(
            silence_timeout=PATIENCE,
            slow_timeout=PATIENCE,
            longest=longest,
            chunk_numel=chunk_numel,
            codec=codec,
        )
        rng = np.random.default_rng(3)
        self.vectors = [rng.normal(size=numel).astype(np.float32) for _ in lines]
        self.mean = np.mean(self.vectors, axis=0)
        self.cores = {
            name: AllReduce(name, group, 0, vector, 1.0, config)
            for name, vector in zip(self.names, self.vectors, strict=True)
        }
        for i, one in enumerate(self.names):
            for other in self.names[:i]:
                self.net.connect(one, other)
        self.net.bandwidth = {name: line for name, line in zip(self.names, lines, strict=True) if line}
        self._alarm: dict[PeerId, float] = {}

    def at(self, when: float, function: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, function, arguments))

    def stop(self, number: int) -> None:
        """Let a member be gone as if its power were: nothing of it comes any more, and nobody is told."""
        gone = self.names[number]
        del self.cores[gone]
        for link in self.net.links.values():
            if gone in link.ends:
                link.ways[gone].queue.clear()
                link.ways[gone].leaving = None

    def deliver(self, to: PeerId, frame: Received | Arriving) -> None:
        core = self.cores.get(to)
        if core is None or frame.peer not in self.cores:
            return
        if isinstance(frame, Arriving):
            core.arriving(frame.peer, frame.n_bytes, self.now)
        elif isinstance(frame.message, Alive | Part) or not core.is_over:
            self.carry_out(to, core.handle(frame.peer, frame.message, frame.data, self.now))  # type: ignore[arg-type]

    def carry_out(self, who: PeerId, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                if isinstance(effect.message, Cut) and effect.peer == effect.message.member:
                    self.cuts.append((self.now, effect.peer, who))
                self.net.send(who, effect.peer, effect.message, effect.data, self.now)
            elif isinstance(effect, SetTimer):
                self._alarm[who] = effect.at
                if effect.at < float("inf"):
                    self.at(effect.at, self._fire, who, effect.at)

    def _fire(self, who: PeerId, at: float) -> None:
        if self._alarm.get(who) == at and who in self.cores:
            self.carry_out(who, self.cores[who].fire(Timer.ALL_REDUCE, self.now))

    def run(self, until: float = 2 * LONGEST) -> None:
        for name, core in self.cores.items() if not self._alarm else ():
            self.carry_out(name, core.begin(self.now))
        while self._heap and self._heap[0][0] <= until:
            self.now, _, function, arguments = heapq.heappop(self._heap)
            function(*arguments)
        self.now = max(self.now, until) if until < LONGEST else self.now

    def has_agreed(self, *numbers: int) -> bool:
        return all(self.cores[self.names[number]].result is not None for number in numbers)


@pytest.mark.parametrize("lines", [(64, 64), (64, 10_000), (10_000, 64)])
def test_a_round_of_eight_patiences_succeeds_whichever_line_is_slow(lines: tuple[float, float]) -> None:
    """A quarter of a million numbers at 64 kbit/s: as 12 million at 3 Mbit/s, patience 15."""
    slow = Slow(250_000, [line * KBIT for line in lines])
    slow.run()
    assert slow.has_agreed(0, 1)
    assert 8 * PATIENCE < slow.now < 10 * PATIENCE
    assert np.allclose(slow.vectors[0], slow.mean, atol=1e-5)
    assert slow.vectors[0].tobytes() == slow.vectors[1].tobytes()


def test_a_round_takes_most_of_an_hour_if_the_bytes_do() -> None:
    slow = Slow(6_700_000, [68 * KBIT, 0.0], chunk_numel=524_288)
    slow.run()
    assert slow.has_agreed(0, 1)
    assert 0.85 * LONGEST < slow.now < LONGEST


def test_one_slow_line_of_several_holds_up_nobody_for_good() -> None:
    """The owners of the other parts are idle while they wait for it, and say what comes to them."""
    slow = Slow(300_000, [64 * KBIT, 0.0, 0.0, 0.0])
    slow.run()
    assert slow.has_agreed(0, 1, 2, 3)
    assert slow.cuts == []
    assert slow.now > 3 * PATIENCE


def test_a_member_that_stops_half_way_is_cut_a_patience_later_and_the_reason_says_how_far_it_came() -> None:
    slow = Slow(250_000, [64 * KBIT] * 2)
    slow.run(until=60.0)
    slow.stop(1)
    slow.run(until=60.0 + 2 * PATIENCE)
    core = slow.cores[slow.names[0]]
    assert core.is_left_out
    assert [
        60 + PATIENCE - 1 < at < 60 + PATIENCE + 2 for at, peer, _ in slow.cuts if peer == slow.names[1]
    ] == [True]
    assert core.failure == "peer1 sent nothing for 15 s; 0.478 of 1 MB had come"


def test_a_member_killed_in_the_middle_costs_a_patience_and_half_the_exchange_again() -> None:
    whole = Slow(300_000, [128 * KBIT] * 3, chunk_numel=8192)
    whole.run()
    seconds = whole.now
    assert whole.has_agreed(0, 1, 2)
    slow = Slow(300_000, [128 * KBIT] * 3, chunk_numel=8192)
    slow.run(until=seconds / 2)
    slow.stop(2)
    slow.run()
    assert slow.has_agreed(0, 1)
    assert slow.now < PATIENCE + 1.5 * seconds


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_a_trickler_is_cut_by_its_budget_and_told(share: float) -> None:
    slow = Slow(250_000, [64 * KBIT, share * 64 * KBIT])
    slow.run()
    longest = slow.cores[slow.names[0]].config.longest
    at = next(at for at, peer, _ in slow.cuts if peer == slow.names[1])
    assert PATIENCE <= at < DONE_GRACE * PATIENCE + longest
    assert slow.cores[slow.names[0]].is_left_out


def test_who_only_claims_that_bulk_comes_to_it_is_cut_like_a_trickler() -> None:
    slow = Slow(4096, [0.0, 0.0])
    core = slow.cores[slow.names[0]]
    core.begin(0.0)
    tick = 0
    while not core.is_over:
        tick += 1
        core.handle(slow.names[1], Alive(b"g" * 16, 0, 1000 * tick), b"", tick * BEAT)
        core.timer(tick * BEAT)
    assert tick * BEAT < 3 * PATIENCE + core.config.longest
    assert "too slow" in core.failure


@pytest.mark.parametrize("codec", ["float32", "float16"])
def test_nothing_more_is_sent_to_a_member_that_was_given_up(codec: str) -> None:
    slow = Slow(600_000, [64 * KBIT, 64 * KBIT, 64 * KBIT], codec=codec)
    slow.run(until=10.0)
    gone = slow.names[2]
    core = slow.cores[slow.names[0]]
    slow.carry_out(slow.names[0], core.lost(gone, slow.now))
    before = len([1 for _, sender, to in slow.bulk if (sender, to) == (slow.names[0], gone)])
    slow.run(until=60.0)
    after = len([1 for _, sender, to in slow.bulk if (sender, to) == (slow.names[0], gone)])
    assert before == after


def test_a_mean_that_is_lent_ends_with_the_exchange() -> None:
    slow = Slow(64, [0.0, 0.0], chunk_numel=16)
    core = slow.cores[slow.names[1]]
    sent = [effect for effect in core.begin(0.0) if isinstance(effect, Send)]
    effects = [
        reply
        for effect in slow.cores[slow.names[0]].begin(0.0)
        if isinstance(effect, Send)
        for reply in core.handle(slow.names[0], effect.message, bytes(effect.data), 0.0)  # type: ignore[arg-type]
    ]
    loans = [e.data for e in [*sent, *effects] if isinstance(e, Send) and isinstance(e.data, Loan)]
    assert len(loans) == 4
    assert not all(loan.is_over for loan in loans)
    core.abandon()
    assert all(loan.is_over for loan in loans)


def test_how_far_each_member_is_can_be_told_at_any_time() -> None:
    slow = Slow(600_000, [640 * KBIT, 640 * KBIT, 64 * KBIT])
    core = slow.cores[slow.names[0]]
    shares, seen = [core.share_done], []
    while not core.is_over:
        slow.run(until=slow.now + BEAT)
        shares.append(core.share_done)
        seen.append(core.attendees)
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert shares == sorted(shares)
    assert any(0 < share < 1 for share in shares)
    me, quick, late = zip(*seen, strict=True)
    assert [each.peer for each in seen[-1]] == slow.names
    assert any(
        there.bytes_received > others.bytes_received for there, others in zip(quick, late, strict=True)
    )
    assert me[-1].bytes_taken > 0
    assert me[-1].is_done
    assert not any(each.is_lost for each in seen[-1])


def test_a_member_that_was_lost_is_told_as_lost() -> None:
    slow = Slow(64, [0.0, 0.0, 0.0])
    core = slow.cores[slow.names[0]]
    core.begin(0.0)
    core.lost(slow.names[2], 1.0)
    assert [each.is_lost for each in core.attendees] == [False, False, True]
