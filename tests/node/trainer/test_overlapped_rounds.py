"""Overlapped rounds beside a fake daemon: work goes on while a mean travels, and nothing of it is lost."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_daemon import Attached, FakeDaemon, in_thread
from toy_learner import ToyLearner

from shoal.gossip.events import Vector
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.methods.base import Report, State
from shoal.methods.errors import Interrupted
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.node.trainer import ipc
from shoal.node.trainer.overlapped_rounds import Overlap
from shoal.node.trainer.session import LineLost, RunOver, Session

INITIAL = State(np.array([0.0], np.float32))
SPEC = RunSpec(method="fedavg", task="toy", tensors=(TensorSpec("w", "float32", (1,)),), delay=1)
STEPS = 4


class Stepping(ToyLearner):
    """Goes halfway to 16 with every step; `before` is told how many steps came before."""

    def __init__(self, session: Session, before: Callable[[int], None]) -> None:
        super().__init__([16], 3)
        self.session, self.before, self.taken = session, before, 0
        self.take: Callable[[], object] = lambda: None
        self._arrived = self.arrived

    @property
    def arrived(self):  # type: ignore[no-untyped-def]
        return self._step

    @arrived.setter
    def arrived(self, take) -> None:  # type: ignore[no-untyped-def]
        self._arrived = take

    def _step(self):  # type: ignore[no-untyped-def]
        self.taken += 1
        self.before(self.taken)
        if self.session.is_interrupted():
            raise Interrupted
        return self._arrived()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(tmp_path / "s")
    yield made
    made.close()


class Table:
    """A trainer whose steps wait for the daemon's word where a test wants that."""

    def __init__(self, daemon: FakeDaemon, work: Callable[["Table", Attached], None]) -> None:
        self.gates: dict[int, threading.Event] = {}
        self.reached: dict[int, threading.Event] = {}
        self.measured: list[list[float]] = []
        self.daemon = daemon
        background = in_thread(lambda: work(self, daemon.attach()))
        method = FedAvg(FedAvgConfig(steps=STEPS, lr=0.5))
        session = Session(ipc.Line(daemon.path), SPEC, method, INITIAL)
        self.learner = Stepping(session, self.wait)
        try:
            with pytest.raises(RunOver):
                Overlap(session, method, self.measure).run(self.learner)
        finally:
            session.close()
        background.join()

    def gate(self, *steps: int) -> None:
        """Hold the learner after these steps until `open`."""
        for step in steps:
            self.gates[step], self.reached[step] = threading.Event(), threading.Event()

    def wait_for(self, step: int) -> None:
        """Wait until the learner is held there."""
        assert self.reached[step].wait(60)

    def open(self, step: int) -> None:
        self.gates[step].set()

    def wait(self, step: int) -> None:
        if step in self.gates:
            self.reached[step].set()
            assert self.gates[step].wait(60)

    def measure(self, state: State, report: Report) -> Report:
        self.measured.append(state.params.tolist())
        return report


def asked(one: Attached) -> float:
    ask = one.receive()
    assert isinstance(ask, ipc.AskAllReduce), ask
    return float(one.segment.exchange[0])


def answer(one: Attached, mean: float) -> None:
    one.segment.exchange[0] = mean
    one.send(ipc.Averaged(contributors=("a", "b")))


def told(one: Attached, state: float) -> ipc.Finished:
    finished = one.receive()
    assert isinstance(finished, ipc.Finished), finished
    assert finished.slot == 1 - one.slot
    one.slot, one.round = finished.slot, finished.round + 1
    assert one.vector.tolist() == [state]
    return finished


def halfway(start: float, steps: int) -> float:
    return 16 - (16 - start) * 0.5**steps


def test_work_goes_on_while_a_mean_travels_and_is_carried_over_when_it_comes(daemon: FakeDaemon) -> None:
    def work(table: Table, one: Attached) -> None:
        table.gate(STEPS + 2, 2 * STEPS)
        one.begin()
        assert asked(one) == halfway(0, STEPS) == 15
        # The next work is two steps further before the mean is there.
        table.wait_for(STEPS + 2)
        answer(one, 7)
        table.open(STEPS + 2)
        finished = told(one, 7)
        assert finished.steps == STEPS
        assert finished.work_seconds > 0
        one.begin()
        table.wait_for(2 * STEPS)
        table.open(2 * STEPS)
        # Two steps from 15, then moved by 7 - 15, then two more.
        assert asked(one) == halfway(halfway(15, 2) - 8, 2)
        one.send(ipc.AskFailed(kind="LeftOut", text="the node stops"))
        assert isinstance(one.receive(), ipc.Idle)
        one.send(ipc.Stop())

    assert Table(daemon, work).measured == [[7.0]]


