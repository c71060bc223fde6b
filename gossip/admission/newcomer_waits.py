"""NewcomerWaits: how long a node has waited for newcomers alone, and whether it may do so again.

A newcomer that says it is ready and then falls silent costs its group a wait. Each one is muted for that
(mutes.py). But keys cost nothing: another one can do the same, and one that is just slow enough is never
muted. So a node keeps account: it waits for newcomers alone for at most a tenth of its time, and then for no
newcomer until that time has come back.
"""

from typing import Final

SHARE: Final = 0.1
"""Of a node's time."""
MOST: Final = 0.5
"""Seconds that are saved up while nobody makes it wait."""
DEBT: Final = 60.0
"""Seconds by which it may have waited too long: no newcomer is waited for in ten times as many."""


class NewcomerWaits:
    """The account of one node. See the module's docstring."""

    def __init__(self) -> None:
        """Nothing was waited for yet."""
        self._left = MOST
        self._at = 0.0

    def may_wait(self, now: float) -> bool:
        """Tell whether there is time left to wait for newcomers."""
        self._left = min(MOST, self._left + SHARE * max(0.0, now - self._at))
        self._at = now
        return self._left > 0

    def charge(self, seconds: float, now: float) -> None:
        """Take note of a wait; the account goes no further into debt than it can hold."""
        self.may_wait(now)
        self._left = max(-DEBT, self._left - seconds)
