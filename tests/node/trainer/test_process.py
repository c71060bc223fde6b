"""The trainer beside a fake daemon: rounds, flags, failures, and what it leaves on disk."""

import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from fake_daemon import Attached, FakeDaemon, in_thread
from safetensors.numpy import save
from torch import nn

import shoal
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.tasks.digits import Digits
from shoal.node.framing import frame, read_frame
from shoal.node.service import pacing
from shoal.node.storage.model_file import save_model
from shoal.node.storage.private_rounds import own_parts
from shoal.node.trainer import ipc
from shoal.node.trainer import process as trainer
from shoal.node.trainer.spec import FAILED, TrainerSpec


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(tmp_path / "s")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The trainer is meant to own its process; here it gives back what it took."""
    handler, threads = signal.getsignal(signal.SIGINT), torch.get_num_threads()
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    signal.signal(signal.SIGINT, handler)
    torch.set_num_threads(threads)


def spec(**changes: object) -> TrainerSpec:
    options = {"steps": 5, "lr": 0.1, "batch_size": 16}
    base = {"task": "digits", "task_options": {"share": "1/5"}, "options": options, "device": "cpu"}
    return msgspec.convert(base | changes, TrainerSpec)


def run_trainer(daemon: FakeDaemon, given: TrainerSpec, work: Callable[[], None]) -> int:
    """Run the trainer here and `work`, the daemon's side, in a thread."""
    background = in_thread(work)
    arguments = ["--socket", str(daemon.path), "--state-dir", str(daemon.path.parent)]
    code = trainer.main([*arguments, "--spec", msgspec.json.encode(given).decode()])
    background.join()
    return code


def stop(attached: Attached) -> None:
    attached.send(ipc.Stop())


def test_rounds_alternate_slots_and_improve_the_model(daemon: FakeDaemon) -> None:
    def work() -> None:
        one = daemon.attach()
        daemon.run_rounds([one], 3)
        stop(one)

    assert run_trainer(daemon, spec(), work) == 0
    finished = [m for m in daemon.trainers[0].heard if isinstance(m, ipc.Finished)]
    assert [m.slot for m in finished] == [1, 0, 1]
    assert [m.round for m in finished] == [0, 1, 2]
    assert finished[2].loss < finished[0].loss
    assert set(finished[0].metrics) == {"accuracy"}
    assert finished[0].work_seconds > 0