def test_a_mean_that_is_late_is_waited_for(daemon: FakeDaemon) -> None:
    def work(table: Table, one: Attached) -> None:
        table.gate(2 * STEPS)
        one.begin()
        asked(one)
        # Its next work is at its last step; only then the mean comes.
        table.wait_for(2 * STEPS)
        table.open(2 * STEPS)
        answer(one, 7)
        told(one, 7)
        one.begin()
        assert asked(one) == 7 + halfway(15, STEPS) - 15
        answer(one, 8)
        told(one, 8)
        one.send(ipc.Stop())

    Table(daemon, work)


def test_a_round_that_fails_keeps_the_state_and_loses_no_step(daemon: FakeDaemon) -> None:
    def work(table: Table, one: Attached) -> None:
        one.begin()
        asked(one)
        one.send(ipc.AskFailed(kind="TooFew", text="1 of 2"))
        idle = one.receive()
        assert (idle.round, idle.reason) == (0, "TooFew: 1 of 2")
        one.begin()
        # All eight steps from the start.
        assert asked(one) == halfway(0, 2 * STEPS)
        answer(one, 3)
        told(one, 3)
        one.send(ipc.Stop())

    assert Table(daemon, work).measured == [[3.0]]


def test_a_state_that_was_fetched_takes_the_place_of_local_work(daemon: FakeDaemon) -> None:
    def work(table: Table, one: Attached) -> None:
        one.begin()
        asked(one)
        one.segment.flags[ipc.INTERRUPT] = 1
        one.send(ipc.AskFailed(kind="LeftOut", text="the swarm is at another state"))
        assert isinstance(one.receive(), ipc.Idle)
        one.slot, one.round = 1 - one.slot, 9
        one.vector[:] = 4
        one.begin()
        assert asked(one) == halfway(4, STEPS)
        assert 9 in [call["round_"] for call in table.learner.calls]
        answer(one, 5)
        assert told(one, 5).round == 9
        one.send(ipc.Stop())

    Table(daemon, work)


def test_another_state_than_ours_after_a_round_is_noticed_by_its_bytes(daemon: FakeDaemon) -> None:
    def work(table: Table, one: Attached) -> None:
        one.begin()
        asked(one)
        answer(one, 7)
        told(one, 7)
        # The same round and the same slot, twice synced.
        one.vector[:] = 2
        one.begin()
        assert asked(one) == halfway(2, STEPS)
        answer(one, 2)
        told(one, 2)
        one.send(ipc.Stop())

    Table(daemon, work)


def test_peers_that_wait_are_heard_only_in_the_round_they_wait_in(daemon: FakeDaemon) -> None:
    seen: list[bool] = []
    hurried = threading.Event()

    def serve() -> None:
        one = daemon.attach()
        one.begin()
        one.segment.flags[ipc.HURRY] = 1
        hurried.set()
        asked(one)
        answer(one, 7)
        told(one, 7)
        one.begin()
        asked(one)

    background = in_thread(serve)
    method = FedAvg(FedAvgConfig(steps=STEPS, lr=0.5))
    session = Session(ipc.Line(daemon.path), SPEC, method, INITIAL)
    overlap = Overlap(session, method, lambda state, report: report)
    trained: Vector = np.array([1.0], np.float32)
    assert hurried.wait(60)
    assert overlap.is_hurried()
    overlap.contribute(trained, 1.0, Report(0, 1, 1), {})
    seen.append(overlap.is_hurried())
    overlap.settle()
    seen.append(overlap.is_hurried())
    overlap.contribute(trained, 1.0, Report(0, 1, 1), {})
    assert seen == [False, False]
    background.join()
    session.close()


def test_a_daemon_that_goes_in_the_middle_of_local_work_ends_it(daemon: FakeDaemon) -> None:
    def serve() -> None:
        one = daemon.attach()
        one.begin()
        asked(one)
        one.connection.close()

    background = in_thread(serve)
    method = FedAvg(FedAvgConfig(steps=1_000_000, lr=0.5))
    session = Session(ipc.Line(daemon.path), SPEC, method, INITIAL)
    overlap = Overlap(session, method, lambda state, report: report)
    overlap.contribute(np.array([1.0], np.float32), 1.0, Report(0, 1, 1), {})
    background.join()
    with pytest.raises(LineLost):
        overlap.run(ToyLearner([16], 3))
    session.close()
