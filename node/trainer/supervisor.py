"""Supervisor: keeps the trainer process running, and says why it stopped in words a person can act on."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec
import trio

from shoal.node.children import Keeper, end_process
from shoal.node.config.settings import RunConfig
from shoal.node.errors import UserError
from shoal.node.trainer.spec import TrainerSpec, settings_of

STEADY: Final = 300.0
"""Seconds after which a trainer's end has nothing to do with its start: the pauses begin anew."""
GRACE: Final = 2.0
"""Seconds for a trainer to end by itself when its node ends."""


NICE: Final = 5
"""By how much a trainer stands back behind its daemon where both want the processor."""


class TrainerError(UserError):
    """The trainer cannot start: mend what it says, then start the node again."""


def trainer_command(
    run: RunConfig, socket_path: Path, state_dir: Path, module: str = "shoal.node.trainer.process"
) -> list[str]:
    """Return the command line of the trainer process, which runs `module`."""
    return [
        sys.executable,
        "-P",
        "-m",
        module,
        "--socket",
        str(socket_path),
        "--state-dir",
        str(state_dir),
        "--spec",
        spec_text(run),
    ]


def spec_text(run: RunConfig) -> str:
    """Return what a trainer is told of a run: a `TrainerSpec` as JSON."""
    spec = TrainerSpec(
        **settings_of(run),
        task_options=run.task_options,
        device=run.device,
        threads=run.threads,
        cpu_share=run.cpu_share,
        memory_gb=run.memory_gb,
        base=run.base,
        share_base=run.share_base,
    )
    return msgspec.json.encode(spec).decode()


def why(code: int, remedy: str) -> str:
    """Say why a trainer that ended with this code is gone; `remedy`: what to do where memory ran out."""
    if code == -signal.SIGKILL:
        return f"trainer killed by signal 9, probably out of memory: {remedy}"
    if code < 0:
        return f"trainer killed by signal {-code} ({signal.Signals(-code).name})"
    return f"trainer ended with exit code {code}; its last lines in the log say why"


class Owner(Protocol):
    """What a supervisor needs of its node. Nothing here waits."""

    def why_gone(self, code: int) -> str:
        """Say why the trainer ended with this exit code."""
        ...

    def is_attached(self) -> bool:
        """Tell whether a trainer has ever been attached."""
        ...

    def is_wanted(self) -> bool:
        """Tell whether there are rounds left for a trainer."""
        ...

    def trainer_is(self, state: str) -> None:
        """Show what the trainer does, or why it ended."""


class Supervisor:
    """Runs the trainer, and again when it dies."""

    def __init__(self, command: list[str], owner: Owner) -> None:
        """`command`: the trainer's command line."""
        self._keeper = Keeper(STEADY)
        self._command, self._owner = command, owner

    async def run(self) -> None:
        """Keep a trainer running until cancelled or no longer wanted.

        Raises:
            TrainerError: it could not even start.
        """
        await self._keeper.run(self._live)
        self._owner.trainer_is("none")

    @property
    def restarts(self) -> int:
        """How often the trainer was started again."""
        return self._keeper.restarts

    async def _live(self) -> str | None:
        """Run one trainer; return why it ended, or None where none is wanted any more."""
        if not self._owner.is_wanted():
            return None
        process = await trio.lowlevel.open_process(
            self._command, stdin=subprocess.DEVNULL, env={"OMP_NUM_THREADS": "1", **os.environ}
        )
        _step_back(process.pid)
        self._owner.trainer_is("running")
        try:
            code = await process.wait()
        finally:
            await end_process(process, GRACE, process.kill)
        if not self._owner.is_wanted():
            return None
        reason = self._owner.why_gone(code)
        if not self._owner.is_attached():
            raise TrainerError(reason)
        self._owner.trainer_is(reason)
        return reason


def _step_back(pid: int) -> None:
    """Let the daemon go first: peers wait for its answers, and for nobody's single step."""
    with suppress(OSError):  # It has ended, or the system has no such thing.
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
