"""The daemon's side of its trainer: who may attach, what is said of its end, and when it is started again."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.node import children, failpoints
from shoal.node.config.settings import RunConfig
from shoal.node.errors import BadConfig, BadHome
from shoal.node.failpoints import Failpoint
from shoal.node.framing import Message, frame
from shoal.node.trainer import ipc, supervisor
from shoal.node.trainer.daemon_end import TrainerLine
from shoal.node.trainer.spec import TrainerSpec
from shoal.node.trainer.supervisor import Supervisor, TrainerError, trainer_command, why

SPEC = RunSpec(method="fedavg", task="digits", tensors=(TensorSpec("w", "float32", (4,)),))


# --- the line -------------------------------------------------------------------------------------


class Heard:
    """What a line hands on."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.reply: Callable[[Message], None] = lambda message: None
        self.changed = trio.Event()

    def attached(self, message: ipc.Attach, segment: ipc.Segment, reply: Callable[..., None]) -> None:
        self.segment, self.reply = segment, reply
        self.note(message)

    def from_trainer(self, message: Any) -> None:
        self.note(message)

    def detached(self) -> None:
        self.note("detached")

    def note(self, event: Any) -> None:
        self.events.append(event)
        self.changed.set()
        self.changed = trio.Event()

    async def wait(self, count: int) -> None:
        with trio.fail_after(60):
            while len(self.events) < count:
                await self.changed.wait()


def with_line(tmp_path: Path, test: Callable[[TrainerLine, Heard, Path], Awaitable[None]]) -> None:
    """Run a test while a line listens."""
    path = tmp_path / "trainer.sock"

    async def main() -> None:
        heard = Heard()
        line = TrainerLine(path, heard)
        async with trio.open_nursery() as nursery:
            await nursery.start(line.run)
            await test(line, heard, path)
            nursery.cancel_scope.cancel()

    trio.run(main)


def attach(numel: int = 4) -> ipc.Attach:
    return ipc.Attach(pid=4711, spec=SPEC, exchange_numel=numel, mergeable=True)


async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    with trio.fail_after(60):
        return await trio.to_thread.run_sync(call, *arguments)


def test_a_trainer_attaches_talks_and_leaves(tmp_path: Path) -> None:
    async def test(line: TrainerLine, heard: Heard, path: Path) -> None:
        trainer = ipc.Line(path)
        segment, descriptor = ipc.Segment.create(4, 4)
        segment.slots[0][:] = 3.0
        trainer.send(attach(), (descriptor,))
        os.close(descriptor)
        await heard.wait(1)
        assert line.pid == 4711
        assert (heard.segment.slots[0] == 3.0).all()
        heard.reply(ipc.Begin(round=1, slot=0))
        heard.reply(ipc.Stop())
        assert await in_thread(trainer.receive) == ipc.Begin(round=1, slot=0)
        assert await in_thread(trainer.receive) == ipc.Stop()
        trainer.send(ipc.Idle(round=1, reason="no"))
        await heard.wait(2)
        trainer.close()
        await heard.wait(3)
        assert heard.events == [attach(), ipc.Idle(round=1, reason="no"), "detached"]
        assert line.pid == 0

    with_line(tmp_path, test)


def test_a_second_trainer_is_told_to_stop_and_the_first_stays(tmp_path: Path) -> None:
    async def test(line: TrainerLine, heard: Heard, path: Path) -> None:
        first = ipc.Line(path)
        _, descriptor = ipc.Segment.create(4, 4)
        first.send(attach(), (descriptor,))
        os.close(descriptor)
        await heard.wait(1)
        second = ipc.Line(path)
        assert await in_thread(second.receive) == ipc.Stop()
        with pytest.raises(EOFError):
            await in_thread(second.receive)
        second.close()
        heard.reply(ipc.Begin(round=0, slot=0))
        assert await in_thread(first.receive) == ipc.Begin(round=0, slot=0)
        first.close()
        await heard.wait(2)

    with_line(tmp_path, test)


