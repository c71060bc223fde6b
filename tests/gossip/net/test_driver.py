"""The loop around a member, over hosts in memory and under a clock that jumps."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import trio
from memory import MemoryNet
from trio.testing import MockClock, wait_all_tasks_blocked
from workers import KEYS, Worker, codec

from shoal.crypto.keys import peer_id_of
from shoal.gossip import messages
from shoal.gossip.admission.admission import MAX_STRIKES, Admission
from shoal.gossip.events import (
    Dial,
    DialFailed,
    Drop,
    Effect,
    Learned,
    Notify,
    PeerFound,
    PeerLost,
    Publish,
    Received,
    Send,
    SetTimer,
    Timer,
    TimerFired,
)
from shoal.gossip.group import Exchanged
from shoal.gossip.host import Announced, FrameReceived, HostStatistics
from shoal.gossip.member import commands
from shoal.gossip.member.commands import Event
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.messages import Presence, Record, Records
from shoal.gossip.net.driver import Driver
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.gossip.wire import PLAIN

FIRST = commands.Failed("TooFew", "a notice")
ME, PEER, THIRD = (peer_id_of(bytes(key.verify_key)) for key in KEYS[:3])


class Scripted:
    """A member that notes what it is told, and does what the test says."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, Event]] = []
        self.admission = Admission()
        self.does: Callable[[Event], list[Effect]] = lambda event: []

    def begin(self, now: float) -> list[Effect]:
        return []

    def heard_(self, record: Record) -> Records:
        return Records(((record, 0.0),))

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.heard.append((now, event))
        return self.does(event)

    @property
    def events(self) -> list[Event]:
        return [event for _, event in self.heard]


class Bench:
    """One driver with a scripted member, and a host beside it in the test's hands."""

    def __init__(self) -> None:
        self.net = MemoryNet()
        self.host, self.other = self.net.host(ME), self.net.host(PEER)
        self.member = Scripted()
        self.notices: list[Any] = []
        self.driver = Driver(self.host, self.member, codec(0), self.notices.append)  # type: ignore[arg-type]
        self.peer_codec = codec(1)


def bench(test: Callable[[Bench], Awaitable[None]]) -> None:
    """Run a test while the driver and the network run."""

    async def main() -> None:
        made = Bench()
        async with trio.open_nursery() as nursery:
            await nursery.start(made.net.run)
            await nursery.start(made.driver.run)
            with trio.fail_after(1000):
                await test(made)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


# --- events ---------------------------------------------------------------------------------------


def test_frames_become_messages_of_the_peer_that_the_link_has_proved() -> None:
    async def test(bench: Bench) -> None:
        bench.net.link(PEER, ME)
        await trio.sleep(1)
        bench.other.send_nowait(ME, bench.peer_codec.encode(messages.Want(bytes(32))))
        bench.other.send_nowait(ME, bench.peer_codec.encode(messages.Chunk(bytes(32), 1)), b"data")
        await trio.sleep(1)
        assert bench.member.events == [
            PeerFound(PEER),
            Received(PEER, messages.Want(bytes(32)), b""),
            Received(PEER, messages.Chunk(bytes(32), 1), b"data"),
        ]

    bench(test)


def test_links_that_come_and_go_are_told_and_found_ones_remembered() -> None:
    async def test(bench: Bench) -> None:
        found: list[PeerFound] = []
        bench.driver.on_found = found.append
        bench.net.link(ME, PEER, "/memory/1")
        await trio.sleep(1)
        bench.net.cut(ME, PEER)
        await trio.sleep(1)
        assert bench.member.events == [PeerFound(PEER, "/memory/1"), PeerLost(PEER)]
        assert found == [PeerFound(PEER, "/memory/1")]

    bench(test)


# --- what is malformed ----------------------------------------------------------------------------


