"""Failpoints: die by SIGKILL at a named point of a round, for tests of crashes.

    NAME:ROUND    work, matchmaking, convene, reduce-sender, reduce-owner, sync, save

Or freeze by SIGSTOP there; or freeze the proxy through which all links go, and so be cut off.

The point of a test is that a process may die anywhere; a failpoint makes "anywhere" repeatable.
"""

import os
import signal
from typing import Final

from shoal.gossip.events import Effect, Send
from shoal.gossip.messages import Accept, Commit, Fetch, Part, Propose, Ready, Reduced
from shoal.node.errors import BadConfig

NAMES: Final = ("work", "matchmaking", "convene", "reduce-sender", "reduce-owner", "sync", "save")


class Failpoint:
    """Where this process is to die, if anywhere."""

    def __init__(self, text: str, *, freezes: bool = False, pid: int = 0) -> None:
        """`text`: NAME:ROUND, or empty; `pid`: of the process that is stopped or killed, 0 for this one.

        Raises:
            BadConfig: there is no such point.
        """
        self._name, _, number = text.partition(":")
        if text and (self._name not in NAMES or not number.isdigit()):
            raise BadConfig(
                f"testing.die_at: {text!r} is none of {', '.join(NAMES)} with a round, as in work:3"
            )
        self._signal = signal.SIGSTOP if freezes else signal.SIGKILL
        self._pid = pid or os.getpid()
        self._round = int(number or 0)
        self._seen = 0

    def hit(self, name: str, round_: int) -> None:
        """Die, if this is the point."""
        if name == self._name and round_ >= self._round:
            self._name = ""  # Once: a frozen process goes on, and so does one that is cut off.
            os.kill(self._pid, self._signal)

    def effect(self, effect: Effect, round_: int) -> None:
        """Die before this effect, if it is the point: in the middle of what belongs together."""
        if not self._name or not isinstance(effect, Send) or round_ < self._round:
            return
        points: dict[str, tuple[type, ...]] = {
            "matchmaking": (Ready, Propose, Accept),
            "convene": (Propose, Commit),
            "reduce-sender": (Part,),
            "reduce-owner": (Reduced,),
            "sync": (Fetch,),
        }
        if isinstance(effect.message, points.get(self._name, ())):
            self._seen += 1
            # The second: the first has been sent, so the work is half done.
            if self._seen == 2:
                self.hit(self._name, round_)
