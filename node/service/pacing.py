"""Pacing: a trainer that rests between its steps, so that its share of the time holds.

A step of 100 ms at a share of 0.5 is followed by 100 ms of rest. Waiting for peers counts as neither. Who is
waited for rests no longer.
"""

import time
from typing import Final, Protocol

SLICE: Final = 0.05
"""Seconds of a rest between two looks at whether somebody waits."""
MOST: Final = 60.0
"""Seconds of one rest: a step that stood still with its machine is no work."""


class Watched(Protocol):
    """The line to the node."""

    def is_interrupted(self) -> bool:
        """Whether the work is in vain."""
        ...

    def is_hurried(self) -> bool:
        """Whether peers wait for it."""
        ...


class Clock:
    """The machine's."""

    def now(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        time.sleep(seconds)


class Pacer:
    """Of one trainer."""

    def __init__(self, share: float, clock: Clock | None = None) -> None:
        """`share`: of the time in which it computes; 1: all of it."""
        self._rest = 1 / share - 1
        self._clock = clock or Clock()
        self._began: float | None = None

    def step_begins(self) -> None:
        """Take note of when."""
        self._began = self._clock.now()

    def step_ended(self, line: Watched) -> None:
        """Rest for what the step took; at once back where somebody waits."""
        began, self._began = self._began, None
        if began is None or not self._rest:
            return
        left = min(MOST, (self._clock.now() - began) * self._rest)
        while left > 0 and not line.is_hurried() and not line.is_interrupted():
            self._clock.sleep(min(SLICE, left))
            left -= SLICE
