"""The face module, and a plain loop in a swarm of two beside a fake daemon."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_daemon import FakeDaemon, in_thread
from torch import nn
from torch.nn import functional

import shoal
from shoal.gossip.run_spec import RunSpec
from shoal.methods.errors import BadOption
from shoal.methods.learning.model_tensors import read_model, write_model
from shoal.methods.tasks.digits import Digits
from shoal.node.errors import BadConfig, NotRunning, UserError
from shoal.node.framing import frame
from shoal.node.trainer import ipc


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "h" / "run").mkdir(parents=True)
    return tmp_path / "h"


@pytest.fixture
def daemon(home: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(home / "run" / "trainer.sock")
    yield made
    made.close()


class Loop:
    """A user's own loop."""

    def __init__(self, home: Path, share: str = "1/2", seed: int = 0, **options: object) -> None:
        self.x, self.y = Digits(share=share).train_data()
        self.dice = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = nn.Linear(64, 10)
        self.inner = torch.optim.SGD(self.model.parameters(), lr=0.1)
        keywords = {"every": 5, "method": "fedavg", "home": home, "weight": len(self.x)} | options
        self.swarm = shoal.SwarmOptimizer(self.inner, self.model, **keywords)  # type: ignore[arg-type]

    def steps(self, count: int) -> None:
        for _ in range(count):
            batch = torch.randint(len(self.x), (32,), generator=self.dice)
            self.swarm.zero_grad()
            loss = functional.cross_entropy(self.model(self.x[batch]), self.y[batch])
            loss.backward()
            self.swarm.report(loss=loss.item())
            self.swarm.step()

    @property
    def vector(self) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return read_model(self.model)


def test_importing_the_face_loads_neither_torch_nor_libp2p() -> None:
    code = "import shoal, sys; assert shoal.State; print({'torch', 'libp2p', 'trio'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_every_name_of_the_face_is_there() -> None:
    for name in shoal.__all__:
        assert getattr(shoal, name)
    assert dir(shoal) == shoal.__all__


def test_without_torch_the_face_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import shoal\n"
        "try: shoal.SwarmOptimizer\n"
        "except ImportError as error: print(error)"
    )
    told = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert told == "shoal.SwarmOptimizer needs torch: pip install 'shoal[torch]'\n"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="it has: About"):
        shoal.Tusk  # noqa: B018  # looking is the test


def test_two_loops_end_with_the_same_model(daemon: FakeDaemon, home: Path) -> None:
    loops: list[Loop] = []

    def user(index: int) -> None:
        loop = Loop(home, share=f"{index}/2", seed=index)
        loops.append(loop)
        loop.steps(15)
        loop.swarm.close()

    def serve() -> None:
        one, two = daemon.attach(), daemon.attach()
        two.segment.slots[0][:] = one.segment.slots[0]
        daemon.run_rounds([one, two], 3)
        for trainer in (one, two):
            trainer.send(ipc.Stop())

    serving = in_thread(serve)
    users = [threading.Thread(target=user, args=(index,)) for index in (1, 2)]
    for thread in users:
        thread.start()
    for thread in users:
        thread.join(250)
    serving.join()
    assert np.array_equal(loops[0].vector, loops[1].vector)
    assert np.array_equal(loops[0].vector, daemon.trainers[0].vector)
    assert [loop.swarm.is_finished for loop in loops] == [True, True]
    last = daemon.trainers[0].heard[-1]
    assert last.steps == 5
    assert 0 < last.loss < 2


def test_with_a_delay_a_loop_goes_on_while_its_model_travels(daemon: FakeDaemon, home: Path) -> None:
    theirs = np.full(650, 0.5, np.float32)
    contributed: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
    answered = threading.Event()

    def serve() -> None:
        one = daemon.attach()
        assert one.attach.spec.delay == 1
        one.begin()
        ask = one.receive()
        contributed.append(one.segment.exchange[: ask.numel].copy())
        one.segment.exchange[: ask.numel] = theirs
        may_answer.wait(60)
        one.send(ipc.Averaged(contributors=("a", "b")))
        answered.set()
        finished = one.receive()
        assert np.array_equal(one.segment.slots[finished.slot], theirs)
        assert finished.steps == 5
        assert finished.work_seconds > 0
        may_end.wait(60)
        one.send(ipc.Stop())

    may_answer, may_end = threading.Event(), threading.Event()
    serving = in_thread(serve)
    loop = Loop(home, delay=1)
    loop.steps(5)
    sent = loop.vector
    loop.steps(3)
    # Three steps further, and the mean is not there: nothing has waited.
    gone_on = loop.vector
    may_answer.set()
    assert answered.wait(60)
    loop.steps(1)
    assert np.array_equal(contributed[0], sent)
    moved = loop.vector - gone_on
    assert np.allclose(moved, theirs - sent, atol=0.2)
    assert not np.array_equal(loop.vector, theirs)
    may_end.set()
    while not loop.swarm.is_finished:
        loop.steps(1)
    serving.join()
    assert np.array_equal(loop.vector, theirs)
    assert loop.swarm.rounds == 1
    loop.swarm.close()


