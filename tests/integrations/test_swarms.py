"""For each framework: two real nodes, each beside a user's script, end with the same model."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SCRIPT = Path(__file__).with_name("train_process.py")
NEEDS = {
    "plain": (),
    "accelerate": ("accelerate",),
    "trainer": ("transformers", "accelerate"),
    "peft": ("transformers", "accelerate", "peft"),
    "trl": ("transformers", "accelerate", "trl", "datasets"),
    "lightning": ("lightning",),
    "ddp": (),
    "fsdp2": (),
}
ROUNDS = 5


class Script:
    """A script that runs, one process per rank, and what its first rank printed."""

    def __init__(self, kind: str, home: Path, share: int, port: int, join: str, *more: str) -> None:
        world = 2 if kind in ("ddp", "fsdp2") else 1
        home.mkdir(parents=True, exist_ok=True)
        store = home / f"store-{os.urandom(4).hex()}"
        self.lines: list[list[str]] = [[] for _ in range(world)]
        self.processes = []
        for rank in range(world):
            more_environment = {"RANK": str(rank), "WORLD_SIZE": str(world), "STORE": str(store)}
            environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "HF_HUB_OFFLINE": "1"}
            if world > 1:
                environment |= more_environment
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, str(SCRIPT), kind, str(home), str(share), str(port), join, *more],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=environment,
                )
            )
        self._said = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(rank,), daemon=True) for rank in range(world)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, rank: int) -> None:
        stream = self.processes[rank].stdout
        assert stream is not None
        for line in stream:
            with self._said:
                self.lines[rank].append(line.rstrip())
                self._said.notify_all()
        with self._said:
            self.lines[rank].append("end of output")
            self._said.notify_all()

    def wait_for(self, line: str) -> None:
        """Wait until the first rank has printed a line."""
        with self._said:
            assert self._said.wait_for(
                lambda: line in self.lines[0] or "end of output" in self.lines[0], timeout=120
            ), self.lines
        assert line in self.lines[0], self.lines

    def result(self) -> list[list[str]]:
        """Wait for the end; return the words of the last line of each rank."""
        for process, reader in zip(self.processes, self._readers, strict=True):
            reader.join(120)
            assert process.wait(60) == 0, self.lines
        done = [[line for line in lines if line.startswith("done ")] for lines in self.lines]
        assert all(done), self.lines
        return [each[-1].split() for each in done]

    def end(self, how: signal.Signals) -> None:
        """End its processes, which leaves its node alone."""
        for process, reader in zip(self.processes, self._readers, strict=True):
            if process.poll() is None:
                process.send_signal(how)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            reader.join(30)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def scripts() -> Iterator[list[Script]]:
    started: list[Script] = []
    yield started
    for script in started:
        script.end(signal.SIGINT)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def skip_unless_there(kind: str) -> None:
    for name in NEEDS[kind]:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; type: pip install 'shoal[integrations]'")


@pytest.mark.parametrize("kind", NEEDS)
def test_two_nodes_end_with_the_same_model(kind: str, tmp_path: Path, scripts: list[Script]) -> None:
    skip_unless_there(kind)
    port, other = free_port(), free_port()
    scripts.append(Script(kind, tmp_path / "1", 0, port, "-"))
    scripts.append(Script(kind, tmp_path / "2", 1, other, f"127.0.0.1:{port}"))
    results = [result for script in scripts for result in script.result()]
    assert len({digest for *_, digest in results}) == 1, results
    # Four steps of the optimizer a round, on every rank; a newcomer may have thrown some away.
    assert min(int(steps) for *_, steps, _ in results) >= 4 * ROUNDS, results


@pytest.mark.parametrize("kind", ["trainer", "lightning", "fsdp2"])
def test_a_script_that_is_killed_comes_back_to_the_same_model(
    kind: str, tmp_path: Path, scripts: list[Script]
) -> None:
    skip_unless_there(kind)
    port, other = free_port(), free_port()
    slow = ("--pause", "0.05", "--rounds", "8")
    scripts.append(Script(kind, tmp_path / "1", 0, port, "-", *slow))
    killed = Script(kind, tmp_path / "2", 1, other, f"127.0.0.1:{port}", *slow)
    scripts.append(killed)
    killed.wait_for("round 2")
    killed.end(signal.SIGKILL)
    back = Script(kind, tmp_path / "2", 1, other, f"127.0.0.1:{port}", *slow)
    scripts.append(back)
    results = [result for script in (scripts[0], back) for result in script.result()]
    assert len({digest for *_, digest in results}) == 1, results


def test_one_of_two_goes_on_from_its_checkpoint_to_the_same_model(
    tmp_path: Path, scripts: list[Script]
) -> None:
    skip_unless_there("trainer")
    port, other = free_port(), free_port()
    scripts.append(Script("trainer", tmp_path / "1", 0, port, "-"))
    where = ("trainer", tmp_path / "2", 1, other, f"127.0.0.1:{port}")
    left = Script(*where, "--steps", "8")  # it leaves checkpoints of steps 6 and 8
    scripts.append(left)
    left.result()
    assert "step 8" in left.lines[0]
    back = Script(*where, "--resume")
    scripts.append(back)
    (there,), (here,) = (script.result() for script in (scripts[0], back))
    assert there[-1] == here[-1]
