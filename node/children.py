"""Child processes of a node: started again when they end, after pauses that grow while they do not last."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 1.0
MAX_PAUSE: Final = 30.0
"""Seconds between restarts; doubled from the first pause on."""


class Keeper:
    """Keeps one child process running."""

    def __init__(self, steady: float) -> None:
        """`steady`: seconds of a life after which the pauses begin anew: its end had another cause."""
        self.restarts = 0
        self._steady = steady

    async def run(self, live: Callable[[], Awaitable[str | None]]) -> None:
        """Run one life after the other, until `live` returns None.

        `live` starts the process, waits for its end and returns the reason; an empty one starts the next at
        once.
        """
        pause = FIRST_PAUSE
        while True:
            began = trio.current_time()
            reason = await live()
            if reason is None:
                return
            if not reason:
                continue
            if trio.current_time() - began > self._steady:
                pause = FIRST_PAUSE
            log.info("%s; starting it again in %.0f s", reason, pause)
            await trio.sleep(pause)
            pause = min(MAX_PAUSE, 2 * pause)
            self.restarts += 1


async def end_process(process: trio.Process, grace: float, kill: Callable[[], None]) -> None:
    """Let a process end by itself for `grace` seconds, since it may be saving; then kill it."""
    with trio.CancelScope(shield=True):
        with trio.move_on_after(grace):
            await process.wait()
        kill()
        await process.wait()
