"""The invariants of a swarm, each a function with a name, and the oracle that watches for them.

The oracle sees what no peer sees: every vector that was really contributed to a group, every mean that came
out, every state and when it was on disk. What it asserts holds for honest peers; who lies is left out,
and so are the groups that had a liar among them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from crypto.keys import PeerId
from gossip import commands
from gossip.averaging import Averaging
from gossip.chunks import bounds
from gossip.gathering import Gathering
from gossip.member import Phase
from gossip.statehash import state_hash

if TYPE_CHECKING:
    from sim import Sim
    from sim_node import SimNode

MAX_EARLY: Final = 200
"""Entries a container of a member may have, beyond what its peers account for."""


@dataclass(frozen=True)
class Violation:
    """An invariant that did not hold."""

    invariant: str
    detail: str
    at: float


@dataclass
class Grouping:
    """What the oracle knows of one ask of one group."""

    members: tuple[PeerId, ...]
    shares: tuple[int, ...]
    is_tainted: bool
    """A member lied: nothing is promised."""
    exchanges: dict[PeerId, Averaging | Gathering] = field(default_factory=dict)
    given: dict[PeerId, tuple[Any, float]] = field(default_factory=dict)
    """Vectors (or bodies) and weights that were really contributed."""
    results: dict[PeerId, bytes] = field(default_factory=dict)
    believed: dict[tuple[Any, ...], bytes] = field(default_factory=dict)
    """Means that have been checked, by place and mask."""


class Oracle:
    """Watches one run."""

    def __init__(self, sim: Sim) -> None:
        """Start knowing nothing."""
        self.sim = sim
        self.violations: list[Violation] = []
        self.groups: dict[tuple[bytes, int], Grouping] = {}
        self.liars: Counter[PeerId] = Counter()
        """Who lies or is going to, and how often."""
        self.lies_told = False
        self.highest = 0
        self.settled_at = float("inf")
        self._given: dict[PeerId, tuple[Any, float]] = {}
        self._last_contributors: dict[PeerId, tuple[PeerId, ...]] = {}
        self._since_calm: dict[PeerId, int] = {}

    def violate(self, invariant: str, detail: str) -> None:
        """Take note of a violation, once per invariant."""
        if all(known.invariant != invariant for known in self.violations):
            self.violations.append(Violation(invariant, detail, self.sim.now))

    def is_liar(self, peer: PeerId) -> bool:
        """Whether a peer lies at this time."""
        return self.liars[peer] > 0

    # --- what is seen -----------------------------------------------------------------------------

    def contributed(self, node: SimNode, event: commands.Contribute) -> None:
        """A trainer asked for a mean."""
        self._given[node.me] = (event.vector.copy(), event.weight)

    def joined(self, node: SimNode) -> None:
        """A member is in another exchange now, or in none."""
        exchange = node.member.exchange
        if exchange is None:
            return
        group = exchange.group
        key = (group.id, exchange.index)
        seen = self.groups.get(key)
        if seen is None:
            tainted = any(self.is_liar(peer) for peer in group.members)
            seen = self.groups[key] = Grouping(group.members, group.shares, tainted)
        if node.me in seen.exchanges:
            self.violate("a group is formed once", f"{node.me} joined {group.id.hex()} twice")
        seen.exchanges[node.me] = exchange
        if isinstance(exchange, Averaging):
            seen.given[node.me] = self._given[node.me]

    def noticed(self, node: SimNode, notice: Any) -> None:
        """A member told its node something."""
        self.sim.counts[type(notice).__name__] += 1
        match notice:
            case commands.Averaged():
                self._averaged(node, notice)
            case commands.Gathered():
                self._gathered(node, notice)
            case commands.Failed():
                self.sim.counts[f"Failed {notice.kind}"] += 1
            case commands.Synced():
                if notice.vector.size and state_hash(notice.vector.data) != notice.state:
                    self.violate("a fetched state is the state that was asked for", node.me)

    def new_state(self, node: SimNode) -> None:
        """A node has a new state: perhaps the swarm is one again."""
        member = node.member
        self.highest = max(self.highest, member.round if not self.is_liar(node.me) else 0)
        if self.sim.now >= self.sim.calm_from:
            self._since_calm[node.me] = self._since_calm.get(node.me, 0) + 1
            self.look()

    def look(self) -> None:
        """End the run if the swarm is one again."""
        if is_one_swarm(self.sim, self._last_contributors, self._since_calm):
            self.settled_at = self.sim.now
            self.sim.is_over = True

    def dropped(self, node: SimNode, peer: PeerId, reason: str) -> None:
        """A node closed its links to a peer for what it sent."""
        if not self.lies_told:
            self.violate("no honest peer is dropped", f"{node.me} dropped {peer}: {reason}")

    def finish(self) -> None:
        """Check what can only be told at the end."""
        check_survivors_agree(self)
        check_bounded(self)
        if self.settled_at == float("inf") and not self.violations:
            check_one_swarm(self)

    # --- means ------------------------------------------------------------------------------------

    def _averaged(self, node: SimNode, notice: commands.Averaged) -> None:
        exchange = node.member.exchange
        assert isinstance(exchange, Averaging)
        seen = self.groups[exchange.group.id, notice.index]
        mean = node.rounds._segment.exchange  # type: ignore[union-attr]
        self._last_contributors[node.me] = notice.exchanged.contributors
        seen.results[node.me] = mean.tobytes()
        if not seen.is_tainted:
            check_mean(self, seen, notice, mean)

    def _gathered(self, node: SimNode, notice: commands.Gathered) -> None:
        exchange = node.member.exchange
        assert exchange is not None
        seen = self.groups[exchange.group.id, notice.index]
        self._last_contributors[node.me] = tuple(peer for peer, _ in notice.bodies)
        seen.results[node.me] = repr(notice.bodies).encode()


# --- the invariants -----------------------------------------------------------------------------------


def check_mean(oracle: Oracle, seen: Grouping, notice: commands.Averaged, mean: Any) -> None:
    """Every mean is the exact weighted mean of what its contributors really gave, each counted once."""
    edges = bounds(mean.size, seen.shares)
    chunk_numel = oracle.sim.scenario.chunk_numel
    masks = notice.exchanged.masks
    flat = {mask for part in masks for mask in part}
    if len(flat) == 1:
        _check_span(oracle, seen, 0, mean.size, flat.pop(), mean)
        return
    for part, chunks in enumerate(masks):
        for chunk, mask in enumerate(chunks):
            lo = edges[part] + chunk * chunk_numel
            _check_span(oracle, seen, lo, min(lo + chunk_numel, edges[part + 1]), mask, mean)


def _check_span(oracle: Oracle, seen: Grouping, lo: int, hi: int, mask: int, mean: Any) -> None:
    key = (lo, hi, mask)
    data = mean[lo:hi].tobytes()
    if seen.believed.get(key) == data:
        return
    members = [peer for i, peer in enumerate(seen.members) if mask >> i & 1]
    invented = [peer for peer in members if peer not in seen.given]
    if invented or mask >> len(seen.members):
        oracle.violate("nothing is invented", f"{invented} gave nothing to the group, mask {mask:b}")
        return
    total = sum(seen.given[peer][1] for peer in members)
    exact = sum(seen.given[peer][0][lo:hi].astype(np.float64) * seen.given[peer][1] for peer in members)
    if not np.allclose(exact / total, mean[lo:hi], rtol=1e-4, atol=1e-4):
        oracle.violate("a mean is the exact weighted mean of its contributors", f"{lo}:{hi} of {members}")
    seen.believed[key] = data


def check_survivors_agree(oracle: Oracle) -> None:
    """Members of a group that finish an exchange, and that nobody in it lost, hold the same bytes."""
    for (group, index), seen in oracle.groups.items():
        if seen.is_tainted:
            continue
        if len(set(seen.results.values())) < 2:
            continue
        lost = {peer for exchange in seen.exchanges.values() for peer in _lost_by(exchange)}
        kept = {peer: result for peer, result in seen.results.items() if peer not in lost}
        if len(set(kept.values())) > 1:
            text = f"group {group.hex()[:8]} ask {index}: {sorted(kept)} differ, lost {sorted(lost)}"
            oracle.violate("survivors of an exchange hold the same bytes", text)


def _lost_by(exchange: Averaging | Gathering) -> list[PeerId]:
    if isinstance(exchange, Averaging):
        return exchange.lost_members
    return exchange.inner.lost_members if exchange.inner is not None else []


def is_one_swarm(
    sim: Sim, contributors: dict[PeerId, tuple[PeerId, ...]], since_calm: dict[PeerId, int]
) -> bool:
    """Whether all live honest trainers hold one state that all of them contributed to."""
    live = sim.trainers()
    if not live:
        return True
    if sim.scenario.rounds:
        states = {node.member.state for node in live if node.member.phase is Phase.FINISHED}
        return len(states) == 1 and all(node.member.phase is Phase.FINISHED for node in live)
    names = sorted(node.me for node in live)
    if len(live) > sim.scenario.group_size:
        rounds = [node.member.round for node in live]
        moved = all(since_calm.get(peer, 0) >= 3 for peer in names)
        return moved and max(rounds) - min(rounds) <= 1
    if len({(node.member.round, node.member.state) for node in live}) > 1:
        return False
    # Whoever fetched the state did not contribute; a round that everyone finished is the next.
    least = sim.scenario.calm_rounds
    return all(
        since_calm.get(peer, 0) >= least and set(names) <= set(contributors.get(peer, ())) for peer in names
    )


def check_one_swarm(oracle: Oracle) -> None:
    """All live, connected, honest peers hold one state within a bounded time after the last fault."""
    lines = [
        f"{node.me}: {node.member.phase.value} round {node.member.round} {node.member.state.hex()[:6]}"
        f" links {len(node.linked)}"
        for node in oracle.sim.trainers()
    ]
    oracle.violate("the swarm is one again within a bounded time", "; ".join(lines))


def check_bounded(oracle: Oracle) -> None:
    """What a member remembers is bounded by the number of its peers, whatever they send."""
    for node in oracle.sim.nodes.values():
        if not node.is_alive:
            continue
        for name, value in vars(node.member).items():
            if isinstance(value, dict | set | list) and len(value) > MAX_EARLY:
                oracle.violate("memory is bounded", f"{node.me}: {name} has {len(value)} entries")
