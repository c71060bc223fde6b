"""A crowd: thousands of shipped `Member` cores in virtual time, counted and measured, not checked.

    newcomer --dials some that the DHT would name--> links --state--> rounds of local work and means

Beside it stands the world of sim.py, which looks at every answer and plays every fault, for swarms of up to
a few dozen. Here the trainer is a handful of numbers, nothing is checked, and what is left is the protocol:
how much a peer says, to how many, and how fast their states become one. All sizes are those of
docs/wire.md: one message of each kind is encoded by the real codec, with real keys, and measured.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from typing import Any, Final

import numpy as np
from crowd_sizes import Sizes
from sim.node import pinned_run_id

from shoal.crypto.keys import PeerId
from shoal.gossip.events import (
    Dial,
    DialFailed,
    Effects,
    Learned,
    Notify,
    PeerFound,
    PeerLost,
    Publish,
    Received,
    Send,
    SetTimer,
    Timer,
    TimerFired,
    Vector,
)
from shoal.gossip.member import commands
from shoal.gossip.member.commands import Event
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.membership.dial_plan import peer_in
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.gossip.state.tree_hash import state_hash

NUMEL: Final = 32
"""Numbers in a model: enough for a mean over them to tell the error of a round."""
MESH: Final = 6
"""To how many peers GossipSub hands an announcement on (peer_discovery.py); one of them sent it."""
RENDEZVOUS: Final = 4
"""Addresses that a newcomer knows: live peers at random, as the DHT names them."""
STEP: Final = 0.05
"""Seconds until a trainer heeds a flag."""
MAX_LINKS: Final = HostConfig(swarm="").max_links


@dataclass(frozen=True)
class Plan:
    """What a crowd does."""

    peers: int
    rounds: int = 4
    group_size: int = 8
    pace: float = 4.0
    """Seconds of local work per round, give or take a tenth."""
    arrive: float = 3.0
    """Seconds within which all of them start."""
    churn: float = 0.2
    """Share of the peers that dies in an hour and is replaced by newcomers."""
    newcomers: int = 5
    """So many arrive in any case, once the first round is over."""
    latency: tuple[float, float] = (0.01, 0.08)
    """Seconds, one way, from and to."""
    seed: int = 0


@dataclass
class Tally:
    """What was counted in the rounds that count."""

    messages: Counter[str] = field(default_factory=Counter)
    n_bytes: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    """Finished by peers, all together."""
    peer_seconds: float = 0.0
    failed: Counter[str] = field(default_factory=Counter)
    most_bytes: int = 0
    """What the busiest peer said, per round."""


class CrowdPeer:
    """One peer: a shipped member, and a trainer of a few numbers."""

    __slots__ = (
        "began", "heard", "is_alive", "is_syncing", "joined_at", "links", "me", "member", "number", "said",
        "since", "state", "synced", "timers", "turn", "vector",
    )  # fmt: skip

    def __init__(self, number: int, me: PeerId, member: Member, state: Vector, now: float) -> None:
        """`state` float32 [NUMEL]: the model with which the run begins."""
        self.number, self.me, self.member = number, me, member
        self.state, self.vector = state, state.copy()
        self.links: set[PeerId] = set()
        self.timers: dict[Timer, float] = {}
        self.turn = 0
        """Grows with everything the trainer begins: what was planned before is void."""
        self.is_alive, self.is_syncing = True, False
        self.synced: commands.Synced | None = None
        self.began, self.joined_at, self.since = now, 0.0, now
        self.said = 0


class Crowd:
    """A swarm of many, in virtual time."""

    def __init__(self, plan: Plan, sizes: Sizes) -> None:
        """Make the world; nothing has happened yet."""
        self.plan, self.sizes = plan, sizes
        self.now = 0.0
        self.dice = Random(plan.seed)
        self.noise = np.random.default_rng(plan.seed)
        tensors = (TensorSpec("w", "float32", (NUMEL,)),)
        self.spec = RunSpec(method="sim", task="sim", tensors=tensors, group_size=plan.group_size)
        self.run_id = pinned_run_id(self.spec)
        self.peers: dict[PeerId, CrowdPeer] = {}
        self.alive: list[PeerId] = []
        self.tally = Tally()
        self.counts = False
        self.events = 0
        self.join_seconds: list[float] = []
        """From the start of a newcomer until it had a part in a mean."""
        self.states: dict[int, list[Vector]] = defaultdict(list)
        """By round: what those made who made it themselves."""
        self.reached: Counter[int] = Counter()
        self.groups: dict[int, Counter[int]] = defaultdict(Counter)
        """By round: how many members were in means of so many."""
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0
        self._calls: dict[type, Callable[[CrowdPeer, Any], None]] = {
            Send: self._send,
            SetTimer: self._set_timer,
            Dial: lambda peer, effect: self._dial(peer, effect.address),
            Publish: self._publish,
        }

    # --- running ----------------------------------------------------------------------------------

    def run(self) -> Iterator[tuple[int, float]]:
        """Run until most have made the last round; yields, now and then, that of the middle and the time."""
        plan = self.plan
        for number in range(plan.peers):
            self.at(plan.arrive * number / plan.peers, self._start, number)
        counted = False
        next_word = 1.0
        while self._heap:
            self.now, _, function, arguments = heapq.heappop(self._heap)
            self.events += 1
            function(*arguments)
            if self.now < next_word:
                continue
            next_word = self.now + 1.0
            yield self.round, self.now
            if not counted and self.round >= 1:
                counted = True
                self._begin_to_count()
            if self.round >= plan.rounds or self.now > 60 * plan.rounds + 100:
                break
        self._end_counting()

    def idle(self, settle: float = 20.0, seconds: float = 45.0) -> None:
        """Let nobody finish its work, and count what is said all the same once the swarm has settled."""
        for number in range(self.plan.peers):
            self.at(self.plan.arrive * number / self.plan.peers, self._start, number)
        while self._heap and self._heap[0][0] < settle + seconds:
            self.now, _, function, arguments = heapq.heappop(self._heap)
            self.counts = self.now >= settle
            function(*arguments)
        self.tally.peer_seconds = seconds * len(self.alive)

    @property
    def round(self) -> int:
        """The highest round that half of the peers have made."""
        return max((r for r, count in self.reached.items() if 2 * count >= self.plan.peers), default=0)

    def at(self, when: float, function: Callable[..., None], *arguments: Any) -> None:
        """Plan a call."""
        self._planned += 1
        heapq.heappush(self._heap, (when, self._planned, function, arguments))

    def _begin_to_count(self) -> None:
        self.counts = True
        plan = self.plan
        for peer in self.peers.values():
            peer.since, peer.said = self.now, 0
        gap = 3600.0 / (plan.churn * plan.peers) if plan.churn else float("inf")
        window = (plan.rounds - 1) * plan.pace
        count = int(window / gap)
        for place in range(max(count, plan.newcomers)):
            when = self.now + window * 0.6 * (place + 1) / (max(count, plan.newcomers) + 1)
            self.at(when, self._start, plan.peers + place)
            if place < count:
                self.at(when, self._die)

    def _end_counting(self) -> None:
        self.tally.peer_seconds += sum(self.now - self.peers[me].since for me in self.alive)
        rounds = max(1.0, self.tally.rounds / max(1, len(self.alive)))
        self.tally.most_bytes = int(max(self.peers[me].said for me in self.alive) / rounds)

    # --- life -------------------------------------------------------------------------------------

    def _start(self, number: int) -> None:
        me = PeerId(f"p{number}")
        # Sequences grow with time, as with the clock.
        member = Member(me, MemberConfig(), Random(self.dice.getrandbits(64)), int(1e6 * self.now))
        peer = CrowdPeer(number, me, member, np.zeros(NUMEL, np.float32), self.now)
        known = self.dice.sample(self.alive, min(RENDEZVOUS, len(self.alive)))
        self.peers[me] = peer
        self.alive.append(me)
        self._carry_out(peer, member.begin(self.now))
        self.tell(peer, commands.SetAddresses((address_of(me),)))
        for other in known:
            self.tell(peer, Learned(address_of(other), "dht"))
        self.tell(peer, commands.Attach(self.run_id, self.spec, mergeable=True))
        self._hold(peer, 0, b"")
        self._work(peer)

    def _die(self) -> None:
        """End a peer at once; its peers see their links break."""
        me = self.alive.pop(self.dice.randrange(len(self.alive)))
        peer = self.peers[me]
        peer.is_alive = False
        self.tally.peer_seconds += self.now - peer.since
        for other in sorted(peer.links):
            self.at(self.now + 0.05, self._lost, self.peers[other], me)

    def _lost(self, peer: CrowdPeer, other: PeerId) -> None:
        if other in peer.links:
            peer.links.discard(other)
            self.tell(peer, PeerLost(other))

    # --- the trainer ------------------------------------------------------------------------------

    def _later(self, peer: CrowdPeer, seconds: float, action: Callable[[CrowdPeer], None]) -> None:
        peer.turn += 1
        self.at(self.now + seconds, self._act, peer, peer.turn, action)

    def _act(self, peer: CrowdPeer, turn: int, action: Callable[[CrowdPeer], None]) -> None:
        if peer.is_alive and peer.turn == turn:
            action(peer)

    def _work(self, peer: CrowdPeer) -> None:
        self._later(peer, self.plan.pace * (0.9 + 0.2 * self.dice.random()), self._contribute)

    def _contribute(self, peer: CrowdPeer) -> None:
        peer.turn += 1
        peer.vector = peer.state.copy()
        if peer.member.round == 0:
            # Once: what is left of it after so many rounds is their mixing error.
            peer.vector += self.noise.standard_normal(NUMEL, dtype=np.float32)
        self.tell(peer, commands.Contribute(0, peer.vector, 1.0))

    def _notice(self, peer: CrowdPeer, notice: Any) -> None:
        match notice:
            case commands.Averaged():
                self._later(peer, STEP, self._apply)
                self.groups[notice.round + 1][len(notice.exchanged.contributors)] += 1
            case commands.Failed():
                self.tally.failed[notice.kind] += self.counts
                self._later(peer, STEP, self._idle)
            case commands.Behind():
                self.tally.failed["Behind"] += self.counts
                peer.is_syncing, peer.synced = True, None
                self._later(peer, STEP, self._idle)
            case commands.Synced():
                peer.synced = notice
                self._later(peer, STEP, self._idle)
            case commands.FinishEarly():
                self._later(peer, STEP, self._contribute)

    def _idle(self, peer: CrowdPeer) -> None:
        """The trainer stands still: what it asked for failed, or another state is coming."""
        synced = peer.synced
        if peer.is_syncing and synced is None:
            return
        peer.is_syncing, peer.synced = False, None
        if synced is None:
            self.tell(peer, commands.AbortRound())
        elif synced.vector.size:
            peer.state = synced.vector.copy()
            self._hold(peer, synced.round, synced.previous)
        if not peer.is_syncing:
            self._work(peer)

    def _apply(self, peer: CrowdPeer) -> None:
        previous, peer.state = peer.member.state, peer.vector.copy()
        round_ = peer.member.round + 1
        self.reached[round_] += 1
        self.states[round_].append(peer.state)
        self.tally.rounds += self.counts
        if not peer.joined_at:
            peer.joined_at = self.now
            if self.counts and peer.number >= self.plan.peers:
                self.join_seconds.append(self.now - peer.began)
        self._hold(peer, round_, previous)
        if not peer.is_syncing:
            self._work(peer)

    def _hold(self, peer: CrowdPeer, round_: int, previous: bytes) -> None:
        data = peer.state.data.cast("B")
        self.tell(peer, commands.NewState(round_, state_hash(data), previous, data))

    # --- events and effects -----------------------------------------------------------------------

    def tell(self, peer: CrowdPeer, event: Event) -> None:
        """Hand an event to a member and carry its effects out, as `shoal.gossip.net.driver` does."""
        if peer.is_alive:
            effects = peer.member.handle(event, self.now)
            if effects:
                self._carry_out(peer, effects)

    def _carry_out(self, peer: CrowdPeer, effects: Effects) -> None:
        calls = self._calls
        notices = []
        for effect in effects:
            call = calls.get(type(effect))
            if call is not None:
                call(peer, effect)
            elif isinstance(effect, Notify):
                notices.append(effect.notice)
        for notice in notices:
            self._notice(peer, notice)

    def _send(self, peer: CrowdPeer, effect: Send) -> None:
        if effect.peer not in peer.links or effect.is_void:
            return
        data = bytes(effect.data) if len(effect.data) else b""
        if self.counts:
            self._count(peer, type(effect.message).__name__, 1, self.sizes.of(effect.message, len(data)))
        frame = Received(peer.me, effect.message, data)
        self.at(self.now + self.latency(peer.me, effect.peer), self._arrived, effect.peer, frame)

    def _count(self, peer: CrowdPeer, kind: str, messages: int, n_bytes: int) -> None:
        self.tally.messages[kind] += messages
        self.tally.n_bytes[kind] += n_bytes
        peer.said += n_bytes

    def latency(self, one: PeerId, other: PeerId) -> float:
        """Return the seconds between two peers, the same in both directions and every time."""
        low, high = self.plan.latency
        number = (self.peers[one].number + 1) * (self.peers[other].number + 1)
        return low + (high - low) * (number * 2_654_435_761 % 1_000_003) / 1_000_003

    def _arrived(self, to: PeerId, frame: Received) -> None:
        peer = self.peers[to]
        if frame.peer in peer.links:
            self.tell(peer, frame)

    def _set_timer(self, peer: CrowdPeer, effect: SetTimer) -> None:
        if effect.at == float("inf"):
            peer.timers.pop(effect.name, None)
        elif peer.timers.get(effect.name) != effect.at:
            peer.timers[effect.name] = effect.at
            self.at(max(self.now, effect.at), self._fire, peer, effect.name, effect.at)

    def _fire(self, peer: CrowdPeer, name: Timer, at: float) -> None:
        if peer.timers.get(name) == at:
            del peer.timers[name]
            self.tell(peer, TimerFired(name))

    def _dial(self, peer: CrowdPeer, address: str) -> None:
        other = peer_in(address)
        assert other is not None
        self.at(self.now + 4 * self.latency(peer.me, other), self._dialled, peer, other, address)

    def _dialled(self, peer: CrowdPeer, to: PeerId, address: str) -> None:
        other = self.peers[to]
        if not other.is_alive:
            self.tell(peer, DialFailed(address, "refused"))
        elif max(len(peer.links), len(other.links)) >= MAX_LINKS:
            self.tell(peer, DialFailed(address, "too many links"))
        elif peer.is_alive:
            if peer.me not in other.links:
                other.links.add(peer.me)
                self.tell(other, PeerFound(peer.me))
            peer.links.add(to)
            self.tell(peer, PeerFound(to, address))

    def _publish(self, peer: CrowdPeer, effect: Publish) -> None:
        """Let all hear an announcement; each hands it to its mesh, but for the one it came from."""
        record = effect.message.records[0][0]
        if self.counts:
            copies = len(self.alive) * (MESH - 1)
            self.tally.messages["Announcement"] += copies
            self.tally.n_bytes["Announcement"] += copies * self.sizes.announcement
        self.at(self.now + 0.3, self._announced, peer.me, record)

    def _announced(self, author: PeerId, record: Any) -> None:
        for me in list(self.alive):
            if me != author:
                peer = self.peers[me]
                self.tell(peer, Received(author, peer.member.heard(record)))


def address_of(peer: PeerId) -> str:
    """Return the one address of a simulated peer: public, and of a network of its own."""
    a, b, c = blake2b(peer.encode(), digest_size=3).digest()
    return f"/ip4/20.{a}.{b}.{c}/tcp/4710/p2p/{peer}"


def mixing(crowd: Crowd) -> list[dict[str, float]]:
    """Return by round what is left of the variance that the first round's work made, and what theory says.

    Averaging in random groups leaves 1/m of the variance to whoever was in a group of m, however many peers
    there are: `theory` multiplies the means of 1/m over the rounds, `full` takes every group as full.
    """
    found = []
    theory = 1.0
    for round_, states in sorted(crowd.states.items()):
        sizes = crowd.groups[round_]
        theory *= sum(count / size for size, count in sizes.items()) / sizes.total()
        if 2 * len(states) < crowd.plan.peers:
            break
        variance = float(np.stack(states).astype(np.float64).var(axis=0).mean())
        full = float(crowd.plan.group_size**-round_)
        found.append({"round": round_, "variance": variance, "theory": theory, "full": full})
    return found
