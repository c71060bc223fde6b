"""The invariants of a swarm, each a function with a name, and the oracle that watches for them.

The oracle sees what no peer sees: every vector that was really contributed to a group, every mean that came
out, every state and when it was on disk. What it asserts holds for honest peers; who lies is left out,
and so are the groups that had a liar among them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sim.callers import CallWatch
from sim.parts import OWN, Parts
from sim.progress import Movements
from sim.secure import check_left, check_opened
from sim.split import SplitWatch

from shoal.crypto.keys import PeerId
from shoal.gossip.addresses import endpoint
from shoal.gossip.averaging.all_reduce import AllReduce
from shoal.gossip.averaging.bounds import (
    LOOSE,
    TRIMMING,
    Stated,
    agreed_base,
    agreed_last,
    clipped_terms,
    lower_median,
    stretch,
    terms,
)
from shoal.gossip.averaging.chunks import bounds
from shoal.gossip.averaging.exchange import GroupExchange
from shoal.gossip.averaging.gather import Gather
from shoal.gossip.averaging.secure.masked_sum import MaskedSum
from shoal.gossip.lifecycle import Phase
from shoal.gossip.matchmaking.standing import MAX_OF_A_PREFIX
from shoal.gossip.member import commands
from shoal.gossip.member.ask_queue import LEFT_OUT
from shoal.gossip.run_spec import Combine
from shoal.gossip.scope import Scope, scope_of
from shoal.gossip.state.tree_hash import state_hash

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import Sim

    from shoal.node.storage.checkpoint import Checkpoint

NEVER: Final = float("inf")
SPARE: Final = 600
"""Entries that a container of a member may have beyond what its peers account for."""
CLEAN: Final = ("crash", "outage", "leave", "trainer", "tired", "jump")
"""Faults after which everyone knows at once who is gone; crash with its power on."""
SEPARATING: Final = ("split", "oneway", "freeze", "slow")
"""Faults under which each side goes on by itself; so does who is frozen, or too slow to be waited for."""
MEMORY: Final = 20.0
"""Seconds after which nobody speaks of the dead: a lease of twelve, a beat and what was under way."""
MAX_STARVED: Final = 3
"""Rounds in a row that may go without a live and connected peer."""
MESSAGES_PER_SECOND: Final = 4.0
"""From one peer to another, when nothing happens but beats and waiting."""
FORBIDDEN: Final = "nobody dials what it may not"
MAX_DEAD_DIALS: Final = 64
"""Within ten seconds."""
COMPANY: Final = "nothing is made alone by who had company"
COUNTED: Final = "what an honest member contributed is in the mean or counted"
SCOPED: Final = "a scope is averaged among those that hold it"
ALIKE: Final = "who is in one mean asked for the same"
IN_TURN: Final = "a proposal out of turn forms no group"
CROWDED: Final = "few newcomers of one prefix are in a group"
MESSAGES_PER_EXCHANGE: Final = 40
"""From one peer to another; a vector here has at most thirteen chunks."""


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
    parts: tuple[int, ...]
    is_tainted: bool
    """A member lied: nothing is promised."""
    began: float
    chunk_numel: int
    unlinked: set[tuple[PeerId, PeerId]] = field(default_factory=set)
    """(member, other): there was no link when the member joined."""
    exchanges: dict[PeerId, GroupExchange] = field(default_factory=dict)
    lives: dict[PeerId, int] = field(default_factory=dict)
    given: dict[PeerId, tuple[Any, float, float]] = field(default_factory=dict)
    """Vectors (or bodies), weights and discounts that were really contributed."""
    results: dict[PeerId, bytes] = field(default_factory=dict)
    tags: dict[PeerId, str] = field(default_factory=dict)
    """What each asked for."""
    origins: dict[PeerId, tuple[bytes, bool, Any]] = field(default_factory=dict)
    """The state that each started from, whether it took the states to differ, and the state itself."""
    newcomers: frozenset[PeerId] = frozenset()
    combine: Combine = "mean"
    lasts: dict[PeerId, tuple[bytes, Any]] = field(default_factory=dict)
    """The last change that each knows: its name, and the change itself."""
    of_round: bytes = b""
    """The round's group, of which these may be some."""
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
        self.settled_at = NEVER
        self._given: dict[PeerId, tuple[Any, float, float]] = {}
        self._tags: dict[PeerId, str] = {}
        self._among: dict[PeerId, tuple[PeerId, ...]] = {}
        self._last_contributors: dict[PeerId, tuple[PeerId, ...]] = {}
        self.on_disk: dict[tuple[int, bytes], set[PeerId]] = {}
        """Who has ever had which state on disk that it had a part in."""
        self.made: dict[PeerId, set[tuple[int, bytes]]] = {}
        """Which states a node made since it was started."""
        self.acknowledged: set[tuple[int, bytes]] = set()
        """What most of those that lived then had on disk, after everyone had once met."""
        self._was_one = False
        self.parents: dict[tuple[int, bytes], tuple[int, bytes]] = {}
        self.starved: dict[PeerId, tuple[int, int]] = {}
        """Since the swarm is one: how many rounds in a row went without a peer, and the last of them."""
        self.stood: dict[PeerId, tuple[int, int, bytes]] = {}
        """Where each node stood: its life, round and state."""
        self.gone: dict[PeerId, list[float]] = {}
        """When a node or its trainer ended."""
        self.left_out: dict[PeerId, tuple[int, int]] = {}
        """By node: its life, and how often it has counted that it is not in a mean."""
        self.fetched: set[PeerId] = set()
        """Whose next state is another's."""
        self.honest: set[bytes] = set()
        """States that honest nodes made, or began with."""
        self.by_colleagues: dict[PeerId, bool] = {}
        """Whether most of the colleagues that had finished a round were honest when a node left its state."""
        self.dials: dict[tuple[PeerId, int], deque[float]] = {}
        """When each node, in each life, last dialled an address where nobody is."""
        self.had_company: dict[PeerId, int] = {}
        self._company: dict[PeerId, set[PeerId]] = {}
        """With whom each made its state, but for those whose trainers ended since."""
        """In which life a node last made a state with others."""
        self.mass = Mass()
        self.movements = Movements(self)
        self.calls = SplitWatch(sim) if sim.scenario.stages else CallWatch(sim)
        self.parts = Parts(sim)
        self._settled_round = 0
        faults = sim.scenario.faults
        # A second fault can break up the larger half of a swarm that is in two: then the other half, which
        # went on as it should, may be the many, and one of the two pasts has to go.
        # So do links that break one after the other; and whoever was away while the rest went down goes on
        # alone.
        kinds = [fault[1] for fault in faults]
        parted = sum(map(kinds.count, ("break", "outage")))
        self._keeps_majorities = len(faults) == 1 or (parted < 2 and not set(kinds) & set(SEPARATING))

    def violate(self, invariant: str, detail: str) -> None:
        """Take note of a violation, once per invariant."""
        if all(known.invariant != invariant for known in self.violations):
            self.violations.append(Violation(invariant, detail, self.sim.now))

    def is_liar(self, peer: PeerId) -> bool:
        """Whether a peer lies at this time."""
        return self.liars[peer] > 0

    # --- what is seen -----------------------------------------------------------------------------

    def contributed(self, node: SimNode, event: commands.Contribute | commands.ContributeBody) -> None:
        """A trainer asked for a mean, or for everyone's body."""
        self._tags[node.me] = event.tag
        self._among[node.me] = event.among if isinstance(event, commands.Contribute) else ()
        if isinstance(event, commands.Contribute):
            self._given[node.me] = (event.vector.copy(), event.weight, event.discount)
        else:
            self._given[node.me] = (event.body, 1.0, 1.0)

    def went(self, node: SimNode) -> None:
        """A node or its trainer ended."""
        self.movements.ended(node)
        self.calls.gone(node)
        self.gone.setdefault(node.me, []).append(self.sim.now)
        # Back with the state of the others it is one of them again when it has averaged with them.
        self._last_contributors.pop(node.me, None)
        self.forget_what_nobody_knows()

    def trainer_went(self, node: SimNode) -> None:
        """A trainer ended, and its node lives: it may have ended for good, unlike who is lost."""
        self.movements.gone(node)
        for peer, others in self._company.items():
            others.discard(node.me)
            if not others and self.sim.scenario.alone == "wait-for-lost":
                self.had_company.pop(peer, None)

    def line(self, key: tuple[int, bytes]) -> set[tuple[int, bytes]]:
        """Return a state and all those it was made from."""
        found = {key}
        while key in self.parents:
            key = self.parents[key]
            found.add(key)
        return found

    def forget_what_nobody_knows(self) -> None:
        """What is left of a swarm, all others being dead, can only go on from what it has."""
        lines = [self.line((other.member.round, other.member.state)) for other in self.sim.trainers()]
        if lines and self.acknowledged:
            self.acknowledged &= set().union(*lines)

    def accepted(self, node: SimNode, convener: PeerId) -> None:
        """A member promised itself to a group."""
        check_turn(self, node, convener)

    def joined(self, node: SimNode) -> None:
        """A member is in another exchange now, or in none."""
        self.movements.joined(node)
        exchange = node.member.exchange
        if exchange is None:
            return
        group = exchange.group
        key = (group.id, exchange.index)
        seen = self.groups.get(key)
        if seen is None:
            tainted = any(self.is_liar(peer) for peer in group.members)
            seen = self.groups[key] = Grouping(
                group.members,
                group.parts,
                tainted,
                self.sim.now,
                group.chunk_numel,
                newcomers=group.newcomers,
            )
            seen.combine = self.sim.scenario.combine
            check_prefixes(self, seen)
        seen.of_round = group.parent or group.id
        if (among := self._among.get(node.me)) and not set(group.members) <= set(among):
            self.violate(SCOPED, f"{node.me} asked among {among}, and is in a group of {group.members}")
        check_seats(self, node, seen)
        # Who was started again remembers no group: a liar can show it one of its own, which promises nothing.
        is_again = seen.lives.get(node.me) == node.life or not seen.is_tainted
        if node.me in seen.exchanges and is_again:
            self.violate("a group is formed once", f"{node.me} joined {group.id.hex()} twice")
        seen.exchanges[node.me], seen.lives[node.me] = exchange, node.life
        seen.given[node.me] = self._given[node.me]
        seen.tags[node.me] = self._tags.get(node.me, "")
        if isinstance(exchange, AllReduce | MaskedSum):
            origin = exchange.origin
            state = origin.state.copy() if origin.state is not None else None
            seen.origins[node.me] = (origin.name, origin.mixes, state)
            if origin.last is not None:
                seen.lasts[node.me] = (origin.last_name, origin.last[:])
        seen.unlinked |= {(node.me, peer) for peer in group.members if peer not in node.linked}

    def watch_mass(self, node: SimNode) -> None:
        """Keep account of what a peer brings in where all average pairwise."""
        core, mixing = node.member.pairwise.core, node.member.pairwise
        if core is None:
            return
        close = mixing.close

        def closed(pending: commands.Contribute) -> commands.Contribute:
            given = close(pending)
            self._given[node.me] = (given.vector.copy(), given.weight, given.discount)
            return given

        mixing.close = closed  # type: ignore[method-assign]
        mint, move = core.mint, core.move

        def minted(vector: Any, weight: float) -> None:
            self.mass.minted(vector, weight)
            mint(vector, weight)

        def moved(delta: Any, weight: float) -> None:
            self.mass.moved(delta, weight)
            move(delta, weight)

        core.mint, core.move = minted, moved  # type: ignore[method-assign]

    def noticed(self, node: SimNode, notice: Any) -> None:
        """A member told its node something."""
        self.sim.counts[type(notice).__name__] += 1
        self.calls.noticed(node, notice)
        if isinstance(notice, commands.Averaged | commands.Failed):
            self.movements.left(node)
        if isinstance(notice, commands.Averaged | commands.Gathered):
            check_counted(self, node, notice)
        match notice:
            case commands.Averaged():
                self._averaged(node, notice)
            case commands.Gathered():
                self._gathered(node, notice)
            case commands.Failed():
                check_left(self, node)
                self.sim.counts[f"Failed {notice.kind}"] += 1
            case commands.Behind():
                known = node.member.table.in_run(node.member.run)
                makers = {peer for peer, entry in known if entry.presence.has_finished_round}
                heard = node.member.view.colleagues.colleagues() & makers
                honest = sum(not self.is_liar(peer) for peer in heard)
                self.by_colleagues[node.me] = 2 * honest > len(heard) and not self.is_liar(node.me)
            case commands.Synced():
                if notice.vector.size and self.by_colleagues.get(node.me):
                    check_colleagues(self, node, notice.state)
                if notice.vector.size:  # Else nobody gave it one, and it goes on from its own.
                    self.fetched.add(node.me)
                if notice.vector.size and state_hash(notice.vector.data) != notice.state:
                    self.violate("a fetched state is the state that was asked for", node.me)

    def saved(self, node: SimNode, checkpoint: Checkpoint) -> None:
        """A state is on a node's disk."""
        key = (checkpoint.round, checkpoint.state_hash)
        line = self.line(key)
        for other, holders in self.on_disk.items():
            if other not in line:
                holders.discard(node.me)
        if key not in self.made.get(node.me, ()):
            return
        holders = self.on_disk.setdefault(key, set())
        holders.add(node.me)
        live = {other.me for other in self.sim.trainers()}
        if self._was_one and self._keeps_majorities and 2 * len(holders & live) > len(live) > 1:
            self.acknowledged.add(key)

    def new_state(self, node: SimNode) -> None:
        """A node has a new state: perhaps the swarm is one again."""
        member = node.member
        check_succession(self, node)
        if len(self._last_contributors.get(node.me, ())) > 1:
            self.had_company[node.me] = node.life
            self._company[node.me] = set(self._last_contributors[node.me]) - {node.me}
        alive = sum(other.is_alive for other in self.sim.nodes.values())
        if not self._was_one and alive == len(self.sim.nodes):
            states = {other.member.state for other in self.sim.trainers()}
            self._was_one = len(states) == 1 and member.round > 0
        self.highest = max(self.highest, member.round if not self.is_liar(node.me) else 0)
        if self.sim.now >= self.sim.calm_from:
            self.look()

    def look(self) -> None:
        """Take note that the swarm is one again, and end the run some rounds later."""
        roster = self.sim.roster
        if not is_one_swarm(self.sim, self._last_contributors) or (roster and not roster.are_one()):
            return
        if self.parts.are_waited_for():
            return
        round_ = max((node.member.round for node in self.sim.trainers()), default=0)
        if self.settled_at == NEVER:
            self.settled_at, self._settled_round = self.sim.now, round_
        if self.sim.scenario.rounds or round_ >= self._settled_round + self.sim.scenario.calm_rounds:
            self.sim.is_over = True

    def dropped(self, node: SimNode, peer: PeerId, reason: str) -> None:
        """A node closed its links to a peer for what it sent."""
        if not self.lies_told:
            self.violate("no honest peer is dropped", f"{node.me} dropped {peer}: {reason}")

    def dialled(self, node: SimNode, address: str) -> None:
        """A node dials an address."""
        check_dial(self, node, address)

    def look_back(self) -> None:
        """Check what is remembered of the dead, before one of them is back or the run is over."""
        check_forgotten(self)

    def finish(self) -> None:
        """Check what can only be told at the end."""
        self.look_back()
        for node in self.sim.nodes.values():
            self.movements.left(node)
        check_survivors_agree(self)
        check_losses(self)
        check_bounded(self)
        self.calls.finish()
        check_nothing_lost(self)
        self.parts.finish()
        if self.sim.roster is not None:
            self.sim.roster.check()
        if not self.sim.is_over and not self.violations:
            check_one_swarm(self)

    # --- means ------------------------------------------------------------------------------------

    def _averaged(self, node: SimNode, notice: commands.Averaged) -> None:
        exchange = node.member.exchange
        if node.member.pairwise.is_on:
            check_mass(self)
            if not node.member.view.is_last:
                return
        assert isinstance(exchange, AllReduce | MaskedSum)
        seen = self.groups[exchange.group.id, notice.index]
        mean = node.rounds._segment.exchange[:-OWN]  # type: ignore[union-attr]
        if not exchange.group.parent:
            # Chunks may have different contributors, and none that is in all.
            fewest = min(mask.bit_count() for part in notice.exchanged.masks for mask in part)
            check_company(self, node, fewest)
            self._last_contributors[node.me] = notice.exchanged.contributors
            check_starved(self, node, notice.exchanged.contributors)
        seen.results[node.me] = mean.tobytes()
        masks = [mask for part in notice.exchanged.masks for mask in part]
        check_alike(self, seen, [p for i, p in enumerate(seen.members) if any(m >> i & 1 for m in masks)])
        if isinstance(exchange, MaskedSum):
            check_opened(self, seen, node, mean)
            return
        check_bounded_mean(self, seen, node, exchange, mean)
        if not seen.is_tainted:
            check_mean(self, seen, notice, mean)

    def _gathered(self, node: SimNode, notice: commands.Gathered) -> None:
        exchange = node.member.exchange
        assert exchange is not None
        seen = self.groups[exchange.group.id, notice.index]
        contributors = tuple(peer for peer, _ in notice.bodies)
        check_company(self, node, len(contributors))
        self._last_contributors[node.me] = contributors
        check_starved(self, node, contributors)
        seen.results[node.me] = repr(notice.bodies).encode()
        check_alike(self, seen, contributors)
        if not seen.is_tainted:
            check_bodies(self, seen, notice)


