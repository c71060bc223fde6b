"""The torch-free half of a trainer: asks over the line, states in slots."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_daemon import Attached, FakeDaemon, in_thread

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.charter import Charter, Mode
from shoal.gossip.errors import GossipError, LeftOut, Mismatch, TooFew, Unreachable
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.methods.base import About, Gathered, Method, Report, State, Steps, all_reduce, gather
from shoal.methods.diloco import DiLoCo
from shoal.methods.errors import BadOption
from shoal.methods.params import shared_specs
from shoal.methods.scaffold import Scaffold
from shoal.node.framing import Message
from shoal.node.trainer import ipc, session
from shoal.node.trainer.session import LineLost, Session

INITIAL = DiLoCo().init(np.array([1, 2, 3], np.float32))
SPEC = RunSpec(
    method="diloco",
    task="digits",
    tensors=(TensorSpec("w", "float32", (3,)),),
    shared=shared_specs(INITIAL),
)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(tmp_path / "s")
    yield made
    made.close()


class Gathering(DiLoCo):
    """A method that says how far one body can move the result."""

    about = About(paper="", exchanges="", use="", body_bound="One vote.")


def talk(
    daemon: FakeDaemon,
    work: Callable[[Attached], None],
    trainer: Callable[[Session], None],
    method: Method | None = None,
    spec: RunSpec = SPEC,
) -> None:
    """Run the daemon's side beside the trainer's."""
    background = in_thread(lambda: work(daemon.attach()))
    line = ipc.Line(daemon.path)
    session = Session(line, spec, method or DiLoCo(), INITIAL)
    try:
        trainer(session)
    finally:
        session.close()
    background.join()


def begun(session: Session) -> ipc.Begin:
    begin = session.wait_begin()
    assert begin is not None
    return begin


def test_a_state_goes_to_the_other_slot_and_is_read_from_there(daemon: FakeDaemon) -> None:
    def work(one: Attached) -> None:
        daemon.run_rounds([one], 1)
        one.begin()

    def trainer(session: Session) -> None:
        begin = begun(session)
        assert session.state(begin).params.tolist() == [1, 2, 3]
        after = State(np.full(3, 7, np.float32), {"outer_momentum": np.full(3, 8, np.float32)})
        session.finish(begin, after, Report(0.5, 10, 2, metrics={"accuracy": 0.25}))
        again = begun(session)
        assert (again.round, again.slot) == (1, 1)
        assert session.state(again).params.tolist() == [7, 7, 7]
        assert session.state(again).shared["outer_momentum"].tolist() == [8, 8, 8]

    talk(daemon, work, trainer)
    (finished,) = daemon.trainers[0].heard
    assert (finished.loss, finished.examples, finished.steps) == (0.5, 10, 2)
    assert finished.metrics == {"accuracy": 0.25}


def test_a_state_is_read_where_it_lies_and_the_next_one_is_made_there(daemon: FakeDaemon) -> None:
    def work(one: Attached) -> None:
        daemon.run_rounds([one], 1)
        one.begin()

    def trainer(session: Session) -> None:
        begin = begun(session)
        state = session.state(begin)
        slots = session.slots
        assert np.shares_memory(state.params, slots[0])
        assert np.shares_memory(state.shared["outer_momentum"], slots[0])
        with pytest.raises(ValueError, match="read-only"):
            state.params[0] = 1
        assert state.room is not None
        assert np.shares_memory(state.room.params, slots[1])
        state.room.params[:] = 7
        state.room.shared["outer_momentum"][:] = 8
        session.finish(begin, state.room, Report(0.5, 10, 2))
        assert session.state(begun(session)).params.tolist() == [7, 7, 7]

    talk(daemon, work, trainer)


def test_the_vector_of_an_only_all_reduce_never_leaves_the_memory_that_travels(daemon: FakeDaemon) -> None:
    def work(one: Attached) -> None:
        one.begin()
        ask = one.receive()
        assert one.segment.exchange.tolist() == [1, 2, 3]
        one.segment.exchange[:] *= 10
        one.send(ipc.Averaged(contributors=("x",)))
        assert ask.numel == 3

    def trainer(session: Session) -> None:
        lent = session.lent
        assert lent is not None
        lent[:] = [1, 2, 3]
        begin = begun(session)
        mean = session.answer(begin, all_reduce(lent, weight=1.0)).vector
        assert mean.tolist() == [10, 20, 30]
        assert np.shares_memory(mean, lent)

    talk(daemon, work, trainer)


def test_what_is_private_lies_in_no_slot(daemon: FakeDaemon) -> None:
    def work(one: Attached) -> None:
        daemon.run_rounds([one], 2)
        one.begin()

    def trainer(session: Session) -> None:
        for number in range(2):
            begin = begun(session)
            state = session.state(begin)
            private = {"kept": state.params} if number == 0 else state.private
            after = State(state.params + 1, state.shared, private)
            session.finish(begin, after, Report(0.5, 10, 2))
        assert session.state(begun(session)).private["kept"].tolist() == [1, 2, 3]

    talk(daemon, work, trainer)


def test_every_ask_has_its_number_and_an_answer_survives_the_next_ask(daemon: FakeDaemon) -> None:
    method = Scaffold()

    def asking() -> Steps[list[float]]:
        first = yield from all_reduce(np.array([1, 2], np.float32), weight=2.0, tag="a")
        second = yield from all_reduce(np.array([5], np.float32), weight=1.0, tag="b", discount=0.5)
        return [*first.vector.tolist(), *second.vector.tolist()]

    def work(one: Attached) -> None:
        one.begin()
        for index in range(2):
            ask = one.receive()
            assert (ask.index, ask.round) == (index, 0)
            assert (ask.weight, ask.discount) == [(2.0, 1.0), (1.0, 0.5)][index]
            one.segment.exchange[: ask.numel] *= 10
            one.send(ipc.Averaged(contributors=("x",)))

    def trainer(session: Session) -> None:
        assert session.lent is None
        assert session.answer(begun(session), asking()) == [10, 20, 50]

    talk(daemon, work, trainer, method)


def test_bodies_are_gathered(daemon: FakeDaemon) -> None:
    def work(one: Attached) -> None:
        one.begin()
        ask = one.receive()
        assert ask == ipc.AskGather(round=0, index=0, body=b"mine", tag="bodies")
        one.send(ipc.Gathered(bodies=(("a", b"mine"), ("b", b"theirs")), me="b"))

    def trainer(session: Session) -> None:
        answer = session.answer(begun(session), gather(b"mine"))
        assert answer == Gathered((("a", b"mine"), ("b", b"theirs")), "b")  # type: ignore[arg-type]

    talk(daemon, work, trainer, Gathering())


@pytest.mark.parametrize("mode", ["open", "invite", "closed"])
def test_a_method_that_says_not_how_far_a_body_moves_the_result_gathers_in_closed_runs_alone(
    daemon: FakeDaemon, mode: Mode
) -> None:
    def work(one: Attached) -> None:
        one.begin()
        if mode == "closed":
            assert one.receive() == ipc.AskGather(round=0, index=0, body=b"mine", tag="bodies")
            one.send(ipc.Gathered(bodies=(("a", b"mine"),), me="a"))

    def trainer(session: Session) -> None:
        begin = begun(session)
        if mode == "closed":
            session.answer(begin, gather(b"mine"))
            return
        with pytest.raises(BadOption, match=f"in a run of mode {mode} one peer may decide it: declare about"):
            session.answer(begin, gather(b"mine"))

    charter = str(Charter(mode=mode, founders=(bytes(32),))) if mode != "open" else ""
    talk(daemon, work, trainer, spec=msgspec.structs.replace(SPEC, charter=charter))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("TooFew", TooFew),
        ("LeftOut", LeftOut),
        ("Mismatch", Mismatch),
        ("Unreachable", Unreachable),
        ("NewerThanUs", GossipError),
    ],
)
def test_a_failed_ask_has_the_type_that_the_daemon_names(
    kind: str, expected: type[GossipError], daemon: FakeDaemon
) -> None:
    def work(one: Attached) -> None:
        one.begin()
        one.receive()
        one.send(ipc.AskFailed(kind=kind, text="why"))

    def trainer(session: Session) -> None:
        with pytest.raises(expected, match="why") as caught:
            session.answer(begun(session), all_reduce(np.zeros(1, np.float32), weight=1))
        assert type(caught.value) is expected

    talk(daemon, work, trainer)


def test_a_method_may_go_on_after_a_failed_ask(daemon: FakeDaemon) -> None:
    def stubborn() -> Steps[str]:
        try:
            yield from all_reduce(np.zeros(1, np.float32), weight=1)
        except GossipError as error:
            return f"alone: {error}"
        return "together"

    def work(one: Attached) -> None:
        one.begin()
        one.receive()
        one.send(ipc.AskFailed(kind="TooFew", text="1 of 2"))

    def trainer(session: Session) -> None:
        assert session.answer(begun(session), stubborn()) == "alone: 1 of 2"

    talk(daemon, work, trainer)


def test_a_method_that_asks_for_more_than_it_said_is_named(daemon: FakeDaemon) -> None:
    def trainer(session: Session) -> None:
        with pytest.raises(
            BadOption, match="asks for 4 numbers, but its traffic says that the largest all-reduce has 3"
        ):
            session.answer(begun(session), all_reduce(np.zeros(4, np.float32), weight=1))

    talk(daemon, Attached.begin, trainer)


def test_an_ask_among_some_names_them_and_comes_after_one_of_all(daemon: FakeDaemon) -> None:
    peers = (PeerId("me"), PeerId("you"))
    asked = []

    def both() -> Steps[None]:
        for among in ((), peers):
            yield from all_reduce(np.zeros(1, np.float32), weight=1, among=among)

    def work(one: Attached) -> None:
        one.begin()
        for _ in range(2):
            asked.append(one.receive())
            one.send(ipc.Averaged(contributors=("me",)))
        one.begin()

    def trainer(session: Session) -> None:
        session.answer(begun(session), both())
        with pytest.raises(
            BadOption, match="before it asked all of it for anything: ask for the holders first"
        ):
            session.answer(begun(session), all_reduce(np.zeros(1, np.float32), weight=1, among=peers))

    talk(daemon, work, trainer)
    assert [(ask.among, ask.kind) for ask in asked] == [((), "params"), (peers, "delta")]


def test_a_node_that_stops_in_the_middle_ends_the_line(daemon: FakeDaemon) -> None:
    def work(one: Attached) -> None:
        one.begin()
        one.receive()
        one.send(ipc.Stop())

    def trainer(session: Session) -> None:
        with pytest.raises(LineLost, match="the node stops"):
            session.answer(begun(session), all_reduce(np.zeros(1, np.float32), weight=1))

    talk(daemon, work, trainer)


@pytest.mark.parametrize("message", [ipc.Averaged(contributors=()), ipc.AskFailed(kind="TooFew", text="")])
def test_an_answer_that_nobody_asked_for_ends_the_line(message: Message, daemon: FakeDaemon) -> None:
    def trainer(session: Session) -> None:
        with pytest.raises(LineLost, match=f"sent {type(message).__name__} between rounds"):
            session.wait_begin()

    talk(daemon, lambda one: one.send(message), trainer)


def test_who_waits_for_an_answer_is_told_while_the_node_waits_for_company(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOOK_EVERY", 0.001)
    is_told = threading.Event()

    def work(one: Attached) -> None:
        one.begin()
        one.receive()
        one.segment.flags[ipc.ALONE] = 1
        assert is_told.wait(60)
        one.segment.flags[ipc.ALONE] = 0
        one.send(ipc.Averaged(contributors=("me", "other")))

    def trainer(session: Session) -> None:
        session.on_alone = is_told.set
        begin = begun(session)

        def asking() -> Steps[int]:
            averaged = yield from all_reduce(np.ones(3, np.float32), weight=1.0)
            return len(averaged.contributors)

        assert session.answer(begin, asking()) == 2

    talk(daemon, work, trainer)