def test_a_state_that_comes_while_a_model_travels_is_taken_over(daemon: FakeDaemon, home: Path) -> None:
    theirs = np.full(650, 0.25, np.float32)

    def serve() -> None:
        one = daemon.attach()
        one.begin()
        one.receive()
        one.segment.flags[ipc.INTERRUPT] = 1
        one.send(ipc.AskFailed(kind="LeftOut", text="the swarm is at another state"))
        assert isinstance(one.receive(), ipc.Idle)
        one.slot, one.round = 1 - one.slot, 3
        one.vector[:] = theirs
        one.begin()

    serving = in_thread(serve)
    loop = Loop(home, delay=1)
    while loop.swarm.rounds == 0:
        loop.steps(1)
    serving.join()
    assert np.array_equal(loop.vector, theirs)
    loop.swarm.close()


def test_a_loop_that_comes_when_the_run_is_over_goes_on_alone(daemon: FakeDaemon, home: Path) -> None:
    serving = in_thread(lambda: daemon.attach().send(ipc.Stop()))
    loop = Loop(home, delay=1)
    serving.join()
    assert loop.swarm.is_finished
    before = loop.vector
    loop.steps(6)
    assert not np.array_equal(loop.vector, before)
    loop.swarm.close()


def test_a_delay_that_there_is_not_is_refused(home: Path) -> None:
    with pytest.raises(BadOption, match="delay = 2: expected `int` <= 1"):
        Loop(home, delay=2)


def spec_told(daemon: FakeDaemon, home: Path, **options: Any) -> RunSpec:
    """Return the run that a loop with these options tells its node."""
    heard: list[ipc.Attach] = []

    def serve() -> None:
        attached = daemon.attach()
        heard.append(attached.attach)
        attached.begin()

    serving = in_thread(serve)
    loop = Loop(home, **options)
    serving.join()
    loop.swarm.close()
    return heard[0].spec


def test_what_peers_must_agree_on_is_in_the_run_that_the_node_is_told(daemon: FakeDaemon, home: Path) -> None:
    spec = spec_told(daemon, home, codec="int8", exchange="pairwise")
    assert (spec.codec, spec.exchange, spec.quorum, spec.combine) == ("int8", "pairwise", 1, "mean")


