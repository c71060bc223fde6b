"""Protocol cores talking to each other without nodes: what is sent lies in queues, a seed says what is next.

Between two peers there are two lanes, as on a link: control and bulk. Each keeps its order, and
overtakes the other at will. Time stands still until `wait` moves it and fires the timers that are due.
"""

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Drop, Effects, Send, SetTimer, Timer

Handler = Callable[[PeerId, Any, Any, float], Effects]


def peers(count: int) -> list[PeerId]:
    """Return so many peer ids."""
    return [PeerId(f"peer{number}") for number in range(count)]


class Net:
    """Queues between cores."""

    def __init__(self, seed: int) -> None:
        """`seed`: of the order in which things arrive."""
        self.now = 0.0
        self.dead: set[PeerId] = set()
        self.dropped: list[tuple[PeerId, PeerId, str]] = []
        """(who, whom, why)."""
        self.sent: list[tuple[PeerId, PeerId, Any]] = []
        self.bend: Callable[[PeerId, Send], Iterable[Send]] | None = None
        """What a liar makes of a message, by its sender."""
        self._dice = Random(seed)
        self._handlers: dict[PeerId, Handler] = {}
        self._timers: dict[PeerId, Callable[[float], Effects]] = {}
        self._due: dict[tuple[PeerId, Timer], float] = {}
        self._queues: dict[tuple[PeerId, PeerId, bool], list[tuple[Any, bytes]]] = {}

    def join(self, peer: PeerId, handler: Handler, timer: Callable[[float], Effects]) -> None:
        """Let a core take part; `timer` is called when any of its timers is due."""
        self._handlers[peer], self._timers[peer] = handler, timer

    def carry_out(self, peer: PeerId, effects: Effects) -> None:
        """Queue what a core wants sent, and note its timer."""
        for effect in effects:
            match effect:
                case Send():
                    if effect.is_void:
                        continue
                    for each in (effect,) if self.bend is None else self.bend(peer, effect):
                        self.sent.append((peer, each.peer, each.message))
                        lane = (peer, each.peer, len(each.data) > 0)
                        self._queues.setdefault(lane, []).append((each.message, bytes(each.data)))
                case SetTimer():
                    self._due[peer, effect.name] = effect.at
                case Drop():
                    self.dropped.append((peer, effect.peer, effect.reason))

    def kill(self, peer: PeerId) -> None:
        """Let a core hear and say nothing more; what it has sent is lost too."""
        self.dead.add(peer)
        self._queues = {lane: queue for lane, queue in self._queues.items() if peer not in lane}

    def step(self) -> bool:
        """Deliver one message; tells whether there was one."""
        lanes = [lane for lane, queue in self._queues.items() if queue and not self.dead & set(lane[:2])]
        if not lanes:
            return False
        lane = lanes[self._dice.randrange(len(lanes))]
        message, data = self._queues[lane].pop(0)
        sender, to, _ = lane
        if to in self._handlers:
            self.carry_out(to, self._handlers[to](sender, message, data, self.now))
        return True

    def run(self, steps: int = 100_000) -> None:
        """Deliver what there is, and what follows from it."""
        for _ in range(steps):
            if not self.step():
                return

    def wait(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self.now + seconds
        self.run()
        while True:
            due = {key: at for key, at in self._due.items() if at <= end and key[0] not in self.dead}
            if not due:
                break
            peer, name = min(due, key=lambda each: (due[each], each[0], each[1].value))
            self.now = max(self.now, self._due.pop((peer, name)))
            self.carry_out(peer, self._timers[peer](self.now))
            self.run()
        self.now = end