@dataclass
class Mass:
    """What has been minted and moved where all average pairwise: what there must be, if nobody died."""

    sums: Any = 0.0
    weight: float = 0.0

    def minted(self, vector: Any, weight: float) -> None:
        """A peer takes part from now on."""
        self.sums = self.sums + weight * vector.astype(np.float64)
        self.weight += weight

    def moved(self, delta: Any, weight: float) -> None:
        """A peer made progress."""
        self.sums = self.sums + weight * delta.astype(np.float64)


# --- the invariants -----------------------------------------------------------------------------------


def check_bounded_mean(oracle: Oracle, seen: Grouping, node: SimNode, exchange: AllReduce, mean: Any) -> None:
    """No weight is above twice the median, and no part moves further than honest members would move it.

    With less than half of the members lying the median norm is at most the largest of an honest member. A
    receiver takes at most twice the median, of two sets of contributors.
    """
    if oracle.is_liar(node.me):
        return
    for (names, _), made in exchange._announced._terms.items():
        # Whoever counts in a trimmed mean or a median counts once, whatever it takes off.
        is_weighted = seen.combine not in TRIMMING
        discounts = [exchange._announced._said[name].discount if is_weighted else 1.0 for name in names]
        for discounted in (made.numbers.weights, made.buffers.weights):
            weights = [weight / discount for weight, discount in zip(discounted, discounts, strict=True)]
            # A newcomer has a quarter of the median of the others, who may be two of a larger group.
            positive = [weight for weight in weights if weight > 0]
            if not seen.newcomers and max(weights) > 2.001 * lower_median(positive):
                oracle.violate("no weight is above twice the median", f"{weights}")
    honest = [peer for peer in seen.members if not oracle.is_liar(peer) and peer in seen.given]
    _, mixes, state = seen.origins[node.me]
    if mixes or 2 * len(honest) <= len(seen.members) or any(seen.origins[p][1] for p in honest):
        return
    for lo, hi in pairwise(bounds(mean.size, seen.parts)):
        norms = [norm(seen.given[peer][0][lo:hi] - seen.origins[peer][2][lo:hi]) for peer in honest]
        moved = norm(mean[lo:hi].astype(np.float64) - state[lo:hi])
        # Who clips goes a part of the way that it went last.
        last = max((norm(change[lo:hi]) for _, change in seen.lasts.values()), default=0.0)
        most = 2 * 1.5 * stretch(seen.combine, len(seen.members)) * (max(norms) + last)
        if not moved <= most + 1e-4:
            text = f"{node.me} moved {lo}:{hi} by {moved:.3g}, honest members by at most {max(norms):.3g}"
            oracle.violate("a mean outside its bound is never applied", text)


