"""Tally: how many calls there are, and how long each part of one takes, for people who watch."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from shoal.crypto.keys import PeerId
from shoal.gossip.deadlines import WINDOW, median

Part: TypeAlias = Literal["answer", "queue", "work"]
"""From our call to its answer; from a peer's call until our trainer has it; of our trainer."""
PERIOD: Final = 10.0
"""Seconds of which calls are counted."""
MAX_COUNTED: Final = 4096
MAX_HANDED: Final = 1024
"""Calls that the trainer has; where it has more, the oldest are not timed."""
MAX_HANDOVERS: Final = 16


@dataclass(frozen=True, slots=True)
class Handover:
    """Our calls of a verb went on with another peer than the one that was asked first."""

    verb: str
    left: PeerId
    to: PeerId
    why: str
    seconds: float
    """From the call that was not answered to an answer of the other one."""
    at: float


@dataclass(slots=True)
class Tally:
    """See the module's docstring. Verbs are those of the run, so there are few."""

    _times: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_COUNTED))
    _seconds: dict[tuple[str, Part], deque[float]] = field(default_factory=dict)
    _handed: OrderedDict[tuple[str, str, bytes], float] = field(default_factory=OrderedDict)
    _left: dict[str, tuple[PeerId, str, float]] = field(default_factory=dict)
    handovers: deque[Handover] = field(default_factory=lambda: deque(maxlen=MAX_HANDOVERS))
    """The last ones, the oldest first."""

    def clear(self) -> None:
        """Begin anew, with another trainer."""
        self._times.clear()
        self._seconds.clear()
        self._handed.clear()
        self._left.clear()
        self.handovers.clear()

    def left(self, verb: str, peer: PeerId, why: str, since: float) -> None:
        """A peer did not answer what it was asked first, at `since`; an empty name is no peer."""
        if peer:
            self._left.setdefault(verb, (peer, why, since))

    def answered(self, verb: str, peer: PeerId, seconds: float, now: float) -> None:
        """A peer answered a call of ours after so many seconds."""
        self._times.append(now)
        left, why, since = self._left.pop(verb, (peer, "", now))
        if left != peer:
            self.handovers.append(Handover(verb, left, peer, why, now - since, now))
        self._took(verb, "answer", seconds)

    def handed(self, name: tuple[str, str, bytes], since: float, now: float) -> None:
        """The trainer was given a call that came at `since`. `name`: its peer, verb and step."""
        self._times.append(now)
        self._took(name[1], "queue", now - since)
        self._handed[name] = now
        if len(self._handed) > MAX_HANDED:
            self._handed.popitem(last=False)

    def replied(self, name: tuple[str, str, bytes], now: float) -> None:
        """The trainer answered it."""
        at = self._handed.pop(name, None)
        if at is not None:
            self._took(name[1], "work", now - at)

    def per_second(self, now: float) -> float:
        """Return calls of a second, ours that were answered and others' that we took, of late."""
        return sum(now - PERIOD < at for at in self._times) / PERIOD

    def medians(self) -> list[tuple[str, Part, float]]:
        """Return verbs and parts with the median of the last 12, in seconds."""
        return [(verb, part, median(list(seen))) for (verb, part), seen in sorted(self._seconds.items())]

    def _took(self, verb: str, part: Part, seconds: float) -> None:
        self._seconds.setdefault((verb, part), deque(maxlen=WINDOW)).append(max(0.0, seconds))
