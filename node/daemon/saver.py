"""Saver: the newest state goes to the disk beside the rounds, which do not wait for it.

    soon(state) ... soon(newer) --> rest, if a large one was saved a moment ago --> newest one is written

A large state is written from where it lies, in shared memory that is written anew two rounds later. Where
that happens first, the disk is slower than the rounds: then states are copied before they are written.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from math import inf
from typing import Final, TypeAlias

import trio

from shoal.gossip.run_spec import RunSpec
from shoal.node.storage.checkpoint import Checkpoint, Overwritten

log = logging.getLogger(__name__)

COPIED_BELOW: Final = 2 << 20
"""Bytes: smaller states are copied at once, in half a millisecond."""
LARGE: Final = 64_000_000
"""Bytes from which on a state is not saved after every round."""

Job: TypeAlias = tuple[Checkpoint, RunSpec]


class Saver:
    """What is to be saved of one node. See the module's docstring."""

    def __init__(self, save: Callable[[Checkpoint, RunSpec], Awaitable[None]], seconds: float) -> None:
        """`save` may raise `Overwritten`. `seconds`: between two large states."""
        self._save, self._seconds = save, seconds
        self._waiting: Job | None = None
        self._is_urgent = False
        self._wake = trio.Event()
        self._rests_until = -inf
        self._is_slow = False

    def soon(self, checkpoint: Checkpoint, spec: RunSpec, *, is_urgent: bool) -> None:
        """Save this state, in place of one that still waits; without a rest if it is urgent."""
        self._waiting, self._is_urgent = (checkpoint, spec), is_urgent
        self._wake.set()

    def hurry(self) -> None:
        """Save what waits without a rest."""
        self._is_urgent = True
        self._wake.set()

    def take(self) -> Job | None:
        """Return what is still to be saved; it is nobody's afterwards."""
        job, self._waiting = self._waiting, None
        return job

    async def run(self) -> None:
        """Save until cancelled; what is being written then is finished first."""
        while True:
            if self._waiting is None or (trio.current_time() < self._rests_until and not self._is_urgent):
                await self._rest()
                continue
            began = trio.current_time()
            job = self.take()
            assert job is not None
            try:
                await self._write(*job)
            except Overwritten as error:
                # The state after it waits already.
                log.info("round %d was not saved: %s", job[0].round, error)
                self._is_slow = True
            else:
                is_large = job[0].vector.nbytes >= LARGE
                self._rests_until = began + self._seconds if is_large else -inf

    async def _rest(self) -> None:
        self._wake = trio.Event()
        until = self._rests_until if self._waiting is not None else inf
        with trio.move_on_at(until):
            await self._wake.wait()

    async def _write(self, checkpoint: Checkpoint, spec: RunSpec) -> None:
        vector = checkpoint.vector
        if vector.nbytes < COPIED_BELOW:
            checkpoint = replace(checkpoint, vector=vector.copy())
        elif self._is_slow:
            checkpoint = replace(checkpoint, vector=await trio.to_thread.run_sync(vector.copy))
        await self._save(checkpoint, spec)
