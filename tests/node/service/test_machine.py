"""What a node says of its machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

from shoal.node.service.machine import Machine, Memory


class Line:
    """A line with a trainer of this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid


def test_the_memory_of_a_node_is_that_of_both_processes_and_one_that_ended_has_none() -> None:
    alone = Memory(Line(0)).used_bytes()
    assert alone > 0
    assert Memory(Line(os.getpid())).used_bytes() > alone
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert Memory(Line(ended.pid)).trainer_bytes() == 0


class Kept:
    """A disk that has saved a state."""

    def __init__(self, saved_at: float = 0.0, saved_bytes: int = 0) -> None:
        self.saved_at, self.saved_bytes = saved_at, saved_bytes


def test_a_machine_tells_of_trainer_disk_and_state(tmp_path: Path) -> None:
    machine = Machine(Line(os.getpid()), Kept(time.time() - 60, 1000), tmp_path)
    for state in ("running", "killed by signal 9", "running", "none"):
        machine.trainer_is(state)
    found = machine.status()
    assert found.trainer_starts == 2
    assert found.trainer_bytes > 0
    assert found.disk_free_bytes > 0
    assert found.saved_bytes == 1000
    assert found.saved_seconds is not None
    assert found.saved_seconds >= 60


def test_what_there_is_none_of_is_told_as_none(tmp_path: Path) -> None:
    found = Machine(Line(0), Kept(), tmp_path / "gone").status()
    assert (found.trainer_bytes, found.disk_free_bytes, found.saved_seconds) == (0, 0, None)