def norm(numbers: Any) -> float:
    """Return the Euclidean norm of a few numbers."""
    return sqrt(float(np.vdot(numbers, numbers)))


def check_mean(oracle: Oracle, seen: Grouping, notice: commands.Averaged, mean: Any) -> None:
    """Every mean is the bounded weighted mean of what its contributors really gave, each counted once."""
    edges = bounds(mean.size, seen.parts)
    chunk_numel = seen.chunk_numel
    masks = notice.exchanged.masks
    flat = {mask for part in masks for mask in part}
    # A quorum is of all: those who ask among themselves are as many as they are.
    is_of_all = not any(exchange.group.parent for exchange in seen.exchanges.values())
    if is_of_all and min(mask.bit_count() for mask in flat) < oracle.sim.scenario.quorum:
        oracle.violate("a mean has its quorum", f"masks {sorted(flat)}")
    for part, chunks in enumerate(masks):
        if len(set(chunks)) == 1:
            _check_span(oracle, seen, edges[part], edges[part + 1], part, chunks[0], mean)
            continue
        for chunk, mask in enumerate(chunks):
            lo = edges[part] + chunk * chunk_numel
            _check_span(oracle, seen, lo, min(lo + chunk_numel, edges[part + 1]), part, mask, mean)


def _check_span(oracle: Oracle, seen: Grouping, lo: int, hi: int, part: int, mask: int, mean: Any) -> None:
    key = (lo, hi, mask)
    data = mean[lo:hi].tobytes()
    if seen.believed.get(key) == data:
        return
    members = [peer for i, peer in enumerate(seen.members) if mask >> i & 1]
    invented = [peer for peer in members if peer not in seen.given]
    if invented or mask >> len(seen.members):
        oracle.violate("nothing is invented", f"{invented} gave nothing to the group, mask {mask:b}")
        return
    here = mean[lo:hi]
    # As `np.allclose`, which takes ten times as long for so few; a NaN is near nothing.
    if not (np.abs(_exact(seen, lo, hi, part, members) - here) <= 1e-3 + 1e-3 * np.abs(here)).all():
        oracle.violate("a mean is the exact weighted mean of its contributors", f"{lo}:{hi} of {members}")
    seen.believed[key] = data