def test_a_trainer_with_a_share_of_the_processor_rests_after_every_step(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(pacing.Clock, "sleep", lambda _, seconds: rests.append(seconds))

    def work() -> None:
        one = daemon.attach()
        daemon.run_rounds([one], 1)
        stop(one)

    assert run_trainer(daemon, spec(cpu_share=0.01), work) == 0
    assert len(rests) >= 5


def test_attach_tells_all_that_peers_must_agree_on(daemon: FakeDaemon) -> None:
    def work() -> None:
        stop(daemon.attach())

    assert run_trainer(daemon, spec(method="diloco", rounds=7), work) == 0
    attach = daemon.trainers[0].attach
    assert attach.spec.options["outer_momentum"] == 0.9
    assert attach.spec.options["steps"] == 5
    assert attach.spec.rounds == 7
    assert attach.spec.params_numel == attach.exchange_numel == 8970
    assert [s.name for s in attach.spec.shared] == ["outer_momentum"]
    assert not attach.mergeable
    assert attach.asks
    assert attach.pid == os.getpid()


def test_the_initial_state_in_slot_0_is_the_seeds(daemon: FakeDaemon) -> None:
    def work() -> None:
        stop(daemon.attach())

    assert run_trainer(daemon, spec(seed=3), work) == 0
    expected = TorchLearner(Digits(share="1/5"), seed=3).initial
    assert np.array_equal(daemon.trainers[0].segment.slots[0], expected)


def test_a_method_that_never_asks_says_so_and_trains(daemon: FakeDaemon) -> None:
    def work() -> None:
        one = daemon.attach()
        daemon.run_rounds([one], 1)
        stop(one)

    assert run_trainer(daemon, spec(method="local"), work) == 0
    assert not daemon.trainers[0].attach.asks
    assert isinstance(daemon.trainers[0].heard[-1], ipc.Finished)


def test_a_failed_ask_leaves_the_state_and_the_round_repeats_bit_for_bit(daemon: FakeDaemon) -> None:
    asked: list[bytes] = []

    def work() -> None:
        one = daemon.attach()
        before = one.vector.tobytes()
        for _ in range(2):
            one.begin()
            ask = one.receive()
            asked.append(one.segment.exchange[: ask.numel].tobytes())
            one.send(ipc.AskFailed(kind="TooFew", text="only we are left"))
            idle = one.receive()
            assert (idle.round, idle.reason) == (0, "TooFew: only we are left")
            assert idle.work_seconds > 0
            assert one.vector.tobytes() == before
        stop(one)

    assert run_trainer(daemon, spec(), work) == 0
    assert asked[0] == asked[1]


def test_interrupt_throws_the_round_away(daemon: FakeDaemon) -> None:
    def work() -> None:
        one = daemon.attach()
        one.segment.flags[ipc.INTERRUPT] = 1
        one.send(ipc.Begin(round=0, slot=0))
        assert isinstance(one.receive(), ipc.Idle)
        daemon.run_rounds([one], 1)
        stop(one)

    assert run_trainer(daemon, spec(), work) == 0
    assert isinstance(daemon.trainers[0].heard[-1], ipc.Finished)


def test_hurry_ends_the_work_after_one_step_and_contributes(daemon: FakeDaemon) -> None:
    def work() -> None:
        one = daemon.attach()
        one.segment.flags[ipc.HURRY] = 1
        one.send(ipc.Begin(round=0, slot=0))
        ask = one.receive()
        assert isinstance(ask, ipc.AskAllReduce)
        one.send(ipc.Averaged(contributors=("peer000",)))
        assert one.receive().steps == 1
        stop(one)

    assert run_trainer(daemon, spec(options={"steps": 100_000}), work) == 0


def test_a_round_begins_from_what_the_daemon_put_in_the_slot(daemon: FakeDaemon) -> None:
    start = TorchLearner(Digits(share="1/5"), seed=9).initial

    def work() -> None:
        one = daemon.attach(restored=start, round_=4)
        one.begin()
        ask = one.receive()
        trained = TorchLearner(Digits(share="1/5")).train(start, steps=5, lr=0.1, batch_size=16, round_=4)
        assert np.array_equal(one.segment.exchange[: ask.numel], trained.params)
        one.send(ipc.AskFailed(kind="LeftOut", text="the node stops"))
        one.receive()
        stop(one)

    assert run_trainer(daemon, spec(), work) == 0


def test_private_moments_survive_a_restart_and_never_enter_the_slots(daemon: FakeDaemon) -> None:
    given = spec(method="diloco", options={"steps": 3, "lr": 0.001, "inner": "adamw"})

    def rounds(restored: np.ndarray[tuple[int], np.dtype[np.float32]] | None, first: int, n: int) -> None:
        one = daemon.attach(restored=restored, round_=first)
        daemon.run_rounds([one], n)
        stop(one)

    run_trainer(daemon, given, lambda: rounds(None, 0, 4))
    unbroken = daemon.trainers[-1].vector.copy()
    for file in daemon.path.parent.glob("private-*"):
        file.unlink()
    run_trainer(daemon, given, lambda: rounds(None, 0, 2))
    half = daemon.trainers[-1].vector.copy()
    run_trainer(daemon, given, lambda: rounds(half, 2, 2))
    assert np.array_equal(daemon.trainers[-1].vector, unbroken)
    assert daemon.trainers[-1].attach.spec.state_numel == 2 * 8970
    for file in daemon.path.parent.glob("private-*"):
        file.unlink()
    run_trainer(daemon, given, lambda: rounds(half, 2, 2))
    assert not np.array_equal(daemon.trainers[-1].vector, unbroken)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "digitz"}, "no task digitz"),
        ({"task": "nowhere.at_all:Task"}, "no module nowhere"),
        ({"task_options": {"shard": "1/5"}}, "it has: share, alpha, seed, minimum"),
        ({"options": {"steps": 0}}, "steps = 0: expected `int` >= 1"),
        ({"device": "warp"}, "choose auto or cpu"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_3(
    daemon: FakeDaemon, changes: dict[str, object], words: str
) -> None:
    said: list[ipc.TrainerFailed] = []

    def work() -> None:
        connection = daemon.accept()
        said.append(ipc.from_trainer.decode(read_frame(connection)))  # type: ignore[arg-type]
        connection.close()

    assert run_trainer(daemon, spec(**changes), work) == FAILED
    assert words in said[0].text
    assert "\n" not in said[0].text


def test_a_bug_in_a_task_is_named_by_file_and_line(
    daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head = "from shoal.methods.tasks.digits import Digits\n\nclass Broken(Digits):\n"
    text = head + "    def loss(self, model, batch):\n        return model(batch[2])\n"
    (tmp_path / "broken_task.py").write_text(text)
    monkeypatch.chdir(tmp_path)

    def work() -> None:
        one = daemon.attach()
        one.begin()
        one.receive()

    assert run_trainer(daemon, spec(task="broken_task:Broken"), work) == FAILED
    said = daemon.trainers[0].heard[-1]
    assert f"{tmp_path}/broken_task.py:5: IndexError" in said.text
    assert "Traceback" in capsys.readouterr().err


def test_the_end_of_the_line_ends_the_trainer_quietly(daemon: FakeDaemon) -> None:
    def work() -> None:
        one = daemon.attach()
        one.begin()
        one.receive()
        one.connection.close()

    assert run_trainer(daemon, spec(), work) == 0


def test_a_second_trainer_is_turned_away_quietly(daemon: FakeDaemon) -> None:
    def work() -> None:
        connection = daemon.accept()
        connection.sendall(frame(ipc.Stop()))
        connection.close()

    assert run_trainer(daemon, spec(), work) == 0


def test_no_daemon_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--socket", str(tmp_path / "no"), "--state-dir", str(tmp_path)]
    code = trainer.main([*arguments, "--spec", msgspec.json.encode(spec()).decode()])
    assert code == FAILED
    assert capsys.readouterr().err.startswith("no daemon listens on")


@pytest.mark.slow
def test_two_trainer_processes_agree_and_ignore_ctrl_c(daemon: FakeDaemon, tmp_path: Path) -> None:
    def command(share: str) -> list[str]:
        given = msgspec.json.encode(spec(task_options={"share": share})).decode()
        head = [sys.executable, "-P", "-m", "shoal.node.trainer.process", "--socket", str(daemon.path)]
        return [*head, "--state-dir", str(tmp_path), "--spec", given]

    processes = [subprocess.Popen(command(f"{i}/2")) for i in (1, 2)]
    try:
        both = [daemon.attach(), daemon.attach()]
        daemon.run_rounds(both, 1)
        for process in processes:
            process.send_signal(signal.SIGINT)
        daemon.run_rounds(both, 1)
        assert np.array_equal(both[0].vector, both[1].vector)
        both[0].send(ipc.Stop())
        both[1].connection.close()
        assert [process.wait(60) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_bad_memory_on_disk_is_set_aside_and_said_and_costs_no_round(daemon: FakeDaemon) -> None:
    """As an older version left it: a vector per kind."""
    folder = daemon.path.parent

    def first() -> None:
        one = daemon.attach()
        daemon.run_rounds([one], 1)
        stop(one)

    given = spec(method="diloco", options={"steps": 2, "lr": 0.001, "inner": "adamw"})
    assert run_trainer(daemon, given, first) == 0
    (memory,) = folder.glob("private-*.safetensors")
    memory.write_bytes(save({"exp_avg": np.zeros(3, np.float32)}))
    state = daemon.trainers[0].vector.copy()

    def second() -> None:
        one = daemon.attach(restored=state, round_=1)
        daemon.run_rounds([one], 2)
        stop(one)

    assert run_trainer(daemon, given, second) == 0
    heard = daemon.trainers[1].heard
    assert [m.round for m in heard if isinstance(m, ipc.Finished)] == [1, 2]
    (problem,) = [m for m in heard if isinstance(m, ipc.Problem)]
    assert problem.source == "memory"
    assert "cannot be used" in problem.text
    assert [path.suffix for path in folder.glob("private-*.unusable")] == [".unusable"]


def test_metrics_that_fail_reach_the_node_as_a_problem_and_cost_no_round(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "metrics", lambda self, model: {"accuracy": 1 / 0})

    def work() -> None:
        one = daemon.attach()
        daemon.run_rounds([one], 3)
        stop(one)

    assert run_trainer(daemon, spec(), work) == 0
    heard = daemon.trainers[0].heard
    assert [m.metrics for m in heard if isinstance(m, ipc.Finished)] == [{}, {}, {}]
    (problem,) = [m for m in heard if isinstance(m, ipc.Problem)]
    assert "Digits.metrics() failed: ZeroDivisionError" in problem.text


def test_integer_buffers_outlive_a_restart_and_are_in_the_saved_model(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []

    def model(self: Digits) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))

    def metrics(self: Digits, model: nn.Module) -> dict[str, float]:
        counted.append(int(model[1].num_batches_tracked))
        return {}

    monkeypatch.setattr(Digits, "model", model)
    monkeypatch.setattr(Digits, "metrics", metrics)

    def lives() -> None:
        state = None
        for life in range(2):
            one = daemon.attach(restored=state, round_=life)
            daemon.run_rounds([one], 1)
            state = one.vector.copy()
            stop(one)

    background = in_thread(lives)
    arguments = ["--socket", str(daemon.path), "--state-dir", str(daemon.path.parent)]
    for _ in range(2):
        assert trainer.main([*arguments, "--spec", msgspec.json.encode(spec()).decode()]) == 0
    background.join()
    assert counted == [5, 10]
    given = daemon.trainers[0].attach.spec
    assert given.buffers == 16
    unshared = own_parts(daemon.path.parent, given, 2)
    assert unshared["1.num_batches_tracked"].item() == 10
    file = daemon.path.parent / "file"
    save_model(file, daemon.trainers[1].vector, given.tensors, 0, unshared)
    again = model(Digits())
    again.load_state_dict(shoal.load_model(file))
    assert again[1].num_batches_tracked.item() == 10


@pytest.mark.parametrize("method", ["fedavg", "diloco"])
def test_a_round_makes_no_array_as_large_as_the_model(method: str, daemon: FakeDaemon) -> None:
    numel = 2_000_000
    peaks: list[int] = []

    def run_round(one: Attached) -> None:
        one.begin()
        one.receive()
        one.send(ipc.Averaged(contributors=("x",)))
        one.slot, one.round = one.receive().slot, one.round + 1

    def work() -> None:
        one = daemon.attach()
        run_round(one)
        tracemalloc.start()
        try:
            run_round(one)
            run_round(one)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        stop(one)

    given = spec(
        task="scripts.empty_task:Empty",
        task_options={"numel": numel},
        method=method,
        options={"steps": 2},
    )
    assert run_trainer(daemon, given, work) == 0
    assert [m.round for m in daemon.trainers[0].heard if isinstance(m, ipc.Finished)] == [0, 1, 2]
    assert peaks[0] < 2 * numel  # half a vector
