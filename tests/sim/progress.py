"""What must hold on slow lines: a member that moves is waited for, and one that trickles is not.

The oracle sees each byte of bulk arrive, and each member that tells others that it waits for one no longer.
Where all average pairwise, who asks about a push waits for it no longer.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.all_reduce import AllReduce
from shoal.gossip.averaging.push_sum import Stage
from shoal.gossip.deadlines import LONGEST, SHORTEST_TIMEOUT
from shoal.gossip.events import Arriving, Received
from shoal.gossip.messages import Cut, Part, Push, Reduced

if TYPE_CHECKING:
    from sim.checks import Oracle
    from sim.node import SimNode

MOVING: Final = "a moving member is never cut"
TRICKLE: Final = "a trickler always is"
WASTED: Final = "a failed round wastes a chunk per member at most"
PUSH_MOVES: Final = "a push that moves is never given up"
PUSH_TRICKLES: Final = "a push that trickles always is"
PUSH_WASTED: Final = "of a push that is given up a chunk is wasted at most"
BLURRED: Final = ("freeze", "jump", "split", "oneway", "lie", "lossy")
"""Faults under which a node cannot see what has come, or when."""
STEADY: Final = 2.0
"""How many times as fast as it must be a member is that is taken for moving here."""
GRACE: Final = 2.0
"""Patiences for which one that has all waits for others that say that they live, and a beat or two."""


class Movements:
    """The bulk of all exchanges of a run, as it moves."""

    def __init__(self, oracle: Oracle) -> None:
        """Nothing has moved yet."""
        self._oracle = oracle
        self._came: dict[tuple[PeerId, PeerId], deque[tuple[float, int]]] = {}
        """By receiver and sender: when how many bytes came, in the last seconds."""
        self._partial: dict[tuple[PeerId, PeerId], int] = {}
        self._began: dict[PeerId, tuple[AllReduce, float, int]] = {}
        """The exchange of each node, since when it is in it, and in which life."""
        self._pushes: dict[PeerId, tuple[PeerId, int, float, float]] = {}
        """By giver: to whom, in which epoch, since when, and for how many seconds at most."""
        self._is_blurred = any(fault[1] in BLURRED for fault in oracle.sim.scenario.faults)

    def came(self, to: PeerId, frame: Received | Arriving) -> None:
        """Bytes have arrived at a node."""
        key = (to, frame.peer)
        if isinstance(frame, Arriving):
            more = frame.n_bytes - self._partial.get(key, 0)
            self._partial[key] = frame.n_bytes
        else:
            more = len(frame.data) - self._partial.pop(key, 0)
        if more > 0:
            seen = self._came.setdefault(key, deque())
            seen.append((self._oracle.sim.now, more))
            while seen[0][0] < self._oracle.sim.now - 2 * SHORTEST_TIMEOUT:
                seen.popleft()

    def joined(self, node: SimNode) -> None:
        """A node is in another exchange now, or in none."""
        self.left(node)
        exchange = node.member.exchange
        if isinstance(exchange, AllReduce):
            self._began[node.me] = (exchange, self._oracle.sim.now, node.life)

    def left(self, node: SimNode) -> None:
        """Look for how long a node has been in its exchange, whether it is over or not."""
        exchange, began, life = self._began.get(node.me, (None, 0.0, 0))
        sim = self._oracle.sim
        if exchange is None or self._is_blurred or node.life != life or self._oracle.is_liar(node.me):
            return
        if exchange.is_over and node.member.exchange is exchange:
            self._began.pop(node.me)
        scenario, members = sim.scenario, len(exchange.group.members)
        n_bytes = 2 * (members - 1) * exchange._expected_bytes / members
        bulk = max(min(n_bytes / scenario.slowest_line, LONGEST), scenario.patience)
        bound = (1 + len(exchange.lost_members)) * (1.1 * bulk + GRACE * scenario.patience)
        if sim.now - began > bound:
            text = f"{node.me} is in an exchange of {members} for {sim.now - began:.0f} s"
            self._oracle.violate(TRICKLE, text)

    def gone(self, node: SimNode) -> None:
        """A node's trainer ended, and with it the exchange that it was in."""
        self.left(node)
        self._began.pop(node.me, None)

    def pushes(self, node: SimNode) -> None:
        """Look for how long a node has been giving to one neighbour."""
        core, sim = node.member.pairwise.core, self._oracle.sim
        if core is None:
            return
        to, known = core.target, self._pushes.get(node.me)
        given = core._given.get(to) if to is not None else None
        epoch = given.epoch if given is not None and given.stage is Stage.PUSHING else None
        if known is not None and known[:2] != (to, epoch):
            del self._pushes[node.me]
            lasted, patience = sim.now - known[2], sim.scenario.patience
            bound = 1.1 * known[3] + GRACE * patience
            if lasted > bound and node.is_alive and not self._is_blurred:
                self._oracle.violate(PUSH_TRICKLES, f"{node.me} gives to {known[0]} for {lasted:.0f} s")
        if to is not None and epoch is not None and node.me not in self._pushes:
            bulk = max(core.push_bytes / sim.scenario.slowest_line, sim.scenario.patience)
            self._pushes[node.me] = (to, epoch, sim.now, bulk)

    def ended(self, node: SimNode) -> None:
        """A node or its trainer is gone, and with it what it gave."""
        self._pushes.pop(node.me, None)

    def asks(self, node: SimNode, to: PeerId) -> None:
        """A node asks what became of its push: it waits for it no longer."""
        known, core, sim = self._pushes.get(node.me), node.member.pairwise.core, self._oracle.sim
        if known is None or known[0] != to or self._is_blurred or core is None or to not in node.linked:
            return
        longest, lasted = max(core.longest, 0.1), sim.now - known[2]
        window = 0.9 * SHORTEST_TIMEOUT
        came = sum(n_bytes for at, n_bytes in self._came.get((to, node.me), ()) if at > sim.now - window)
        # What has come to it is told within a beat, if its word is not on the way.
        if lasted < 0.9 * longest and came > STEADY * core.push_bytes * SHORTEST_TIMEOUT / longest:
            text = f"{node.me} gave {to} up after {lasted:.1f} s, {came} bytes in the last two"
            self._oracle.violate(PUSH_MOVES, text)

    def cut(self, node: SimNode, to: PeerId, message: Cut) -> None:
        """A node tells a member that it waits for another, or for it, no longer."""
        exchange, began, _ = self._began.get(node.me, (None, 0.0, 0))
        sim = self._oracle.sim
        peer, now = message.member, sim.now
        is_of_it = exchange is not None and (message.group, message.index) == (
            exchange.group.id,
            exchange.index,
        )
        if self._is_blurred or exchange is None or not is_of_it or peer not in node.linked:
            return
        # Who is lost already, whose link broke, is told so alone.
        is_news = to != peer or (len(exchange.group.members) == 2 and exchange.is_left_out)
        if not is_news or exchange.result or now - began >= 0.9 * sim.scenario.patience:
            return
        origins = self._oracle.groups[exchange.group.id, exchange.index].origins
        if len({origins[each][0] for each in (node.me, peer) if each in origins}) > 1:
            return
        window = 0.9 * SHORTEST_TIMEOUT
        came = sum(n_bytes for at, n_bytes in self._came.get((node.me, peer), ()) if at > now - window)
        of_pair = 2 * exchange._expected_bytes / len(exchange.group.members)
        if came > STEADY * of_pair * SHORTEST_TIMEOUT / sim.scenario.patience:
            text = f"{node.me} cut {peer} after {now - began:.1f} s, {came} bytes in the last two"
            self._oracle.violate(MOVING, text)

    def leaves(self, sender: PeerId, to: PeerId, message: Any, n_bytes: int) -> None:
        """A message with bulk begins to leave over a slow line."""
        if isinstance(message, Push) and not self._oracle.is_liar(sender):
            core = self._oracle.sim.nodes[sender].member.pairwise.core
            given = core._given.get(to) if core is not None else None
            if given is None or (given.epoch, given.stage) != (message.epoch, Stage.PUSHING):
                self._oracle.violate(PUSH_WASTED, f"{sender} sends {n_bytes} bytes to {to}, which are void")
            return
        if not isinstance(message, Part | Reduced) or self._oracle.is_liar(sender):
            return
        exchange = self._began.get(sender, (None,))[0]
        if exchange is None or (message.group, message.index) != (exchange.group.id, exchange.index):
            return
        if exchange.is_left_out or to in exchange.lost_members:
            self._oracle.violate(WASTED, f"{sender} sends {n_bytes} bytes to {to}, which it gave up")