def check_turn(oracle: Oracle, node: SimNode, convener: PeerId) -> None:
    """A group is offered by a peer that is ready, and whose turn it is for who accepts it."""
    search = node.member.group_search.search
    assert search is not None
    standing = search._standing
    if convener not in search.ready:
        oracle.violate(IN_TURN, f"{node.me} accepted {convener}, which is not ready")
        return
    if search._is_several or (search._is_stalled and convener in standing.supporters):
        return
    if not standing.colleagues and convener in standing.nearly:
        # Others may see it before all that are none yet: of its two places the better one counts.
        return

    def key(peer: PeerId) -> tuple[int, bytes]:
        text = search.run + search.round.to_bytes(8, "big") + peer.encode()
        return search.ready[peer].unreached, blake2b(text, digest_size=8).digest()

    passed = search.mute | search.silent | search.declined | standing.muted | {node.me, convener}
    earlier = (standing.colleagues or standing.supporters) & search.ready.keys() - passed
    is_stranger = convener not in standing.supporters | standing.nearly
    if standing.colleagues and is_stranger and earlier:
        oracle.violate(IN_TURN, f"{node.me} accepted the stranger {convener} before {sorted(earlier)}")
    has_same_place = is_stranger == (not standing.colleagues and is_stranger)
    better = [peer for peer in earlier if has_same_place and key(peer) < key(convener)]
    words = [word for peer, word in search.ready.items() if not oracle.is_liar(peer)]
    if better and not any(word.has_colleagues for word in words):
        oracle.violate(IN_TURN, f"{node.me} accepted {convener} before {better}")