@pytest.mark.parametrize(("options", "combine"), [({}, "clip"), ({"combine": "median"}, "median")])
def test_a_loop_in_an_open_run_clips_as_a_node_does_unless_it_is_told(
    daemon: FakeDaemon, home: Path, options: dict[str, Any], combine: str
) -> None:
    assert spec_told(daemon, home, **options).combine == combine


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"codec": "int3"}, "no codec 'int3'"),
        ({"codec": "topk"}, "take --method diloco"),
        ({"exchange": "pairwise", "quorum": 2}, "leave out --quorum"),
        ({"exchange": "pairwise", "method": "diloco"}, "exchange pairwise: diloco"),
        ({"exchange": "pairwise", "combine": "median"}, "exchange pairwise hands on sums"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_node_is_started(
    options: dict[str, Any], reason: str, home: Path
) -> None:
    with pytest.raises(BadConfig, match=reason):
        Loop(home, **options)


def test_a_newcomer_takes_over_the_swarms_state(daemon: FakeDaemon, home: Path) -> None:
    theirs = np.full(650, 0.25, np.float32)

    def serve() -> None:
        daemon.attach(restored=theirs, round_=7).begin()

    serving = in_thread(serve)
    loop = Loop(home)
    serving.join()
    assert np.array_equal(loop.vector, theirs)
    assert loop.swarm.rounds == 7
    loop.swarm.close()


def test_a_state_that_comes_in_the_middle_is_taken_over(daemon: FakeDaemon, home: Path) -> None:
    theirs = np.full(650, 0.5, np.float32)

    def serve() -> None:
        one = daemon.attach()
        one.begin()
        one.segment.flags[ipc.INTERRUPT] = 1
        assert isinstance(one.receive(), ipc.Idle)
        one.vector[:] = theirs
        one.round = 3
        one.begin()

    serving = in_thread(serve)
    loop = Loop(home, every=1_000_000)
    while loop.swarm.rounds == 0:
        loop.steps(1)
    serving.join()
    assert loop.swarm.rounds == 3
    assert np.array_equal(loop.vector, theirs)
    loop.swarm.close()


def test_a_failed_round_keeps_what_was_learned_and_asks_again(daemon: FakeDaemon, home: Path) -> None:
    asked: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []

    def serve() -> None:
        one = daemon.attach()
        for kind in ("TooFew", ""):
            one.begin()
            ask = one.receive()
            asked.append(one.segment.exchange[: ask.numel].copy())
            if kind:
                one.send(ipc.AskFailed(kind=kind, text="alone"))
            else:
                one.send(ipc.Averaged(contributors=("me",)))
            one.receive()
        one.send(ipc.Stop())

    serving = in_thread(serve)
    loop = Loop(home)
    start = loop.vector
    loop.steps(5)
    kept = loop.vector
    loop.steps(5)
    serving.join()
    assert np.array_equal(asked[0], kept)
    assert np.linalg.norm(asked[1] - start) > np.linalg.norm(asked[0] - start)


def test_diloco_takes_the_outer_step_on_the_loops_own_work(daemon: FakeDaemon, home: Path) -> None:
    def serve() -> None:
        one = daemon.attach()
        daemon.run_rounds([one], 1)
        one.send(ipc.Stop())

    serving = in_thread(serve)
    options = {"outer_lr": 1.0, "outer_momentum": 0.5}
    loop = Loop(home, method="diloco", options=options, every=1)
    start = loop.vector
    loop.steps(1)
    serving.join()
    alone = nn.Linear(64, 10)
    write_model(alone, start)
    batch = torch.randint(len(loop.x), (32,), generator=torch.Generator().manual_seed(0))
    functional.cross_entropy(alone(loop.x[batch]), loop.y[batch]).backward()
    torch.optim.SGD(alone.parameters(), lr=0.1).step()
    # Nesterov's first step from rest is lr · (1 + momentum) of the change.
    np.testing.assert_allclose(loop.vector - start, 1.5 * (read_model(alone) - start), atol=1e-6)


def test_training_goes_on_when_the_node_is_gone(
    daemon: FakeDaemon, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def serve() -> None:
        one = daemon.attach()
        one.begin()
        one.receive()
        one.connection.close()
        daemon.close()
        daemon.path.unlink()

    serving = in_thread(serve)
    loop = Loop(home, node_options=["--no-such-flag"])
    loop.steps(5)
    serving.join()
    assert "training on alone" in caplog.text
    before = loop.vector
    loop.steps(5)
    assert "the node did not start" in caplog.text
    assert not np.array_equal(loop.vector, before)
    loop.swarm.close()


def test_a_node_with_a_trainer_says_so(daemon: FakeDaemon, home: Path) -> None:
    def serve() -> None:
        connection = daemon.accept()
        connection.sendall(frame(ipc.Stop()))
        connection.close()

    serving = in_thread(serve)
    with pytest.raises(UserError, match="has a trainer already; give this process a home of its own"):
        Loop(home)
    serving.join()


def test_a_node_that_cannot_start_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match=r"the node did not start: .*--no-such-flag"):
        Loop(tmp_path / "new", node_options=["--no-such-flag"])


@pytest.mark.parametrize("method", ["fedprox", "local"])
def test_methods_that_are_their_local_work_are_refused(method: str, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="for your own loop choose fedavg or diloco"):
        Loop(tmp_path, method=method)


def test_what_the_wrapper_lacks_comes_from_the_optimizer(daemon: FakeDaemon, home: Path) -> None:
    serving = in_thread(lambda: daemon.attach().begin())
    loop = Loop(home)
    serving.join()
    with loop.swarm as swarm:
        assert swarm.param_groups is loop.inner.param_groups
        with pytest.raises(AttributeError):
            swarm.nothing_of_this_name  # noqa: B018  # looking is the test
