"""Machine: what a node and its trainer take of it, and what is left of the disk."""

import shutil
import time
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Final, Protocol

import psutil

from shoal.node.status import MachineStatus

LOOK_EVERY: Final = 5.0
"""Seconds between two looks, which cost a few files each."""


class HasTrainer(Protocol):
    """The line to the trainer."""

    pid: int
    """Of its process; 0 or less for none."""


class Saved(Protocol):
    """What keeps the states."""

    saved_at: float
    """Unix seconds; 0: none was saved since the start."""
    saved_bytes: int


class Memory:
    """What a node and its trainer have of it."""

    def __init__(self, line: HasTrainer) -> None:
        """`line`: knows the trainer's process."""
        self._node, self._line = psutil.Process(), line

    def used_bytes(self) -> int:
        """Return the bytes of both; what they share counts once."""
        with suppress(psutil.Error):
            own = self._node.memory_info()
            trainer = self.trainer_bytes()
            return int(own.rss - getattr(own, "shared", 0) + trainer) if trainer else int(own.rss)
        return 0

    def trainer_bytes(self) -> int:
        """Return the bytes of the trainer; 0 without one."""
        if self._line.pid <= 0:
            return 0
        with suppress(psutil.Error):
            return int(psutil.Process(self._line.pid).memory_info().rss)
        return 0


class Machine:
    """Figures for the status, looked at now and again."""

    def __init__(self, line: HasTrainer, saved: Saved, folder: Path) -> None:
        """`folder`: where states are kept."""
        self.trainer_starts = 0
        self._memory, self._saved, self._folder = Memory(line), saved, folder
        self._looked_at, self._free, self._trainer = -inf, 0, 0

    def trainer_is(self, state: str) -> None:
        """Count the starts of a trainer."""
        self.trainer_starts += state == "running"

    def status(self) -> MachineStatus:
        """Return the figures of now, or of a few seconds ago."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_EVERY:
            self._looked_at, self._trainer = now, self._memory.trainer_bytes()
            with suppress(OSError):
                self._free = shutil.disk_usage(self._folder).free
        saved = self._saved
        return MachineStatus(
            trainer_bytes=self._trainer,
            trainer_starts=self.trainer_starts,
            disk_free_bytes=self._free,
            saved_bytes=saved.saved_bytes,
            saved_seconds=max(0.0, time.time() - saved.saved_at) if saved.saved_at else None,
        )