def check_prefixes(oracle: Oracle, seen: Grouping) -> None:
    """An honest convener seats few newcomers with addresses of one prefix."""
    house = sorted(seen.newcomers & {oracle.sim.name(number) for number in oracle.sim.scenario.house})
    if not seen.is_tainted and len(house) > MAX_OF_A_PREFIX:
        oracle.violate(CROWDED, f"{house} are newcomers in one group")


def check_seats(oracle: Oracle, node: SimNode, seen: Grouping) -> None:
    """A colleague joins no group in which it sees too many newcomers of one prefix, whoever offers it."""
    settled = {oracle.sim.name(number) for number in oracle.sim.scenario.acquainted}
    house = {oracle.sim.name(number) for number in oracle.sim.scenario.house}
    if node.me in settled and len(seen.newcomers & house & node.linked) > MAX_OF_A_PREFIX:
        oracle.violate(CROWDED, f"{node.me} joined a group of {sorted(seen.newcomers)}")


def _exact(seen: Grouping, lo: int, hi: int, part: int, members: list[PeerId]) -> Any:
    """Return what is the mean of what these members gave, by what they truly have to announce."""
    first, last_ = bounds(seen.given[members[0]][0].size, seen.parts)[part : part + 2]
    bases = [b"" if seen.origins[peer][1] else seen.origins[peer][0] for peer in members]
    base = seen.origins[members[0]][2] if agreed_base(bases) else np.zeros(last_, np.float64)
    given = [seen.given[peer][0].astype(np.float64) for peer in members]
    stated = [
        Stated(
            seen.given[peer][1],
            float(np.linalg.norm(vector[first:last_] - base[first:last_])),
            peer in seen.newcomers,
            seen.given[peer][2],
        )
        for peer, vector in zip(members, given, strict=True)
    ]
    if agreed_base(bases) and (last := _agreed_change(seen, members)) is not None:
        name, change = last
        knowing = [name == seen.lasts.get(peer, (b"",))[0] for peer in members]
        stated = [
            replace(each, apart=float(np.linalg.norm((vector - base - change)[first:last_])))
            if knows
            else each
            for each, vector, knows in zip(stated, given, knowing, strict=True)
        ]
        made = clipped_terms(stated)
    else:
        change = np.zeros(last_)
        made = terms(stated, 1.0 if agreed_base(bases) else LOOSE, seen.combine)
    moves = [vector[lo:hi] - base[lo:hi] for vector in given]
    if made.trim:
        counting = [i for i, weight in enumerate(made.weights) if weight]
        moves = [made.shares[i] / made.weights[i] * moves[i] for i in counting]
        return base[lo:hi] + np.sort(moves, axis=0)[made.trim : len(moves) - made.trim].mean(axis=0)
    moved = sum(share * move for share, move in zip(made.shares, moves, strict=True))
    return base[lo:hi] + moved + made.last * change[lo:hi]