def test_a_link_is_closed_when_its_peer_has_sent_too_much_that_is_malformed() -> None:
    async def test(bench: Bench) -> None:
        bench.net.link(PEER, ME)
        for number in range(MAX_STRIKES):
            assert bench.net.is_linked(ME, PEER)
            bench.other.send_nowait(ME, PLAIN + b"\xc1" if number else b"")
            await trio.sleep(1)
        assert not bench.net.is_linked(ME, PEER)
        assert dict(bench.driver.admission.counts) == {
            "malformed frame": 1,
            "malformed message": MAX_STRIKES - 1,
        }
        assert bench.host.dropped == {"malformed message": 1}
        assert bench.member.events == [PeerFound(PEER), PeerLost(PEER)]

    bench(test)


def test_a_new_link_begins_without_strikes() -> None:
    async def test(bench: Bench) -> None:
        for _ in range(3):
            bench.net.link(PEER, ME)
            for _ in range(MAX_STRIKES - 1):
                bench.other.send_nowait(ME, b"nonsense")
            await trio.sleep(1)
            assert bench.net.is_linked(ME, PEER)
            bench.net.cut(ME, PEER)
            await trio.sleep(1)
        assert bench.driver.admission.counts == {"malformed frame": 3 * (MAX_STRIKES - 1)}

    bench(test)


def test_peers_of_other_runs_are_no_offenders() -> None:
    async def test(bench: Bench) -> None:
        bench.net.link(PEER, ME)
        bench.peer_codec.run = b"x" * 32
        for _ in range(3 * MAX_STRIKES):
            bench.other.send_nowait(ME, bench.peer_codec.encode(messages.Ready(1, bytes(32))))
        await trio.sleep(1)
        assert bench.net.is_linked(ME, PEER)
        assert bench.driver.admission.counts == {"other run": 3 * MAX_STRIKES}

    bench(test)


def test_who_hands_a_bad_announcement_on_is_not_blamed() -> None:
    async def test(bench: Bench) -> None:
        bench.net.link(PEER, ME)
        for _ in range(3 * MAX_STRIKES):
            bench.other.announce_nowait(b"nonsense")
        await trio.sleep(1)
        assert bench.net.is_linked(ME, PEER)
        assert bench.driver.admission.counts == {"bad envelope": 3 * MAX_STRIKES}

    bench(test)


def test_the_driver_outlives_what_no_codec_should_see() -> None:
    async def test(bench: Bench) -> None:
        bench.net.link(PEER, ME)
        dice = Random(0)
        for _ in range(500):
            frame = dice.choice([b"\x00", b"\x01", b""]) + dice.randbytes(dice.randrange(300))
            bench.net.later(bench.host, FrameReceived(PEER, frame, dice.randbytes(dice.randrange(3))))
            bench.net.later(bench.host, Announced(PEER, frame))
        await trio.sleep(1)
        assert sum(bench.driver.admission.counts.values()) == 1000

    bench(test)


# --- effects --------------------------------------------------------------------------------------


def test_effects_are_carried_out_in_order_and_notices_after_them() -> None:
    async def test(bench: Bench) -> None:
        seen: list[Effect] = []
        bench.driver.on_effect = seen.append
        bench.net.link(PEER, ME)
        await trio.sleep(1)
        effects: list[Effect] = [
            Notify(FIRST),
            Send(PEER, messages.Want(bytes(32))),
            Send(PEER, messages.Chunk(bytes(32), 0), b"bulk"),
            Notify(commands.FinishEarly()),
            Drop(PEER, "a reason"),
        ]
        at_notice: list[int] = []
        bench.driver._notify = lambda notice: at_notice.append(len(bench.host.dropped))
        bench.member.does = lambda event: effects
        bench.driver.command(commands.Finish())
        assert seen == effects
        assert at_notice == [1, 1], "both came when the link was closed already"
        assert bench.driver.admission.counts == {"a reason": 1}

    bench(test)


def test_a_notice_may_lead_to_a_command_whose_effects_come_later() -> None:
    async def test(bench: Bench) -> None:
        order: list[Any] = []
        bench.driver.on_effect = order.append
        bench.driver._notify = lambda notice: bench.driver.command(commands.Detach())
        first: list[Effect] = [Notify(FIRST), SetTimer(5.0, Timer.BEAT)]
        then: list[Effect] = [SetTimer(6.0, Timer.DIALS)]
        bench.member.does = lambda event: first if event == commands.Finish() else then
        bench.driver.command(commands.Finish())
        assert order == [*first, *then]

    bench(test)