def test_a_trainer_that_cannot_start_says_so_without_attaching(tmp_path: Path) -> None:
    async def test(line: TrainerLine, heard: Heard, path: Path) -> None:
        trainer = ipc.Line(path)
        trainer.send(ipc.TrainerFailed(text="no module flowers"))
        await heard.wait(2)
        assert heard.events == [ipc.TrainerFailed(text="no module flowers"), "detached"]
        trainer.close()

    with_line(tmp_path, test)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\xc1",
        b"\x00\x00\x00\x05",
        frame(ipc.Idle(round=0, reason="")),
        frame(attach()),
        frame(attach())[:-3],
    ],
)
def test_what_is_no_trainer_is_turned_away_and_the_line_goes_on(
    tmp_path: Path, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(line: TrainerLine, heard: Heard, path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            stranger.connect(str(path))
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            await heard.wait(1)
        assert heard.events == ["detached"]
        trainer = ipc.Line(path)
        _, descriptor = ipc.Segment.create(4, 4)
        trainer.send(attach(), (descriptor,))
        os.close(descriptor)
        await heard.wait(2)
        assert heard.events[1] == attach()
        trainer.close()
        await heard.wait(3)

    with_line(tmp_path, test)
    assert any("is none" in record.message for record in caplog.records)


def test_a_segment_smaller_than_its_regions_is_refused_and_no_descriptor_is_kept(tmp_path: Path) -> None:
    async def test(line: TrainerLine, heard: Heard, path: Path) -> None:
        _, descriptor = ipc.Segment.create(4, 4)
        before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
        for count in range(1, 4):
            trainer = ipc.Line(path)
            trainer.send(attach(numel=1_000_000), (descriptor,) * count)
            await heard.wait(count)
            trainer.close()
        await wait_all_tasks_blocked()
        if before is not None:
            # Fewer is well too: what earlier tests left is collected meanwhile.
            assert len(os.listdir("/proc/self/fd")) <= before
        os.close(descriptor)
        assert heard.events == ["detached"] * 3

    with_line(tmp_path, test)


def test_the_line_is_for_its_owner_alone(tmp_path: Path) -> None:
    async def test(line: TrainerLine, heard: Heard, path: Path) -> None:
        assert path.stat().st_mode & 0o777 == 0o600

    with_line(tmp_path, test)
    with pytest.raises(BadHome, match="choose another --home"):
        trio.run(TrainerLine(tmp_path / "none" / "trainer.sock", Heard()).run)


# --- the process ----------------------------------------------------------------------------------


def test_the_trainers_command_says_all_that_it_has_to_know() -> None:
    shared = {"task": "digits", "method": "diloco", "rounds": 7, "engine": "hivemind"}
    run = msgspec.convert(shared | {"task_options": {"share": "1/3"}, "threads": 2}, RunConfig)
    command = trainer_command(run, Path("a.sock"), Path("state"))
    assert command[:4] == [sys.executable, "-P", "-m", "shoal.node.trainer.process"]
    assert command[4:8] == ["--socket", "a.sock", "--state-dir", "state"]
    spec = msgspec.json.decode(command[9], type=TrainerSpec)
    for name in TrainerSpec.__struct_fields__:
        assert getattr(spec, name) == getattr(run, name)


def test_the_end_of_a_trainer_is_put_in_words() -> None:
    assert why(-9, "take less") == "trainer killed by signal 9, probably out of memory: take less"
    assert why(-11, "") == "trainer killed by signal 11 (SIGSEGV)"
    assert why(3, "") == "trainer ended with exit code 3; its last lines in the log say why"


class Story:
    """A supervisor, and what it tells."""

    def __init__(self, tmp_path: Path, script: str, *, ends: int, has_attached: bool = True) -> None:
        """`script` counts its runs in ``$1``; after so many ends no trainer is wanted."""
        self.runs = tmp_path / "runs"
        self.told: list[str] = []
        self.failure = ""
        self.supervisor = Supervisor(
            ["sh", "-c", f'echo >> "$1"; {script}', "sh", str(self.runs)],
            self,
        )
        self._ends, self._has_attached = ends, has_attached

    def why_gone(self, code: int) -> str:
        return self.failure or why(code, "take less")

    def is_attached(self) -> bool:
        return self._has_attached

    def is_wanted(self) -> bool:
        return self.count < self._ends

    def trainer_is(self, state: str) -> None:
        self.told.append(state)

    @property
    def count(self) -> int:
        return self.runs.read_text().count("\n") if self.runs.exists() else 0


def test_a_trainer_that_dies_is_started_again_and_the_reason_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(children, "FIRST_PAUSE", 0.01)
    caplog.set_level("INFO")
    story = Story(tmp_path, "kill -9 $$", ends=3)
    trio.run(story.supervisor.run)
    reason = why(-9, "take less")
    assert story.told == ["running", reason, "running", reason, "running", "none"]
    assert [each.message for each in caplog.records] == [f"{reason}; starting it again in 0 s"] * 2


def test_a_trainer_that_never_attached_ends_the_node_with_its_own_reason(tmp_path: Path) -> None:
    story = Story(tmp_path, "exit 3", ends=3, has_attached=False)
    story.failure = "no module flowers; install it"
    with pytest.raises(TrainerError, match="^no module flowers; install it$"):
        trio.run(story.supervisor.run)
    assert story.count == 1


def test_a_trainer_that_is_wanted_no_more_is_let_go(tmp_path: Path) -> None:
    story = Story(tmp_path, "exit 0", ends=1)
    trio.run(story.supervisor.run)
    assert story.told == ["running", "none"]


def test_a_trainer_stands_back_behind_its_daemon(tmp_path: Path) -> None:
    nice = min(os.nice(0) + supervisor.NICE, 19)
    story = Story(tmp_path, f'until [ "$(nice)" = {nice} ]; do sleep 0.01; done', ends=1)
    trio.run(story.supervisor.run)
    assert story.told == ["running", "none"]


def test_a_trainer_that_does_not_end_is_killed_with_its_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "GRACE", 0.1)
    story = Story(tmp_path, 'echo $$ > "$1.pid"; trap "" TERM; while :; do sleep 1; done', ends=3)

    async def main() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(story.supervisor.run)
            with trio.fail_after(60):
                while not (pid := tmp_path / "runs.pid").exists() or not pid.read_text().endswith("\n"):
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        return int(pid.read_text())

    with pytest.raises(ProcessLookupError):
        os.kill(trio.run(main), 0)


# --- points to die at -----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["work", "work:", "work:x", "sleep:3", ":3"])
def test_a_point_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(BadConfig, match="testing.die_at"):
        Failpoint(text)


def test_a_process_dies_at_its_point_and_at_no_other() -> None:
    script = (
        "from shoal.node.failpoints import Failpoint; point = Failpoint('save:3');"
        "point.hit('work', 3); point.hit('save', 2); print('alive', flush=True); point.hit('save', 3)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "alive\n")


def test_without_a_point_nothing_happens() -> None:
    point = Failpoint("")
    for name in failpoints.NAMES:
        point.hit(name, 1)