def _agreed_change(seen: Grouping, members: list[PeerId]) -> tuple[bytes, Any] | None:
    """Return the last change around which these members clip."""
    if seen.combine != "clip":
        return None
    old = [peer for peer in members if peer not in seen.newcomers] or members
    name = agreed_last([seen.lasts.get(peer, (b"", None))[0] for peer in old])
    return next((known for known in seen.lasts.values() if name and known[0] == name), None)


def check_counted(oracle: Oracle, node: SimNode, notice: commands.Averaged | commands.Gathered) -> None:
    """What an honest member contributed is in what it was answered, or it has counted that it is not."""
    seen, now = oracle.left_out.get(node.me, (0, 0)), node.member.admission.counts[LEFT_OUT]
    oracle.left_out[node.me] = (node.life, now)
    exchange = node.member.exchange
    if exchange is None or oracle.is_liar(node.me):
        return
    if isinstance(notice, commands.Averaged):
        bit = 1 << exchange.group.members.index(node.me)
        is_in = all(mask & bit for part in notice.exchanged.masks for mask in part)
    else:
        is_in = node.me in {peer for peer, _ in notice.bodies}
    if not is_in and now <= (seen[1] if seen[0] == node.life else 0):
        oracle.violate(COUNTED, f"{node.me} in round {notice.round}")


def check_mass(oracle: Oracle) -> None:
    """What has been given is in one place: mass is never counted twice, nor lost while all live."""
    sim, mass = oracle.sim, oracle.mass
    cores = {node.me: node.member.pairwise.core for node in sim.nodes.values() if node.life}
    weights: Any = np.zeros_like(mass.weight)
    sums: Any = np.zeros_like(mass.sums)
    for peer, core in cores.items():
        if core is None or not sim.nodes[peer].is_alive:
            continue
        weights, sums = weights + core.weights, sums + core.sums
        for other, given in core._given.items():
            receiver = cores.get(other) if sim.nodes[other].is_alive else None
            applied = receiver._applied.get(peer, (0, -1))[1] if receiver is not None else -1
            if given.sent and not min(given.sent) - 1 <= applied <= max(given.sent):
                continue  # It was given to one that has died since, and is nowhere.
            for chunk, half, numbers in (each for id_, each in given.sent.items() if id_ > applied):
                weights[chunk] += half
                sums[core._slice(chunk)] += numbers
    if oracle.lies_told:
        return
    if np.any(weights > mass.weight * (1 + 1e-9)):
        oracle.violate("no mass is counted twice", f"{weights} of {mass.weight}")
    if oracle.gone or any(fault[1] == "leave" for fault in sim.scenario.faults):
        return
    # Of a newcomer no more counts than is plausible.
    uncounted = sum(core.uncounted for core in cores.values() if core is not None)
    whole = np.broadcast_to(mass.weight, np.shape(weights)).sum()
    if not np.isclose(np.sum(weights) + uncounted, whole, rtol=1e-9):
        oracle.violate("no mass is lost while all live", f"{weights} of {mass.weight}")
    if uncounted or any(core.has_shortened for core in cores.values() if core is not None):
        return
    if not np.allclose(sums, mass.sums, rtol=1e-3, atol=1e-3):
        oracle.violate("the mean moves by everyone's share of progress", f"{sums} of {mass.sums}")


def check_alike(oracle: Oracle, seen: Grouping, contributors: Sequence[PeerId]) -> None:
    """Who is in one mean, or in one set of bodies, asked for the same."""
    tags = {seen.tags.get(peer, "") for peer in contributors} if not seen.is_tainted else set[str]()
    if len(tags) > 1:
        oracle.violate(ALIKE, f"{sorted(tags)}")


def check_bodies(oracle: Oracle, seen: Grouping, notice: commands.Gathered) -> None:
    """Every gathered body is what its peer gave."""
    for peer, body in notice.bodies:
        if seen.given.get(peer, (None,))[0] != body:
            oracle.violate("nothing is invented", f"{peer} never gave {body!r}")
    if len(notice.bodies) < oracle.sim.scenario.quorum:
        oracle.violate("a mean has its quorum", f"{len(notice.bodies)} bodies")


