"""A swarm simulated whole: shipped cores and rounds, virtual time, one process, one seed.

    Scenario --Sim--> events in order of time --> Oracle watches every answer --> Result

Everything that a run does follows from its `Scenario`, a value that prints as the literal it is made
from; the same scenario leaves the same trace, byte for byte, on every machine. Its faults are a plain list,
so a failing run shrinks by leaving faults out (runs.py) and stays in a test as what is left.
"""

from __future__ import annotations

import gc
import heapq
import struct
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any, Final

import msgspec
from nacl.signing import SigningKey
from sim.checks import Oracle, Violation
from sim.network import DOUBT_WAIT, KEEP_ALIVE, Link, Network, Weather, pair
from sim.node import SimNode, address_of, make_spec
from sim.rosters import SimRoster

from shoal.crypto.keys import PeerId, key_from_seed, peer_id_of
from shoal.gossip.addresses import endpoint
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Arriving, DialFailed, PeerFound, PeerLost, Received, Send
from shoal.gossip.lifecycle import Phase
from shoal.gossip.member.commands import Event
from shoal.gossip.membership.company import Policy
from shoal.gossip.membership.dial_plan import peer_in
from shoal.gossip.messages import Record
from shoal.gossip.run_spec import Combine
from shoal.gossip.wire import OTHER_RUN, Codec

MAX_SAID: Final = 300
DOUBT: Final = 5.0
"""Seconds for which a host may send over a link that has ended, when there is another."""
MAX_EVENTS: Final = 60_000
"""Far more than any swarm here has to say to itself; of faults in a minute."""
CALM_BOUND: Final = 150.0
"""Seconds after the last fault within which everyone is together again."""
USERS_LOOK: Final = 30.0
"""Seconds after the last fault after which users see to what their nodes tell them, where somebody lied."""
RARELY: Final = 50_000
"""Objects after which a run looks for circles of garbage: there are few, and the search takes a tenth."""
_MOMENT: Final = struct.Struct("<dBB")
TRACED_AS: Final = {
    "AbortRound": "GiveUp",
    "BeginExternalExchange": "Engage",
    "CachedChunks": "Known",
}
"""Events that had another name when traces were first compared: a trace outlives the names of classes."""
Fault = tuple[Any, ...]
"""(time, kind, arguments…); see faults.py."""


@dataclass(frozen=True)
class Scenario:
    """Everything that a run follows from."""

    seed: int
    nodes: int = 5
    faults: tuple[Fault, ...] = ()
    paces: tuple[float, ...] = (3.0,)
    """Seconds of local work per round; node i takes the i-th, in a circle."""
    steps: tuple[float, ...] = (0.05,)
    """Seconds until a trainer heeds a flag."""
    starts: tuple[float, ...] = (0.0,)
    topology: str = "star"
    """Who knows whom at first: star, line, ring or pairs."""
    walls: str = ""
    """Which links alone are possible: line, ring or star; empty: all."""
    helpers: int = 0
    """The last so many nodes have no trainer."""
    group_size: int = 16
    quorum: int = 1
    rounds: int = 0
    calm_rounds: int = 1
    """Rounds that everyone has to finish after the swarm is one again."""
    wait_for: int = 1
    alone: Policy = "wait"
    patience: float = 15.0
    slowest_line: float = 4.0
    """Bytes per second: a vector here is so much smaller than a model."""
    trust: tuple[int, float] = (20, 600.0)
    """Rounds, and seconds, that make a peer a colleague."""
    acquainted: tuple[int, ...] = ()
    """Nodes that all others know as colleagues from before."""
    combine: Combine = "mean"
    """What groups make of contributions."""
    secure: bool = False
    """They are summed under masks."""
    pushes: int = 0
    """Of a round, where all average pairwise; 0: in groups."""
    asks: str = "r"
    calls: bool = False
    """Whether trainers call a host before each contribution."""
    stages: int = 0
    """Of a body, where all learn by split learning: see split.py."""
    mergeable: bool = True
    chunk_numel: int = 8
    weather: Weather = field(default_factory=Weather)
    rates: tuple[float, ...] = (1.0,)
    """Local seconds per true second, of the nodes in a circle."""
    lines: tuple[int, ...] = (0,)
    """kB/s, of the nodes in a circle, by which parts are sized; 0: not known."""
    mode: str = ""
    """Who may take part, where the run has a roster: closed, invite or open; empty: it has none."""
    house: tuple[int, ...] = ()
    """Nodes with addresses of one /24."""
    lacking: tuple[int, ...] = ()
    """Nodes that fetch the frozen base of the run before they train."""
    checked: bool = False
    """Every message goes through the real wire: slow, and proves that it can be said."""