def test_a_dial_ends_in_a_link_or_in_a_reason() -> None:
    async def test(bench: Bench) -> None:
        address = bench.other.addresses()[0]
        bench.member.does = lambda event: [Dial(event.address)] if isinstance(event, Learned) else []
        bench.driver.command(Learned(address, "book"))
        bench.driver.command(Learned(f"/memory/1/p2p/{THIRD}", "book"))
        await trio.sleep(1)
        assert bench.member.events[2:] == [
            PeerFound(PEER, address),
            DialFailed(f"/memory/1/p2p/{THIRD}", "refused"),
        ]

    bench(test)


def test_after_an_exchange_a_member_learns_what_was_sent_since_the_last_and_how_long_it_took() -> None:
    async def test(made: Bench) -> None:
        result = Exchanged(masks=(), contributors=(), takeovers=0)
        averaged = commands.Averaged(0, 0, result, 0.0, 0.0)
        for bulk in ((5000, 2.0), (5000, 2.0), (9000, 2.5)):
            made.host.statistics = lambda bulk=bulk: HostStatistics(bulk=bulk)  # type: ignore[method-assign,misc]
            made.driver._carry_out([Notify(averaged)])
        told = [event for event in made.member.events if isinstance(event, commands.Measured)]
        assert told == [commands.Measured(*each) for each in ((5000, 2.0), (0, 0.0), (4000, 0.5))]

    bench(test)


def test_an_announcement_is_our_own_sealed_presence() -> None:
    async def test(bench: Bench) -> None:
        presence = Presence(b"", "", 0, b"", b"", "helping", 12.0)
        bench.net.link(PEER, ME)
        await trio.sleep(1)
        bench.member.does = lambda event: [Publish(Records(((Record(ME, 7, presence), 0.0),)))]
        bench.driver.command(commands.Finish())
        await trio.sleep(1)
        events = [await bench.other.next_event() for _ in range(2)]
        assert isinstance(events[1], Announced)
        record = bench.peer_codec.open_record(events[1].sealed)
        assert (record.author, record.sequence, record.presence) == (ME, 7, presence)

    bench(test)


# --- timers ---------------------------------------------------------------------------------------


def test_timers_fire_once_at_their_time_and_a_name_set_again_moves() -> None:
    async def test(bench: Bench) -> None:
        start = trio.current_time()
        late, early, moved, stopped = Timer.GATHER, Timer.BEAT, Timer.FETCH, Timer.SERVING
        timers = [(late, 9.0), (early, 2.0), (moved, 3.0), (moved, 5.0), (stopped, 4.0)]
        effects: list[Effect] = [SetTimer(start + at, name) for name, at in timers]
        bench.member.does = lambda event: effects if event == commands.Finish() else []
        bench.driver.command(commands.Finish())
        bench.member.does = lambda event: []
        bench.driver._carry_out([SetTimer(float("inf"), stopped)])
        await trio.sleep(20)
        fired = [
            (at - start, event.name) for at, event in bench.member.heard if isinstance(event, TimerFired)
        ]
        assert fired == [(2.0, early), (5.0, moved), (9.0, late)]

    bench(test)


def test_a_timer_that_an_earlier_one_of_its_instant_moves_does_not_fire() -> None:
    async def test(bench: Bench) -> None:
        start = trio.current_time()
        bench.driver._carry_out([SetTimer(start + 1, Timer.BEAT), SetTimer(start + 1, Timer.DIALS)])
        bench.member.does = lambda event: (
            [SetTimer(start + 7, Timer.DIALS)] if event == TimerFired(Timer.BEAT) else []
        )
        await trio.sleep(20)
        assert [(at - start, event) for at, event in bench.member.heard] == [
            (1.0, TimerFired(Timer.BEAT)),
            (7.0, TimerFired(Timer.DIALS)),
        ]

    bench(test)


def test_a_timer_may_set_itself_again() -> None:
    async def test(bench: Bench) -> None:
        start = trio.current_time()
        bench.driver._carry_out([SetTimer(start + 1, Timer.BEAT)])
        bench.member.does = lambda event: [SetTimer(trio.current_time() + 3, Timer.BEAT)]
        await trio.sleep(11)
        assert [at - start for at, _ in bench.member.heard] == [1.0, 4.0, 7.0, 10.0]

    bench(test)