def check_company(oracle: Oracle, node: SimNode, least: int) -> None:
    """Who had company makes nothing alone, unless it was told to, or the others are done."""
    sim, disk = oracle.sim, node.disk.checkpoint
    had = oracle.had_company.get(node.me) == node.life
    had_before = disk is not None and disk.had_company and sim.scenario.alone == "wait"
    is_done = any(node.life and node.member.phase is Phase.FINISHED for node in sim.nodes.values())
    goes_on = sim.scenario.alone == "go-on" or "leave" in {fault[1] for fault in sim.scenario.faults}
    several = len(sim.nodes) > sim.scenario.group_size or sim.scenario.pushes > 0
    is_alone = least == 1 and (had or had_before)
    if is_alone and not (goes_on or is_done or several or oracle.lies_told):
        oracle.violate(COMPANY, f"{node.me} in round {node.member.round}")


def check_losses(oracle: Oracle) -> None:
    """Whoever is alive and linked is not lost from an exchange, as long as nothing but crashes happens."""
    scenario = oracle.sim.scenario
    if scenario.weather.loss or any(fault[1] not in CLEAN or fault[-2] is True for fault in scenario.faults):
        return
    known: dict[tuple[bytes, PeerId], set[PeerId]] = {}
    for (group, _), seen in sorted(oracle.groups.items(), key=lambda entry: entry[0][1]):
        for peer, exchange in seen.exchanges.items():
            # Who was lost in one ask of a round is lost in those after it, linked by now or not.
            before = known.setdefault((seen.of_round, peer), set())
            new = set(exchange.lost_members) - before
            before |= new
            for lost in new:
                unlinked = {(peer, lost), (lost, peer)} & seen.unlinked
                left = lost not in seen.exchanges  # It found that the swarm is elsewhere.
                ends = [*oracle.gone.get(peer, ()), *oracle.gone.get(lost, ())]
                near = any(seen.began - 5 < at < seen.began + 60 for at in ends)
                if not (near or unlinked or left):
                    text = f"{peer} lost {lost} in {group.hex()[:8]} at {seen.began:.1f}"
                    oracle.violate("nobody is lost without a cause", text)


def check_forgotten(oracle: Oracle) -> None:
    """The dead are forgotten: no record outlives its author by more than a lease.

    A word does not tell for how long it was under way: one that waited for a stopped process to go on, or for
    a way to open, is as good as new to whom it reaches, and what it says is handed on. So is one that a liar
    has kept to itself, and shows when its author is dead.
    """
    sim = oracle.sim
    for node in sim.nodes.values():
        for other in sim.nodes.values():
            ended = oracle.gone.get(other.me, (sim.now,))[-1]
            since = max(ended, sim.stale_at)
            if not node.is_alive or node.is_frozen or other.is_alive or sim.now - since < MEMORY:
                continue
            if node.member.table.get(other.me) is not None:
                oracle.violate(
                    "the dead are forgotten", f"{node.me} still knows {other.me}, dead since {ended:.1f}"
                )


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


def _lost_by(exchange: GroupExchange) -> list[PeerId]:
    if not isinstance(exchange, Gather):
        return exchange.lost_members
    return exchange.inner.lost_members if exchange.inner is not None else []


def is_one_swarm(sim: Sim, contributors: dict[PeerId, tuple[PeerId, ...]]) -> bool:
    """Whether all live honest trainers hold one state that all of them contributed to."""
    live = sim.trainers()
    if sim.scenario.rounds:
        states = {node.member.state for node in live}
        return len(states) <= 1 and all(node.member.phase is Phase.FINISHED for node in live)
    if len(live) > sim.scenario.group_size or sim.scenario.pushes:
        rounds = [node.member.round for node in live]
        return max(rounds) - min(rounds) <= 1
    if len({(node.member.round, node.member.state) for node in live}) > 1:
        return False
    # Whoever fetched the state did not contribute; a round that everyone finished is the next.
    names = {node.me for node in live} - newcomers(sim)
    return all(names <= set(contributors.get(peer, ())) for peer in names)


def newcomers(sim: Sim) -> set[PeerId]:
    """Return the live honest trainers that others have too few seats for, in an open run."""
    live = sim.trainers()
    names = {node.me for node in live}
    found: set[PeerId] = set()
    for node in live:
        known = node.member.view.colleagues
        if colleagues := known.colleagues():
            found |= names - colleagues - known.nearly() - {node.me}
    return found


def check_starved(oracle: Oracle, node: SimNode, contributors: tuple[PeerId, ...]) -> None:
    """No live, connected, honest peer goes without a round for long, once the faults are over."""
    sim = oracle.sim
    if oracle.settled_at == NEVER or len(sim.trainers()) > sim.scenario.group_size:
        return
    round_ = node.member.round
    for other in sim.trainers():
        count, last = oracle.starved.get(other.me, (0, 0))
        if other.me in contributors or other.me in newcomers(sim):
            oracle.starved[other.me] = (0, round_)
        elif round_ > last:
            oracle.starved[other.me] = (count + 1, round_)
            if count + 1 > MAX_STARVED:
                oracle.violate(
                    "nobody is starved", f"{other.me} is in none of {count + 1} rounds up to {round_}"
                )


