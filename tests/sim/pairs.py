"""One fault at one step of one role, in a simulated swarm of four that has learned its deadlines.

    sender    puts its parts on their way              Part
    owner     hands out the means it made              Reduced
    convener  proposes the group and commits it        Propose, Commit
    joiner    comes late, fetches the state            Want, Fetch, and its first Part or Ready

A pair is played up to its step exactly, message by message, and the other three are watched: what they hold,
and how long they wait beyond the work of the slowest of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import msgspec
import numpy as np
from sim.checks import check_survivors_agree
from sim.network import Weather
from sim.node import Died, SimNode
from sim.world import Scenario, Sim

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Send
from shoal.gossip.member import commands
from shoal.gossip.messages import Commit, Fetch, Part, Propose, Ready, Reduced, Want

ROLES: Final = ("sender", "owner", "convener", "joiner")
FAULTS: Final = (
    "dies before",
    "dies during",
    "dies after",
    "is slow",
    "is frozen",
    "is cut off",
    "is cut off from one",
    "sends garbage",
    "sends NaN",
    "sends a wrong part",
    "cancels",
)
NODES: Final = 4
ROUND: Final = 9
"""In which it happens, or earlier to a joiner: by then every deadline of the others is learned."""
AFTER: Final = 4
"""Rounds that are watched from then on."""
LATE: Final = 10.0
"""Seconds by which a slow one's words leave late: far more than any deadline that is learned here."""
STEPS: Final[dict[str, tuple[type, ...]]] = {
    "sender": (Part,),
    "owner": (Reduced,),
    "convener": (Propose, Commit),
    "joiner": (Want, Fetch),
}
BENT: Final = ("sends garbage", "sends NaN", "sends a wrong part")
LIMIT: Final = 200.0
"""Virtual seconds after which the others would be stuck."""


@dataclass
class Seen:
    """What became of the others."""

    violations: list[str]
    waits: dict[int, float] = field(default_factory=dict)
    """By round: from the last of them that was ready to the last that had the new state."""
    lasted: dict[int, float] = field(default_factory=dict)
    """By round: seconds from the end of the one before."""
    states: dict[int, set[bytes]] = field(default_factory=dict)
    """By round: the states after it."""
    deadline: float = 0.0
    """The longest wait that any of them had learned when it happened."""
    happened: bool = False
    since: int = ROUND
    """The round of the others in which it happened."""
    failed: int = 0
    """Asks of the others that failed."""
    fetched: int = 0
    """How often one of the others had to fetch a state."""

    @property
    def lost(self) -> float:
        """Seconds that the others waited longer than they had used to, over all rounds from then on."""
        usual = median(self.waits[r] for r in range(3, self.since))
        return sum(max(0.0, self.waits[r] - usual) for r in range(self.since, self.since + AFTER))

    @property
    def slowdown(self) -> float:
        """The longest round from then on, in rounds as they were before."""
        usual = median(self.lasted[r] for r in range(3, self.since))
        return max(self.lasted[r] for r in range(self.since, self.since + AFTER)) / usual