@dataclass
class Result:
    """What came of a run."""

    scenario: Scenario
    violations: list[Violation]
    trace: str
    events: int
    seconds: float
    """Virtual."""
    settled: float
    """Virtual seconds from the last fault until the swarm was one again; infinite if never."""
    rounds: int
    """The highest round reached."""
    messages: int
    counts: Counter[str] = field(default_factory=Counter)


@cache
def _key(number: int) -> SigningKey:
    return key_from_seed(bytes([number]) * 32)


@cache
def _traced_as(kind: str) -> bytes:
    return TRACED_AS.get(kind, kind).encode()


class Sim:
    """One run. See the module's docstring."""

    def __init__(self, scenario: Scenario) -> None:
        """Make the world; nothing has happened yet."""
        self.scenario = scenario
        self.now = 0.0
        self.spec = make_spec(
            scenario.group_size,
            scenario.rounds,
            scenario.quorum,
            scenario.pushes,
            scenario.chunk_numel,
            scenario.combine,
            scenario.secure,
        )
        self.dice = Random(scenario.seed)
        self.network = Network(self.dice, scenario.weather, self.at, self._deliver)
        self.oracle = Oracle(self)
        self.network.on_bulk = self.oracle.movements.leaves
        self.counts: Counter[str] = Counter()
        self.calm_from = max([fault_end(fault) for fault in scenario.faults], default=0.0)
        self.calm_from = max(self.calm_from, *self._circle(scenario.starts))
        self.is_over = False
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0
        self._trace = 0
        self._events = 0
        self._blocks: Counter[tuple[PeerId, PeerId]] = Counter()
        self._lives: dict[tuple[PeerId, PeerId], int] = {}
        """(one, other): in which life of the other the one was last linked to it."""
        self.nodes = {node.me: node for node in self._make_nodes()}
        self.names = sorted(self.nodes, key=lambda peer: self.nodes[peer].number)
        self._index = {peer: number for number, peer in enumerate(self.names)}
        self.codecs: dict[PeerId, Codec] = {}
        keys = [_key(node.number) for node in self.nodes.values()]
        self.roster = SimRoster(self, keys) if scenario.mode else None
        if self.roster is not None:
            self.spec = msgspec.structs.replace(self.spec, charter=str(self.roster.world.charter))
        self._down_hard: set[PeerId] = set()
        self.stale_at = 0.0
        """When a liar last spoke, or words came that had waited for a stopped process or a blocked way."""
        self.said: dict[PeerId, list[tuple[Any, Any]]] = {}
        """What peers that replay have sent so far."""

    # --- running ----------------------------------------------------------------------------------

    def run(self) -> Result:
        """Run to the end: until the swarm is one again after the last fault, or far too long."""
        # Here, since faults and their meaning stand beside the world they act on.
        from sim.faults import plan

        scenario = self.scenario
        for node, start in zip(self.nodes.values(), self._circle(scenario.starts), strict=True):
            self.at(start, self.started, node)
        if self.roster is not None:
            self.roster.plan()
        for fault in scenario.faults:
            plan(self, fault)
        if self.oracle.liars:
            for node in self.nodes.values():
                self.at(self.calm_from + USERS_LOOK, node.heed)
        end = self.calm_from + CALM_BOUND
        if scenario.rounds:
            # The last round may have been before the last fault.
            self.at(self.calm_from + 1.0, self.oracle.look)
        heap, pop, most = self._heap, heapq.heappop, MAX_EVENTS * max(1.0, self.calm_from / 60)
        thresholds = gc.get_threshold()
        gc.set_threshold(RARELY, *thresholds[1:])
        try:
            while heap and not self.is_over:
                self.now, _, function, arguments = pop(heap)
                if self.now > end:
                    break
                self._events += 1
                if self._events > most:
                    self.oracle.violate("messages are bounded", f"{self._events} events")
                    break
                function(*arguments)
        except Exception:  # noqa: BLE001  # whatever a core raises is what this looks for
            self.oracle.violate("handle never raises", traceback.format_exc(limit=-6))
        finally:
            gc.set_threshold(*thresholds)
        self.oracle.finish()
        return Result(
            scenario,
            self.oracle.violations,
            f"{self._trace:08x}",
            self._events,
            self.now,
            self.oracle.settled_at - self.calm_from,
            self.oracle.highest,
            self.network.messages,
            self.counts,
        )

    def at(self, when: float, function: Callable[..., None], *arguments: Any) -> None:
        """Plan a call."""
        self._planned += 1
        heapq.heappush(self._heap, (when, self._planned, function, arguments))

    def handled(self, node: SimNode, event: Event) -> None:
        """Take an event into the trace."""
        if type(event) is Received:
            line = _MOMENT.pack(self.now, node.number, self._index[event.peer])
            self._trace = zlib.crc32(
                line + _traced_as(type(event.message).__name__) + event.data, self._trace
            )
        else:
            line = _MOMENT.pack(self.now, node.number, node.number)
            self._trace = zlib.crc32(line + _traced_as(type(event).__name__), self._trace)

    # --- nodes ------------------------------------------------------------------------------------

    def _circle(self, values: tuple[float, ...]) -> list[float]:
        return [values[number % len(values)] for number in range(self.scenario.nodes)]

    def _make_nodes(self) -> list[SimNode]:
        scenario = self.scenario
        nodes = []
        for number in range(scenario.nodes):
            node = SimNode(self, number, self.name(number), Random(scenario.seed * 1000 + number))
            node.pace = self._circle(scenario.paces)[number]
            node.step = self._circle(scenario.steps)[number]
            node.clock.rate = self._circle(scenario.rates)[number]
            node.is_helper = number >= scenario.nodes - scenario.helpers
            if number in scenario.lacking:
                node.disk.base.lose()
            node.bootstraps = tuple(self.name(other) for other in self._knows(number))
            nodes.append(node)
        return nodes

    def name(self, number: int) -> PeerId:
        """Return the peer id of a node."""
        is_real = self.scenario.checked or self.scenario.mode
        return peer_id_of(bytes(_key(number).verify_key)) if is_real else PeerId(f"p{number}")

    def host(self, peer: PeerId) -> str:
        """Return the IP address at which others see a node."""
        number = self._index[peer]
        if number in self.scenario.house:
            return f"20.0.0.{number + 1}"
        spot = endpoint(address_of(peer))
        assert spot is not None
        return spot.host

    def _knows(self, number: int) -> list[int]:
        last = self.scenario.nodes - 1
        match self.scenario.topology:
            case "line":
                return [number - 1] if number else []
            case "ring":
                return [number - 1 if number else last]
            case "pairs":
                # Two swarms that know of each other by one address.
                return [number - 2] if number > 1 else ([0] if number else [])
        return [0] if number else []

    def trainers(self) -> list[SimNode]:
        """Return the live nodes with a trainer that do not lie."""
        return [
            node
            for node in self.nodes.values()
            if node.is_alive and node.trainer is not None and not self.oracle.is_liar(node.me)
        ]

    def crashed(self, node: SimNode, power: bool = False) -> None:
        """End a node; its peers see its links break now, or when their keep-alive ends."""
        node.die()
        if power:
            self._down_hard.add(node.me)
        for peer in self.names:
            # Without power nobody says that a link ended.
            self.break_link(node.me, peer, KEEP_ALIVE if power else 0.05)
        if self.scenario.rounds and self.now >= self.calm_from:
            # It may have been the last that was not done: nobody makes a state any more.
            self.oracle.look()

    def started(self, node: SimNode) -> None:
        """Start a node again."""
        if not node.is_alive:
            self.oracle.look_back()
            self._down_hard.discard(node.me)
            node.start()
            self.oracle.forget_what_nobody_knows()

    # --- links ------------------------------------------------------------------------------------

    def send(self, node: SimNode, effect: Send) -> None:
        """Carry out a `Send`."""
        message, data = effect.message, effect.data
        if len(data):
            self.oracle.parts.sent(node, data)
        if node.lie is not None:
            said = self.said.setdefault(node.me, [])
            said.append((message, bytes(data)))
            del said[:-MAX_SAID]
        if self.scenario.checked:
            message = self.codecs[node.me].encode(message)  # type: ignore[assignment]  # its bytes
        self.network.send(node.me, effect.peer, message, data, self.now)

    def _deliver(self, to: PeerId, frame: Received | Arriving) -> None:
        node = self.nodes[to]
        if isinstance(frame, Arriving) or len(frame.data):
            self.oracle.movements.came(to, frame)
        if self.scenario.checked and node.is_alive and isinstance(frame, Received):
            message = self._decode(to, frame)
            if message is None:
                return
            frame = Received(frame.peer, message, frame.data, frame.message)  # type: ignore[arg-type]
        node.hear(frame)

    def _decode(self, to: PeerId, frame: Any) -> Any:
        """Return what the receiver's end of the wire makes of a frame, or nothing."""
        try:
            return self.codecs[to].decode(frame.peer, frame.message, len(frame.data))
        except RemoteViolation as violation:
            self.counts[f"wire: {violation.reason}"] += 1
            if violation.reason != OTHER_RUN and not self.oracle.lies_told:
                text = f"{to} refused a word of {frame.peer}: {violation}"
                self.oracle.violate("everything that is said can be understood", text)
            return None

    def publish(self, node: SimNode, message: Any) -> None:
        """Flood an announcement over all links."""
        dice, network = self.dice.random, self.network
        seen = {node.me: 0.0}
        queue = [node.me]
        for peer in queue:
            for other in self.names:
                if other in seen or not network.is_up(peer, other) or (peer, other) in network.blocked:
                    continue
                seen[other] = seen[peer] + network.latency(peer, other) * (1 + dice())
                queue.append(other)
                record = message.records[0][0]
                if self.scenario.checked:
                    record = self.codecs[other].open_record(self.codecs[node.me].encode_announcement(message))
                self.at(self.now + seen[other], self._announced, peer, self.nodes[other], record)
                if dice() < network.weather.twice:
                    self.at(self.now + seen[other] + dice(), self._announced, peer, self.nodes[other], record)

    def _announced(self, via: PeerId, node: SimNode, record: Record) -> None:
        if node.is_alive:
            node.hear(Received(via, node.member.heard(record)))

    def dial(self, node: SimNode, address: str) -> None:
        """Carry out a `Dial`."""
        self.oracle.dialled(node, address)
        peer = peer_in(address)
        if (
            peer is None
            or peer not in self.nodes
            or address != address_of(peer)
            or not self._is_possible(node.number, self.nodes[peer].number)
        ):
            self._dial_failed(node, address, "unreachable", 0.1)
        elif self.network.is_up(node.me, peer):
            self.at(
                self.now + 0.001, self._tell, node, node.life, PeerFound(peer, address, host=self.host(peer))
            )
        else:
            delay = 4 * self.network.latency(node.me, peer)
            self.at(self.now + delay, self._dialled, node, node.life, peer, address)

    def _is_possible(self, one: int, other: int) -> bool:
        near = abs(one - other)
        match self.scenario.walls:
            case "line":
                return near == 1
            case "ring":
                return near in (1, self.scenario.nodes - 1)
            case "star":
                return 0 in (one, other)
        return True

    def _dialled(self, node: SimNode, life: int, peer: PeerId, address: str, waited: float = 0.0) -> None:
        other = self.nodes[peer]
        if node.life != life:
            return
        if not self.network.is_open(node.me, peer) or peer in self._down_hard:
            self._dial_failed(node, address, "timeout", 5.0)
        elif not other.is_alive:
            self._dial_failed(node, address, "refused", 0.0)
        elif other.is_frozen or node.is_frozen:
            self._dial_failed(node, address, "timeout", 10.0)
        elif node.me in other.linked and waited < DOUBT_WAIT and self._lives[peer, node.me] != life:
            # It doubts the link to our former life first, and says hello when that is closed.
            args = (node, life, peer, address, waited + 0.1)
            self.at(self.now + 0.1, self._dialled, *args)
        else:
            if not self.network.is_up(node.me, peer):
                if waited:
                    self._lost(other, other.life, node.me)
                self.network.connect(node.me, peer)
                self._lives[peer, node.me], self._lives[node.me, peer] = life, other.life
                if node.me not in other.linked:
                    other.linked.add(node.me)
                    other.hear(PeerFound(node.me, host=self.host(node.me)))
                else:
                    # It still trusts the former link, and sends into the void until it doubts it.
                    self.network.deafen(peer, node.me, self.now + DOUBT * self.dice.random())
            node.linked.add(peer)
            node.hear(PeerFound(peer, address, host=self.host(peer)))

    def _dial_failed(self, node: SimNode, address: str, reason: str, delay: float) -> None:
        self.at(self.now + delay, self._tell, node, node.life, DialFailed(address, reason))

    def _tell(self, node: SimNode, life: int, event: Event) -> None:
        if node.life == life:
            node.hear(event)

    def drop(self, node: SimNode, peer: PeerId, reason: str) -> None:
        """Carry out a `Drop`."""
        self.counts[f"drop: {reason}"] += 1
        self.oracle.dropped(node, peer, reason)
        if self.network.is_up(node.me, peer):
            self.break_link(node.me, peer, 0.1)

    def probe(self, node: SimNode, peer: PeerId) -> None:
        """Carry out a `ProbeLink`: a link on which nothing comes back is closed some seconds later."""
        link = self.network.links.get(pair(node.me, peer))
        self.at(self.now + DOUBT_WAIT, self._close_if_dead, node.me, peer, link)

    def _close_if_dead(self, one: PeerId, other: PeerId, link: Link | None) -> None:
        is_same = link is not None and self.network.links.get(pair(one, other)) is link
        is_silent = not self.network.is_open(one, other) or self.nodes[other].is_frozen
        if is_same and is_silent:
            self.break_link(one, other, 0.1)

    def break_link(self, one: PeerId, other: PeerId, within: float) -> None:
        """Break a link; both ends are told within so many seconds, not at once."""
        if not self.network.is_up(one, other):
            return
        self.network.cut(one, other)
        for end, peer in ((one, other), (other, one)):
            node = self.nodes[end]
            self.at(self.now + within * self.dice.random(), self._lost, node, node.life, peer)

    def _lost(self, node: SimNode, life: int, peer: PeerId) -> None:
        # With a new link up meanwhile the host has nothing to tell.
        if node.life == life and peer in node.linked and not self.network.is_up(node.me, peer):
            node.linked.discard(peer)
            node.hear(PeerLost(peer))

    def block(self, sender: PeerId, to: PeerId) -> None:
        """Let nothing through in this direction; the link breaks when its keep-alive ends."""
        self._blocks[sender, to] += 1
        self.network.blocked.add((sender, to))
        count = self._blocks[sender, to]
        link = self.network.links.get((min(sender, to), max(sender, to)))

        def silent() -> None:
            still = self._blocks[sender, to] >= count and link is not None
            if still and link is not None and self.network.links.get(link.ends) is link:
                self.break_link(sender, to, 1.0)

        self.at(self.now + KEEP_ALIVE * (0.6 + 0.4 * self.dice.random()), silent)

    def unblock(self, sender: PeerId, to: PeerId) -> None:
        """End one block of this direction."""
        self._blocks[sender, to] -= 1
        if self._blocks[sender, to] <= 0 and self.network.unblock(sender, to, self.now):
            self.stale_at = self.now

    def freeze(self, node: SimNode) -> None:
        """Stop a process without ending it; its peers notice when their keep-alive ends."""
        if not node.is_alive or node.is_frozen:
            return
        node.is_frozen = True
        life = node.life

        def silent(peer: PeerId, link: Any) -> None:
            same = self.network.links.get(link.ends) is link
            if node.life == life and node.is_frozen and same:
                self.break_link(node.me, peer, 0.5)

        for peer in self.names:
            link = self.network.links.get((min(node.me, peer), max(node.me, peer)))
            if link is not None:
                self.at(self.now + KEEP_ALIVE * (0.9 + 0.1 * self.dice.random()), silent, peer, link)

    # --- the wire ---------------------------------------------------------------------------------

    def codec_started(self, node: SimNode, sequence: int) -> None:
        """A node made its end of the wire."""
        if self.scenario.checked:
            self.codecs[node.me] = Codec(_key(node.number), "sim", sequence)

    def set_run(self, node: SimNode, run: bytes) -> None:
        """A node told its wire which run it is in."""
        if self.scenario.checked:
            self.codecs[node.me].run = run


def fault_end(fault: Fault) -> float:
    """Return when a fault is over."""
    from sim.faults import end_of

    return end_of(fault)


def is_finished(node: SimNode) -> bool:
    """Whether a node's run is over."""
    return node.member.phase is Phase.FINISHED
