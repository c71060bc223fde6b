"""The shaker: carries out a plan's schedule of faults on a running testnet.

Time counts from the swarm's first round, or from when every node has answered if that is later, so that a
machine that loads slowly does not have its nodes killed before they have begun. Once every node that lives
has finished, no new fault begins; those that have begun are ended, so that everyone can come back.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final

from shoal.node.testnet.event_log import note
from shoal.node.testnet.fault_injection.injector import Hands, node_of
from shoal.node.testnet.fault_injection.schedule import AFTER, Action, actions
from shoal.node.testnet.nodes import Testnet
from shoal.node.testnet.plan import name_of
from shoal.node.testnet.processes import is_running, read_record

SPOKEN: Final = {
    "kill": "killed",
    "restart": "started again",
    "pause": "frozen",
    "resume": "thawed",
    "split": "split off",
    "heal": "linked with all again",
    "slow": "slowed",
    "restore": "restored",
}


class Shaker:
    """Shakes one testnet by its plan."""

    def __init__(self, net: Testnet, environ: Mapping[str, str], tell: Callable[[str], None]) -> None:
        """Nothing happens before the first `step`."""
        self._net, self._tell = net, tell
        self._hands = Hands(net.directory, "schedule", environ)
        self._actions = actions(net.plan)
        self._next = next(self._actions, None)
        self._under_way: list[Action] = []
        self._began: float | None = None

    @property
    def seconds(self) -> float:
        """Since the swarm's first round; 0 before it."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    @property
    def owes(self) -> bool:
        """Whether a fault is under way that the schedule will end."""
        return bool(self._under_way)

    def step(self) -> None:
        """Do what is due."""
        if self._began is None:
            if self._net.started and any(node.rounds for node in self._net.nodes):
                self._began = time.monotonic()
                note(self._net.directory, "running")
            return
        while self._next is not None and self._next.at <= self.seconds:
            action, self._next = self._next, next(self._actions, None)
            self._take(action)

    def _take(self, action: Action) -> None:
        begun = [each for each in self._under_way if AFTER[each.kind] == action.kind]
        matching = next((each for each in begun if each.nodes == action.nodes), None)
        if matching is not None:
            self._under_way.remove(matching)
        elif action.kind not in AFTER or self._is_winding_up:
            return
        elif action.lasts:
            self._under_way.append(action)
        self._do(action)

    @property
    def _is_winding_up(self) -> bool:
        return all(node.finished or node.wished for node in self._net.nodes)

    def _do(self, action: Action) -> None:
        if action.kind == "restart":
            self._restart(action)
        else:
            self._hands.act(action)
        names = ", ".join(map(name_of, action.nodes))
        what = f"{SPOKEN[action.kind]}{f' ({action.link})' if action.link else ''}"
        self._tell(f"{self._net.seconds:6.1f} s  {names} {what}")

    def _restart(self, action: Action) -> None:
        for index in action.nodes:
            # Somebody may have been quicker, by hand.
            if not is_running(node_of(read_record(self._net.directory), index)):
                self._net.adopt(index, self._hands.restart(index))
