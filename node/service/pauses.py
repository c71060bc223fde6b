"""Pauses: has a node train when its owner wants it to, and not when not.

wall clock, battery, shoal pause --> schedule.why_not --> Rounds.pause | Rounds.resume
"""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import psutil

from shoal.node.service.machine import Memory
from shoal.node.service.schedule import FOREVER, Moment, Rules, too_much, why_not
from shoal.node.storage.database import Store

FACT: Final = "paused until"
BATTERY_SECONDS: Final = 30.0
"""Between two looks at the battery, which cost a file each."""
MEMORY_SECONDS: Final = 2.0
"""Between two looks at the memory, which cost as much."""


class Pausable(Protocol):
    """The loop of rounds."""

    def pause(self) -> None:
        """Begin no further round."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...


class Pauses:
    """Why a node does not train, and for how long. See the module's docstring."""

    def __init__(self, rules: Rules, rounds: Pausable, store: Store, memory: Memory | None = None) -> None:
        """Take up a pause that was asked for before a restart. `memory`: None where nobody looks at it."""
        self.rules = rules
        self.reason = ""
        """Why the node does not train; empty: it does."""
        self._rounds, self._store = rounds, store
        self._until = _time_of(store.get(FACT))
        self._battery = False
        self._battery_at = self._looked_at = -math.inf
        self._memory, self._used = memory, 0
        self._too_much = ""
        """Why it had too much memory, until its owner lets it go on: what is loaded stays loaded."""

    def look(self) -> None:
        """See what the clock and the machine say now."""
        now, clock = time.time(), time.localtime()
        if abs(now - self._battery_at) > BATTERY_SECONDS:
            self._battery_at, self._battery = now, is_on_battery()
        if self._memory is not None and abs(now - self._looked_at) > MEMORY_SECONDS:
            self._looked_at, self._used = now, self._memory.used_bytes()
        self.decide(Moment(now, clock.tm_hour * 60 + clock.tm_min, self._battery, self._used))

    def decide(self, moment: Moment) -> None:
        """Have the node train or not, as things are."""
        self._too_much = self._too_much or too_much(self.rules, moment)
        reason = why_not(self.rules, moment, self._until) or self._too_much
        if reason and not self.reason:
            self._rounds.pause()
        elif self.reason and not reason:
            self._rounds.resume()
        self.reason = reason

    def pause(self, seconds: float | None) -> Callable[[], None]:
        """Train no more for so long, or until `resume`; returns what keeps that over a restart."""
        self._until = FOREVER if seconds is None else time.time() + seconds
        self.look()
        return self._keep()

    def resume(self) -> Callable[[], None]:
        """End what `pause` or too much memory began; hours and battery still count. Returns as `pause`."""
        self._until, self._too_much = 0.0, ""
        self._looked_at = -math.inf
        self.look()
        return self._keep()

    def _keep(self) -> Callable[[], None]:
        store, text = self._store, repr(self._until).encode()
        return lambda: store.put(FACT, text)


def _time_of(fact: bytes | None) -> float:
    with suppress(ValueError):
        return float(fact or b"0")
    return 0.0


def is_on_battery() -> bool:
    """Tell whether the machine runs on its battery; one without a battery does not."""
    with suppress(OSError, AttributeError, RuntimeError):
        found = psutil.sensors_battery()
        return found is not None and found.power_plugged is False
    return False