class Pair:
    """One role and one fault, played in one swarm."""

    def __init__(self, role: str, fault: str, seed: int) -> None:
        """Nothing has happened yet."""
        self.role, self.fault = role, fault
        starts = (0.0, 0.0, 0.0, 26.0) if role == "joiner" else (0.0,)
        scenario = Scenario(
            seed,
            NODES,
            starts=starts,
            paces=(3.0,),
            wait_for=3 if role == "joiner" else 4,
            chunk_numel=4,
            weather=Weather(latency=0.01, jitter=0.1),
        )
        self.sim = Sim(scenario)
        self.victim: SimNode | None = None
        self.count = 0
        self.asked: dict[tuple[int, PeerId], float] = {}
        self.ended: dict[tuple[int, PeerId], float] = {}
        self.seen = Seen([])
        self._after: dict[tuple[int, PeerId], bytes] = {}
        for node in self._candidates():
            node.lie = self._bend
        self._watch()

    def _candidates(self) -> list[SimNode]:
        nodes = sorted(self.sim.nodes.values(), key=lambda node: node.number)
        return {"convener": nodes, "joiner": nodes[3:]}.get(self.role, nodes[1:2])

    def play(self) -> Seen:
        """Play it, until the others have gone through the rounds that are watched."""
        sim = self.sim
        for node, start in zip(sim.nodes.values(), sim._circle(sim.scenario.starts), strict=True):
            sim.at(start, sim.started, node)
        sim.oracle.lies_told = self.fault in BENT
        while sim._heap and sim.now < LIMIT and not self._is_over():
            sim.now, _, function, arguments = heapq.heappop(sim._heap)
            function(*arguments)
        check_survivors_agree(sim.oracle)
        # Who is frozen or cut off is not starved by the others.
        found = [each for each in sim.oracle.violations if each.invariant != "nobody is starved"]
        self.seen.violations = [f"{each.invariant}: {each.detail}" for each in found]
        self._sum_up()
        return self.seen

    # --- watching ---------------------------------------------------------------------------------

    def _others(self) -> list[SimNode]:
        victim = self.victim or self._candidates()[0]
        return [node for node in self.sim.nodes.values() if node is not victim]

    def _is_over(self) -> bool:
        last = ROUND + AFTER - 1
        return self.victim is not None and all((last, node.me) in self.ended for node in self._others())

    def _watch(self) -> None:
        oracle = self.sim.oracle
        contributed, new_state, noticed = oracle.contributed, oracle.new_state, oracle.noticed

        def watch_ask(node: SimNode, event: Any) -> None:
            contributed(node, event)
            self.asked.setdefault((node.member.round, node.me), self.sim.now)

        def watch_state(node: SimNode) -> None:
            new_state(node)
            done = (node.member.round - 1, node.me)
            self.ended.setdefault(done, self.sim.now)
            self._after.setdefault(done, node.member.state)

        def watch_notice(node: SimNode, notice: Any) -> None:
            noticed(node, notice)
            if self.victim is not None and node is not self.victim:
                self.seen.failed += isinstance(notice, commands.Failed)
                self.seen.fetched += isinstance(notice, commands.Behind)

        oracle.contributed, oracle.new_state = watch_ask, watch_state  # type: ignore[method-assign]
        oracle.noticed = watch_notice  # type: ignore[method-assign]

    def _sum_up(self) -> None:
        names = [node.me for node in self._others()]
        # Who is cut off from one trains on with all, and its work may be the longest.
        trainers = list(self.sim.nodes) if self.fault == "is cut off from one" else names
        for round_ in range(1, ROUND + AFTER):
            if not all((round_, peer) in self.ended for peer in names):
                continue
            end = max(self.ended[round_, peer] for peer in names)
            asked = [self.asked[round_, peer] for peer in trainers if (round_, peer) in self.asked]
            self.seen.waits[round_] = end - max(asked)
            self.seen.lasted[round_] = end - max(self.ended[round_ - 1, peer] for peer in names)
            self.seen.states[round_] = {self._after[round_, peer] for peer in names}

    # --- the fault --------------------------------------------------------------------------------

    def _bend(self, node: SimNode, effect: Send) -> list[Send]:
        """Carry out what a node says, as the fault has it."""
        if self.victim is not None and node is not self.victim:
            return [effect]
        if self.fault in BENT and self.role != "convener":
            return self._bent(node, effect)
        kinds = STEPS[self.role]
        is_step = isinstance(effect.message, kinds) and self._is_time(node)
        if is_step:
            self.count += 1
        if not self._is_due(node, effect, is_step):
            return [effect]
        return self._act(node, effect, is_step)

    def _is_time(self, node: SimNode) -> bool:
        return self.role == "joiner" or node.member.round == ROUND

    def _is_due(self, node: SimNode, effect: Send, is_step: bool) -> bool:
        if self.victim is not None:
            return True
        if self.fault == "dies after":
            if self.role == "joiner":
                return isinstance(effect.message, Ready)
            return self.count == self._whole() and not is_step
        at = 1 if self.fault in ("dies before", "is slow") else self._whole() // 2 + 1
        return is_step and self.count >= at

    def _whole(self) -> int:
        """How many messages the step has."""
        others = NODES - 1
        return {"sender": 2 * others, "owner": 2 * others, "convener": 2 * others, "joiner": 6}[self.role]

    def _begin(self, node: SimNode) -> bool:
        """Note that it happens now; tells whether it has not happened before."""
        if self.victim is not None:
            return False
        self.victim, self.seen.happened = node, True
        self.seen.since = min(other.member.round for other in self._others())
        for other in self._others():
            member = other.member
            waits = (member.asks.wait, member.group_search.ready_wait, member.group_search.answer_wait)
            self.seen.deadline = max(self.seen.deadline, *(wait.seconds() for wait in waits))
        return True

    def _act(self, node: SimNode, effect: Send, is_step: bool) -> list[Send]:
        sim = self.sim
        is_first = self._begin(node)
        match self.fault:
            case "dies before" | "dies during" | "dies after":
                raise Died
            case "is frozen":
                sim.freeze(node)
                return []
            case "is cut off" | "is cut off from one":
                others = [other.me for other in self._others()] if is_first else []
                for peer in others[-1:] if "one" in self.fault else others:
                    sim.block(node.me, peer)
                    sim.block(peer, node.me)
                return [effect]
            case "is slow":
                if is_step:
                    late = Send(effect.peer, effect.message, bytes(effect.data))
                    sim.at(sim.now + LATE, sim.send, node, late)
                return [] if is_step else [effect]
            case "cancels":
                if is_first:
                    sim.at(sim.now, node.act, lambda: self._cancel(node))
                return [effect]
        return self._false_commit(effect, is_step)

    def _cancel(self, node: SimNode) -> None:
        if self.role == "joiner":
            node.kill_trainer()
        elif node.trainer is not None:
            node.trainer._idle("cancelled")

    # --- false words ------------------------------------------------------------------------------

    def _false_commit(self, effect: Send, is_step: bool) -> list[Send]:
        """A convener whose group is none: others in it, another to each, or of absurd shares."""
        message = effect.message
        if not is_step or not isinstance(message, Propose | Commit):
            return [effect]
        false: dict[str, Callable[[], dict[str, Any]]] = {
            "sends garbage": lambda: {"members": message.members[::-1][1:] * 2},
            "sends NaN": lambda: {"shares": tuple(1 << 20 for _ in message.members[1:])},
            "sends a wrong part": lambda: {"nonce": message.nonce ^ (1 + self.count)},
        }
        return [Send(effect.peer, msgspec.structs.replace(message, **false[self.fault]()), effect.data)]

    def _bent(self, node: SimNode, effect: Send) -> list[Send]:
        kind = Reduced if self.role == "owner" else Part
        message = effect.message
        due = node.member.round == ROUND or self.role == "joiner" or self.victim is not None
        if not isinstance(message, kind) or not due:
            return [effect]
        self._begin(node)
        data: Any = bytes(effect.data)
        match self.fault:
            case "sends garbage":
                data = data[:-3]
            case "sends NaN":
                data = np.full(len(data) // 4, np.nan, np.float32).tobytes()
            case "sends a wrong part":
                message = msgspec.structs.replace(message, part=(message.part + 1) % NODES)
        return [Send(effect.peer, message, data)]