def test_after_a_standstill_what_was_sent_meanwhile_is_heard_before_a_timer() -> None:
    clock = MockClock()

    async def main() -> None:
        made = Bench()
        async with trio.open_nursery() as nursery:
            await nursery.start(made.net.run)
            await nursery.start(made.driver.run)
            made.member.does = lambda event: (
                [SetTimer(trio.current_time() + 2.0, Timer.FETCH)] if isinstance(event, Learned) else []
            )
            made.driver.command(Learned("/ip4/192.0.2.1/tcp/1", "peers"))
            await wait_all_tasks_blocked()
            clock.jump(5.0)  # three seconds late
            await wait_all_tasks_blocked()
            assert TimerFired(Timer.FETCH) not in made.member.events
            clock.jump(2.9)
            await wait_all_tasks_blocked()
            assert TimerFired(Timer.FETCH) not in made.member.events
            # Late again, but it has been put off already.
            clock.jump(1.0)
            await wait_all_tasks_blocked()
            assert made.member.events.count(TimerFired(Timer.FETCH)) == 1
            # One that was set for a moment that is over is not late.
            made.driver.command(Learned("/ip4/192.0.2.1/tcp/1", "peers"))
            made.member.does = lambda event: []
            made.driver._carry_out([SetTimer(trio.current_time() - 5.0, Timer.DIALS)])
            await wait_all_tasks_blocked()
            clock.jump(0.01)
            await wait_all_tasks_blocked()
            assert TimerFired(Timer.DIALS) in made.member.events
            nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)


# --- real members ---------------------------------------------------------------------------------


@pytest.mark.parametrize("numel", [3, 1000])
def test_three_members_average_and_agree_over_three_drivers(numel: int) -> None:
    spec = RunSpec(method="fedavg", task="digits", tensors=(TensorSpec("w", "float32", (numel,)),))

    async def main() -> list[Worker]:
        net = MemoryNet()
        async with trio.open_nursery() as nursery:
            await nursery.start(net.run)
            workers = [Worker(net, number, spec, rounds=5) for number in range(3)]
            for worker in workers:
                nursery.start_soon(worker.run)
            await trio.sleep(0.1)
            workers[1].driver.command(commands.AddAddress(workers[0].host.addresses()[0], "bootstrap"))
            for known in workers[:2]:
                workers[2].driver.command(commands.AddAddress(known.host.addresses()[0], "bootstrap"))
            with trio.fail_after(600):
                for worker in workers:
                    await worker.is_done.wait()
            nursery.cancel_scope.cancel()
        return workers

    workers = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert len({tuple(worker.hashes) for worker in workers}) == 1
    assert [worker.contributors for worker in workers] == [[3] * 5] * 3
    # The mean of 0, 1 and 2 is added five times, where 2 counts as 1: no more than the median.
    np.testing.assert_allclose(workers[0].state, np.full(numel, 5 * 2 / 3), rtol=1e-5)
    assert not any(worker.driver.admission.counts for worker in workers)


def test_a_member_that_has_said_goodbye_is_silent_and_forgotten() -> None:
    async def main() -> None:
        net = MemoryNet()
        drivers = []
        for number, me in enumerate((ME, PEER)):
            member = Member(me, MemberConfig(), Random(number), 1000)
            drivers.append(Driver(net.host(me), member, codec(number), lambda notice: None))
        leaver, stayer = drivers
        async with trio.open_nursery() as nursery:
            for task in (net.run, leaver.run, stayer.run):
                await nursery.start(task)
            net.link(ME, PEER)
            await trio.sleep(10)
            assert stayer.member.table.get(ME) is not None
            said: list[Effect] = []
            leaver.on_effect = said.append
            leaver.command(commands.Goodbye())
            await trio.sleep(0.1)
            assert stayer.member.table.get(ME) is None
            await trio.sleep(30)
            assert said == [Send(PEER, messages.Leave())]
            assert stayer.member.table.get(ME) is None
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