def check_succession(oracle: Oracle, node: SimNode) -> None:
    """A node's state follows its last one by one round, or was fetched, or is the one on its disk."""
    member = node.member
    life, round_, state = oracle.stood.get(node.me, (0, 0, b""))
    oracle.stood[node.me] = (node.life, member.round, member.state)
    fetched = node.me in oracle.fetched
    oracle.fetched.discard(node.me)
    if not fetched and not oracle.is_liar(node.me):
        oracle.honest.add(member.state)
    if life != node.life:
        # What it brings back from its disk it has not made now: the others may have gone on without it.
        oracle.made.pop(node.me, None)
        disk = node.disk.checkpoint
        if disk is not None and (member.round, member.state) != (disk.round, disk.state_hash):
            oracle.violate("a restarted node goes on from its disk", f"{node.me} at {member.round}")
    if not fetched and member.round == round_ + 1:
        oracle.parents[member.round, member.state] = (round_, state)
        oracle.made.setdefault(node.me, set()).add((member.round, member.state))
    if life == node.life and not fetched and (member.round, member.state) != (round_, state):
        follows = member.round == round_ + 1 and member.previous == state
        restarted = node.disk.checkpoint is not None and member.state == node.disk.checkpoint.state_hash
        if not follows and not restarted:
            oracle.violate("states follow each other", f"{node.me} from {round_} to {member.round}")


def check_colleagues(oracle: Oracle, node: SimNode, state: bytes) -> None:
    """Where most colleagues are honest, a node takes over what an honest node made, or a colleague says.

    A colleague that lies may have the word where the others have come back just now, or each hold an outcome
    of their own; how far it then leads is bounded by what rounds account for.
    """
    colleagues = node.member.view.colleagues.colleagues()
    said = [entry.presence for peer, entry in node.member.table if peer in colleagues]
    if state not in oracle.honest and not any(state in (each.state, each.previous) for each in said):
        oracle.violate(
            "no number of identities moves an honest node from its colleagues",
            f"{node.me} takes {state.hex()[:6]} over in round {node.member.round}",
        )


def check_dial(oracle: Oracle, node: SimNode, address: str) -> None:
    """Nobody dials on others' word what is not public, nor many addresses where nobody is."""
    spot = endpoint(address)
    if spot is None or scope_of(spot.host) is not Scope.PUBLIC:
        oracle.violate(FORBIDDEN, f"{node.me} dials {address}")
    if not address.startswith("/ip4/21."):
        return
    times = oracle.dials.setdefault((node.me, node.life), deque(maxlen=MAX_DEAD_DIALS + 1))
    times.append(node.clock.local(oracle.sim.now))  # which may jump
    if len(times) > MAX_DEAD_DIALS and times[-1] - times[0] < 10.0:
        oracle.violate(FORBIDDEN, f"{node.me} dials {len(times)} dead addresses within 10 s")


def check_nothing_lost(oracle: Oracle) -> None:
    """A state that most of the live nodes had on disk is never undone: the swarm goes on from it."""
    live = oracle.sim.trainers()
    mixes = len(oracle.sim.nodes) > oracle.sim.scenario.group_size or oracle.sim.scenario.pushes > 0
    if oracle.lies_told or not live or oracle.settled_at == NEVER or mixes:
        return
    lost = sorted(oracle.acknowledged - oracle.line((live[0].member.round, live[0].member.state)))
    if lost:
        text = f"round {lost[-1][0]} ({lost[-1][1].hex()[:6]}) is no part of the swarm's past"
        oracle.violate("nothing acknowledged is lost", text)


def check_one_swarm(oracle: Oracle) -> None:
    """All live, connected, honest peers hold one state within a bounded time after the last fault."""
    lines = [
        f"{node.me}: {node.member.phase.value} round {node.member.round} {node.member.state.hex()[:6]}"
        f" links {len(node.linked)}"
        for node in oracle.sim.trainers()
    ]
    oracle.violate("the swarm is one again within a bounded time", "; ".join(lines))


def check_bounded(oracle: Oracle) -> None:
    """Memory and messages are bounded by the number of peers, whatever they send."""
    sim = oracle.sim
    bound = 16 * len(sim.nodes) + SPARE
    for node in sim.nodes.values():
        if not node.is_alive:
            continue
        member = node.member
        for part in (
            member,
            member.view,
            member.view.doubts,
            member.view.doubts._distrusted,
            member.view.colleagues,
            member.admission,
            member.admission._bans,
            member.asks,
            member.state_sync,
            member.table,
            member.dial_plan,
            member.dial_plan._tellers,
            member.nearby,
            member.serving,
            member.exchange,
            member.pairwise,
            member.pairwise.core,
            member.group_search,
            member.group_search.search,
            member.run_mismatch,
        ):
            for name, value in vars(part).items() if part is not None else ():
                if isinstance(value, dict | set | list) and len(value) > bound:
                    oracle.violate("memory is bounded", f"{node.me}: {name} has {len(value)} entries")
    pairs = len(sim.nodes) * (len(sim.nodes) - 1)
    # Where all average pairwise, a round is two or three pushes.
    exchanges = len(oracle.groups) + sim.scenario.pushes * sim.counts["Averaged"]
    limit = pairs * (MESSAGES_PER_SECOND * sim.now + MESSAGES_PER_EXCHANGE * exchanges)
    if not oracle.lies_told and sim.network.messages > limit:
        oracle.violate(
            "messages are bounded", f"{sim.network.messages} in {sim.now:.0f} s, {exchanges} exchanges"
        )
