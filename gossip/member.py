"""Member: everything one node does in its swarm, as one core.

    helping                                        no trainer: serves records and states
    working  --Contribute-->  seeking  --group-->  exchanging  --mean-->  applying  --NewState--> working
       '---behind---> syncing --Synced, NewState--> working                  |
       '<------------------------GiveUp (the ask failed)---------------------'
    finished                                       the run is over: serves its last state

It composes the cores of presence, discovery, matchmaking, averaging and transfer, hands each message
to the one it belongs to, and decides when this node is behind: when the swarm's state (presence.py) is
not ours and we are not in the middle of an exchange that will get us there.

Slow peers do fewer steps, not longer rounds: once others are ready and most of the learned wait is over,
the node is told to hurry.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Final

import msgspec
import numpy as np

from crypto.keys import PeerId
from gossip.averaging import CHUNK_NUMEL, SHORTEST_STALL, Averaging, AveragingConfig, is_sane
from gossip.averaging import TIMER as AVERAGING
from gossip.codecs import CODECS, Feedback
from gossip.commands import (
    AddAddress,
    Arrived,
    Attach,
    Averaged,
    Behind,
    Contribute,
    ContributeBody,
    Detach,
    Failed,
    Finish,
    Gathered,
    GiveUp,
    Goodbye,
    Hurry,
    Known,
    NewState,
    Refused,
    RemoveAddress,
    SetAddresses,
    Synced,
)
from gossip.core import (
    Data,
    DialFailed,
    Effects,
    Event,
    Learned,
    Notify,
    PeerFound,
    PeerLost,
    Publish,
    Received,
    Send,
    SetTimer,
    TimerFired,
    Vector,
)
from gossip.deadlines import Deadline
from gossip.discovery import TIMER as DISCOVERY
from gossip.discovery import Dice, Discovery
from gossip.gathering import INNER_INDEX, Gathering, Step
from gossip.gathering import TIMER as GATHERING
from gossip.matchmaking import TIMER as MATCHMAKING
from gossip.matchmaking import Matchmaking, MatchmakingConfig
from gossip.messages import (
    Abandon,
    Accept,
    Chunk,
    Commit,
    Cut,
    Describe,
    Exchange,
    Fetch,
    Leave,
    NotHeld,
    Offer,
    Presence,
    Propose,
    Ready,
    Record,
    Records,
    Wait,
    Want,
)
from gossip.presence import Entry, PresenceTable, SwarmState, swarm_state
from gossip.runspec import RunSpec, difference
from gossip.serving import TIMER as SERVING
from gossip.serving import Serving, ServingConfig
from gossip.transfer import TIMER as TRANSFER
from gossip.transfer import Fetching

BEAT: Final = "beat"
HURRY: Final = "hurry"
NO_BASE: Final = bytes(32)
INFINITY: Final = float("inf")
MAX_PUSHED: Final = 32
"""Neighbours that are told of a change at once; the rest learn it from them."""
EMPTY: Final[Vector] = np.empty(0, dtype=np.float32)
MAX_KEPT_BYTES: Final = 64 << 20
"""What peers may send ahead of us, for an ask that we have not yet reached."""
MAX_KEPT: Final = 4096
"""As many messages."""
DOUBT: Final = 2.0
"""Seconds; doubled with every failure in a row."""
MAX_DOUBTS: Final = 128
HOLD_EVERY: Final = 10.0
"""Seconds between the states that a helper takes over: a spare copy, not a mirror of every round."""
MAX_PAST: Final = 8
"""Groups that are remembered as over, so that who still waits there is told."""
TURN_BELOW: Final = 0.5
"""Share of a state that may be missing when a newer one is agreed; with more, the newer one is fetched."""
HURRY_AFTER: Final = 0.5
"""Share of the others' learned wait after which unfinished local work is cut short."""


class MemberConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this node behaves among its peers."""

    patience: float = 15.0
    """Seconds: the upper bound of every learned deadline, and the deadline until one is learned."""
    lease: float = 12.0
    """Seconds for which a presence record holds; a silent peer is forgotten after this."""
    beat: float = 3.0
    """Seconds between records when nothing changes: a quarter of the lease survives two losses."""
    wait_for: int = 1
    """Round 0 starts when this many trainers are ready, or after twice the patience."""
    max_links: int = 64
    """No further peers are dialled above this many links."""
    serving: ServingConfig = ServingConfig()
    """What this node gives to those that fetch its state."""


class Phase(Enum):
    """What the node is doing; see the module's docstring."""

    HELPING = "helping"
    WORKING = "working"
    SEEKING = "matchmaking"
    EXCHANGING = "exchanging"
    APPLYING = "applying"
    SYNCING = "syncing"
    FINISHED = "finished"


class Member:
    """One node in its swarm. See the module's docstring."""

    def __init__(
        self,
        me: PeerId,
        config: MemberConfig,
        dice: Dice,
        sequence: int,
        *,
        chunk_numel: int = CHUNK_NUMEL,
    ) -> None:
        """`sequence`: larger than any this identity used before; `chunk_numel`: equal on all peers."""
        self.me, self.config, self._dice = me, config, dice
        self._chunk_numel = chunk_numel
        self.table = PresenceTable(me)
        self.discovery = Discovery(me, dice, config.max_links)
        self.phase = Phase.HELPING
        self._has_left = False
        self.run = b""
        self.spec: RunSpec | None = None
        self.round = 0
        self.state = self.previous = b""
        self.exchange: Averaging | Gathering | None = None
        self.fetching: Fetching | None = None
        self.serving = Serving(config.serving)
        self.feedback: dict[int, Feedback] = {}
        """By ask of a round: what lossy codecs owe. The node keeps it over restarts."""
        self._mergeable = False
        self._has_made = False
        self._half_fetched: dict[bytes, Data] = {}
        """Verified chunks of a fetch that broke off, by leaf hash."""
        self._has_turned = False
        """Whether this fetch has turned to a newer state already."""
        self._paces: dict[PeerId, float] = {}
        """Seconds per chunk of those we fetched from."""
        self._next_beat = self._hold_next = 0.0
        self.sequence = sequence
        self._addresses: tuple[str, ...] = ()
        self._matchmaking: Matchmaking | None = None
        self._pending: Contribute | ContributeBody | None = None
        self._early: dict[PeerId, tuple[Ready, float]] = {}
        """Who is ready for our round or the next, and until when they wait."""
        self._hurry_at = INFINITY
        self._arrived: dict[PeerId, float] = {}
        self._late: set[PeerId] = set()
        self._described: set[tuple[PeerId, bytes]] = set()
        self._doubts: dict[PeerId, tuple[int, float]] = {}
        """Who did not give what they claimed to have: how often, and until when nobody goes by them."""
        self._told: dict[PeerId, float] = {}
        self._past: OrderedDict[bytes, frozenset[PeerId] | None] = OrderedDict()
        """Groups we are in no more: whom they went on without, or nothing where we left."""
        self._kept: list[Received] = []
        self._kept_bytes = 0
        self._asked_at = self._formed_at = 0.0
        patience = config.patience
        self._ready_wait = Deadline(patience, floor=SHORTEST_STALL)
        self._answer_wait = Deadline(min(2.0, patience), floor=0.5)
        self._exchange_wait = Deadline(patience, floor=SHORTEST_STALL)
        self._commands: dict[type, Callable[[Any, float], Effects]] = {
            Received: self._received,
            TimerFired: self._timer,
            PeerFound: self._peer_found,
            PeerLost: self._peer_lost,
            DialFailed: lambda e, now: self.discovery.failed(e.address, e.reason, now),
            Learned: lambda e, now: self.discovery.add(e.address, e.source, now),
            Attach: self._attach,
            NewState: self._new_state,
            Known: self._know,
            Contribute: self._contribute,
            ContributeBody: self._contribute,
            GiveUp: self._give_up,
            Detach: self._detach,
            Finish: self._finish,
            AddAddress: lambda e, now: self.discovery.add(e.address, e.source, now),
            RemoveAddress: lambda e, now: self._remove_address(e.address),
            SetAddresses: self._set_addresses,
            Goodbye: lambda e, now: self._goodbye(),
        }
        self._messages: dict[type, Callable[[PeerId, Any, Data, float], Effects]] = {
            Records: self._records,
            Leave: lambda peer, m, data, now: self._left(peer, now),
            Describe: lambda peer, m, data, now: self._describe(peer, m),
            Ready: lambda peer, m, data, now: self._ready(peer, m, now),
            Propose: lambda peer, m, data, now: self._to_matchmaking("handle_propose", peer, m, now),
            Accept: lambda peer, m, data, now: self._to_matchmaking("handle_accept", peer, m, now),
            Commit: lambda peer, m, data, now: self._to_matchmaking("handle_commit", peer, m, now),
            Want: lambda peer, m, data, now: self.serving.want(peer, m, now),
            Fetch: lambda peer, m, data, now: self.serving.fetch(peer, m, now, yields=self._yields()),
            Wait: self._to_fetching,
            Offer: self._to_fetching,
            NotHeld: self._to_fetching,
            Chunk: self._to_fetching,
        }

    def handle(self, event: Event, now: float) -> Effects:
        """See `gossip.core`."""
        if self._has_left:
            return []
        effects = self._commands[type(event)](event, now)
        if self.serving.is_yielding and not self._yields():
            effects = [*effects, *self.serving.go_on(now)]
        return effects

    def heard(self, record: Record) -> Records:
        """Return an announcement as the message that it amounts to."""
        return Records(((record, 0.0),))

    def begin(self, now: float) -> Effects:
        """Start the heartbeat."""
        self._next_beat = now
        return [SetTimer(now, BEAT)]

    # --- commands ---------------------------------------------------------------------------------

    def _attach(self, event: Attach, now: float) -> Effects:
        self.run, self.spec, self._mergeable = event.run, event.spec, event.mergeable
        return []

    def _new_state(self, event: NewState, now: float) -> Effects:
        if self.phase is not Phase.SYNCING:
            self._has_made = self.phase is not Phase.HELPING
        self.round, self.state, self.previous = event.round, event.state, event.previous
        self.serving.hold(event.round, event.state, event.previous, event.data, event.leaves)
        self._half_fetched = {}
        self.phase = Phase.WORKING
        # The trainer writes its next contribution where this exchange has its mean.
        self._end_round(finished=True)
        self.fetching = None
        self._early = {peer: early for peer, early in self._early.items() if early[0].round >= self.round}
        self._hurry_at = INFINITY
        effects: Effects = [SetTimer(INFINITY, HURRY)]
        for ready, until in self._early.values():
            effects += self._hurry(ready, until, now)
        return [*effects, *self._push(now), *self._check_behind(now)]

    def _contribute(self, event: Contribute | ContributeBody, now: float) -> Effects:
        if self.phase is not Phase.WORKING and self.phase is not Phase.APPLYING:
            return [Notify(Failed("LeftOut", "the swarm went on without this node"))]
        if isinstance(event, Contribute) and not is_sane(event.vector):
            text = "this node's own contribution is not finite: lower the learning rate"
            return [Notify(Failed("GossipError", text))]
        effects: Effects = [SetTimer(INFINITY, HURRY)]
        self._pending = event
        self._asked_at = now
        if event.index > 0 and self.exchange is not None and self.exchange.is_over:
            return effects + self._begin_exchange(now)
        self.exchange = None
        self.phase = Phase.SEEKING
        early = [(peer, ready.share) for peer, (ready, _) in self._early.items() if self._is_mine(ready)]
        self._arrived = {peer: now for peer, _ in early}
        nonce = int(self._dice.random() * (1 << 53))
        self._matchmaking = Matchmaking(
            self.me,
            self.run,
            self.round,
            self._base(),
            self._matchmaking_config(),
            nonce,
            self.table.connected,
        )
        return effects + self._after_matchmaking(self._matchmaking.begin(self._expected(), early, now), now)

    def _give_up(self, event: GiveUp, now: float) -> Effects:
        if self.phase in (Phase.SYNCING, Phase.FINISHED):
            return []
        effects = self._abandon()
        self._end_round()
        self.phase = Phase.WORKING
        return effects + self._check_behind(now)

    def _detach(self, event: Detach, now: float) -> Effects:
        effects = self._abandon()
        self._end_round()
        self.phase, self.fetching = Phase.HELPING, None
        return [*effects, *self._push(now)]

    def _finish(self, event: Finish, now: float) -> Effects:
        self.phase = Phase.FINISHED
        return [*self._push(now), *self._check_behind(now)]

    def _remove_address(self, address: str) -> Effects:
        self.discovery.remove(address)
        return []

    def _set_addresses(self, event: SetAddresses, now: float) -> Effects:
        self._addresses = event.addresses[:8]
        return self._push(now)

    def _goodbye(self) -> Effects:
        # A further word would bring us back into the tables of our peers.
        self._has_left = True
        return [Send(peer, Leave()) for peer in sorted(self.table.connected)]

    # --- links ------------------------------------------------------------------------------------

    def _peer_found(self, event: PeerFound, now: float) -> Effects:
        self.table.connected.add(event.peer)
        effects = self.discovery.found(event.peer, event.address, now)
        # A newer record than any it may have of us: it may have forgotten us when a link ended.
        self.sequence += 1
        effects.append(Send(event.peer, self._sample(now, reply=False)))
        return effects + self._view_changed(now)

    def _peer_lost(self, event: PeerLost, now: float) -> Effects:
        self.table.connected.discard(event.peer)
        # Most links end with their peer. If it lives, others bring its next record within a beat.
        self.table.forget(event.peer, now)
        return self.discovery.lost(event.peer, now) + self._gone(event.peer, now)

    def _left(self, peer: PeerId, now: float) -> Effects:
        self.table.forget(peer, now)
        return self._gone(peer, now)

    def _gone(self, peer: PeerId, now: float) -> Effects:
        effects: Effects = []
        self._early.pop(peer, None)
        self.serving.lost(peer)
        if self._matchmaking is not None and self.phase is Phase.SEEKING:
            effects += self._after_matchmaking(self._matchmaking.lost(peer, now), now)
        if self.exchange is not None:
            effects += self._after_exchange(self.exchange.lost(peer, now), now)
        if self.fetching is not None:
            effects += self._after_fetching(self.fetching.lost(peer, now), now)
        return effects

    # --- messages ---------------------------------------------------------------------------------

    def _received(self, event: Received, now: float) -> Effects:
        self._late.discard(event.peer)
        self.table.touch(event.peer, now)
        if isinstance(event.message, Exchange):
            return self._to_exchange(event, now)
        return self._messages[type(event.message)](event.peer, event.message, event.data, now)

    def _records(self, peer: PeerId, message: Records, data: Data, now: float) -> Effects:
        effects: Effects = []
        changed = False
        for record, age in message.records:
            if record.author == self.me:
                if record.sequence > self.sequence:
                    # A twin, or ourselves before a restart with a clock set back: nobody would listen.
                    self.sequence = record.sequence
                    reason = "another node runs with this node's identity: give one of them a new key"
                    effects += [*self._push(now), Notify(Refused(record.author, reason))]
                continue
            known = self.table.get(record.author)
            if not self.table.update(record, age, now):
                continue
            if known is not None and known.presence == record.presence:
                continue
            changed = True
            effects += self._forget_ready(record.author, record.presence, now)
            if record.author not in self.table.connected:
                effects += self.discovery.add_all(record.presence.addresses, "peers", now)
            if record.author == peer:
                effects += self._introduce(peer, record.presence)
        if message.reply:
            effects.append(Send(peer, self._sample(now, reply=False)))
        return effects + (self._view_changed(now) if changed else [])

    def _forget_ready(self, peer: PeerId, presence: Presence, now: float) -> Effects:
        """Do not count on a peer that was ready for a round in which it is no more."""
        early = self._early.get(peer)
        if early is None or (presence.phase == "working" and presence.round == early[0].round):
            return []
        del self._early[peer]
        if self._matchmaking is None or self.phase is not Phase.SEEKING:
            return []
        return self._after_matchmaking(self._matchmaking.withdraw(peer, now), now)

    def _introduce(self, peer: PeerId, presence: Presence) -> Effects:
        """Tell a peer that means to be in our run, but is not, what its spec and ours differ in."""
        if self.spec is None or not presence.run or presence.run == self.run:
            return []
        if presence.run_name != self.spec.name or (peer, presence.run) in self._described:
            return []
        if len(self._described) > 4 * MAX_PUSHED:
            self._described.clear()
        self._described.add((peer, presence.run))
        spec = msgspec.msgpack.encode(self.spec)
        return [Send(peer, Describe(spec))] if len(spec) <= 200_000 else []

    def _describe(self, peer: PeerId, message: Describe) -> Effects:
        if self.spec is None:
            return []
        try:
            theirs = msgspec.msgpack.decode(message.spec, type=RunSpec)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return []
        text = difference(self.spec, theirs)
        return [Notify(Refused(peer, f"other run spec: {text}"))] if text else []

    def _ready(self, peer: PeerId, message: Ready, now: float) -> Effects:
        if message.round < self.round or self.phase is Phase.FINISHED:
            # It is behind, and seeks a round that is over: our record says so.
            return [Send(peer, Records(((self._record(), 0.0),)))] if self.run else []
        if message.round > self.round + 1 or len(self._early) > 4 * MAX_PUSHED:
            return []
        self._early[peer] = (message, now + message.wait)
        if not self._is_mine(message):
            return []
        if self.phase is Phase.WORKING:
            return self._hurry(message, now + message.wait, now)
        if self.phase is Phase.SEEKING and self._matchmaking is not None:
            self._arrived.setdefault(peer, now)
            return self._after_matchmaking(self._matchmaking.handle_ready(peer, message, now), now)
        return []

    def _to_matchmaking(self, handler: str, peer: PeerId, message: Any, now: float) -> Effects:
        seeking = self._matchmaking
        if seeking is None or message.round != self.round:
            return []
        return self._after_matchmaking(getattr(seeking, handler)(peer, message, now), now)

    def _to_exchange(self, event: Received, now: float) -> Effects:
        message = event.message
        if self.phase is Phase.SEEKING and self._matchmaking is not None:
            if not self._matchmaking.matches(message.group):
                # Its commit may be on its way to us, in the other lane or from another peer.
                self._keep_for_later(event)
                return []
            effects = self._after_matchmaking(self._matchmaking.form_promised(now), now)
            return effects + self._to_exchange(event, now)
        exchange = self.exchange
        if exchange is None or exchange.group.id != message.group:
            return self._tell_stale(event.peer, message, now)
        ours = (exchange.index, exchange.index + INNER_INDEX)
        if message.index in ours[: 2 if isinstance(exchange, Gathering) else 1]:
            return self._after_exchange(exchange.handle(event.peer, message, event.data, now), now)
        if isinstance(message, Abandon) and message.index < exchange.index:
            return self._after_exchange(exchange.lost(event.peer, now), now)
        is_ahead = message.index % INNER_INDEX > exchange.index
        if is_ahead and event.peer in exchange.group.members:
            # Others of our group are at the round's next ask already; ours will come.
            self._keep_for_later(event)
        return self._after_exchange(exchange.heard_elsewhere(event.peer, now, is_ahead=is_ahead), now)

    def _tell_stale(self, peer: PeerId, message: Exchange, now: float) -> Effects:
        """Tell, once a second, who waits for us where we are not: the round is over, or we left it."""
        lost = self._past.get(message.group)
        if isinstance(message, Cut | Abandon) or not self.run or (lost is not None and peer not in lost):
            # Whoever was there when we finished needs nothing: these are its last words.
            return []
        if now < self._told.get(peer, 0.0) + 1.0:
            return []
        if len(self._told) > 4 * MAX_PUSHED:
            self._told.clear()
        self._told[peer] = now
        gone = Abandon if lost is None else Cut
        record = Records(((self._record(), 0.0),))
        return [Send(peer, gone(message.group, message.index)), Send(peer, record)]

    def _keep_for_later(self, event: Received) -> None:
        if self._kept_bytes < MAX_KEPT_BYTES and len(self._kept) < MAX_KEPT:
            self._kept.append(event)
            self._kept_bytes += len(event.data)

    def _to_fetching(self, peer: PeerId, message: Any, data: Data, now: float) -> Effects:
        if self.fetching is None:
            return []
        return self._after_fetching(self.fetching.handle(peer, message, data, now), now)

    # --- timers -----------------------------------------------------------------------------------

    def _timer(self, event: TimerFired, now: float) -> Effects:
        if event.name == BEAT:
            return self._beat(now)
        if event.name == DISCOVERY:
            return self.discovery.plan(now)
        if event.name == MATCHMAKING and self._matchmaking and self.phase is Phase.SEEKING:
            return self._after_matchmaking(self._matchmaking.timer(now), now)
        if event.name == AVERAGING and self.exchange is not None:
            exchange = self.exchange
            tick = exchange.inner_timer if isinstance(exchange, Gathering) else exchange.timer
            return self._after_exchange(tick(now), now)
        if event.name == GATHERING and isinstance(self.exchange, Gathering):
            return self._after_exchange(self.exchange.timer(now), now)
        if event.name == SERVING:
            return self.serving.go_on(now, yields=self._yields())
        if event.name == TRANSFER and self.fetching:
            return self._after_fetching(self.fetching.timer(now), now)
        if event.name == HURRY and self.phase is Phase.WORKING:
            return [Notify(Hurry())]
        return []

    def _beat(self, now: float) -> Effects:
        effects: Effects = []
        if now > self._next_beat + self.config.beat:
            self.table.forgive(now - self._next_beat)
        if self.table.expire(now):
            effects += self._view_changed(now)
        self.serving.expire(now)
        effects += self._push(now)
        neighbours = sorted(self.table.connected)
        if neighbours:
            chosen = neighbours[int(self._dice.random() * len(neighbours))]
            effects.append(Send(chosen, self._sample(now, reply=True)))
        # Everyone hears an announcement, so their number must not grow with the swarm; and where all that
        # we know are neighbours, all have been told already.
        is_due = self._dice.random() < MAX_PUSHED / max(MAX_PUSHED, len(self.table))
        if is_due and any(peer not in self.table.connected for peer, _ in self.table):
            effects.append(Publish(Records(((self._record(), 0.0),))))
        jitter = 0.8 + 0.4 * self._dice.random()
        self._next_beat = now + self.config.beat * jitter
        return [*effects, *self._check_behind(now), SetTimer(self._next_beat, BEAT)]

    # --- after a sub-core has spoken --------------------------------------------------------------

    def _after_matchmaking(self, effects: Effects, now: float) -> Effects:
        seeking = self._matchmaking
        if self.phase is not Phase.SEEKING or seeking is None or seeking.group is None:
            return effects
        group = seeking.group
        missed = self._expected() - seeking.ready.keys() - set(group.members)
        self._late |= missed
        if missed:
            self._ready_wait.miss()
        elif len(group.members) > 1:
            lags = [max(0.0, self._arrived.get(peer, now) - self._asked_at) for peer in group.members]
            self._ready_wait.observe(max(lags))
        if self.spec is not None and len(group.members) < self.spec.quorum:
            self.phase = Phase.APPLYING
            text = f"{len(group.members)} of at least {self.spec.quorum} peers were ready"
            return [*effects, Notify(Failed("TooFew", text))]
        self._formed_at = now
        return effects + self._begin_exchange(now)

    def _begin_exchange(self, now: float) -> Effects:
        pending = self._pending
        group = self.exchange.group if self.exchange is not None else None
        group = group or (self._matchmaking.group if self._matchmaking else None)
        if pending is None or group is None:
            return []
        wait = self._exchange_wait.seconds()
        config = AveragingConfig(stall=wait, cut=2 * wait, chunk_numel=self._chunk_numel)
        self.phase = Phase.EXCHANGING
        self._formed_at = max(self._formed_at, self._asked_at)
        if isinstance(pending, Contribute):
            config = msgspec.structs.replace(config, codec=self.spec.codec if self.spec else "float32")
            self.exchange = Averaging(
                self.me, group, pending.index, pending.vector, pending.weight, config, self._feedback(pending)
            )
        else:
            self.exchange = Gathering(self.me, group, pending.index, pending.body, config)
        effects = self._after_exchange(self.exchange.begin(now), now)
        for peer in group.members:
            if peer != self.me and peer not in self.table.connected:
                effects += self._after_exchange(self.exchange.lost(peer, now), now)
        kept, self._kept, self._kept_bytes = self._kept, [], 0
        for event in kept:
            effects += self._to_exchange(event, now)
        return effects

    def _after_exchange(self, effects: Effects, now: float) -> Effects:
        exchange, pending = self.exchange, self._pending
        if exchange is None or pending is None or self.phase is not Phase.EXCHANGING or not exchange.is_over:
            return effects
        self.phase = Phase.APPLYING
        self._pending = None
        times = (self._formed_at - self._asked_at, now - self._formed_at)
        result: Averaged | Gathered | None = None
        if isinstance(exchange, Gathering) and exchange.step is Step.DONE:
            result = Gathered(self.round, exchange.index, exchange.bodies, *times)
            least = len(exchange.bodies)
        elif isinstance(exchange, Averaging) and exchange.result is not None:
            result = Averaged(self.round, exchange.index, exchange.result, *times)
            least = min((mask.bit_count() for masks in exchange.result.masks for mask in masks), default=1)
        if result is None:
            return [*effects, Notify(Failed("LeftOut", "the others went on without this node"))]
        if not self.table.connected.isdisjoint(exchange.lost_members):
            self._exchange_wait.miss()
        elif len(exchange.group.members) > 1:
            # Alone everything is quick, and nothing is learned.
            self._exchange_wait.observe(now - self._formed_at)
        if self.spec is not None and least < self.spec.quorum:
            text = f"{least} of at least {self.spec.quorum} peers contributed"
            return [*effects, Notify(Failed("TooFew", text))]
        return [*effects, Notify(result)]

    def _feedback(self, pending: Contribute) -> Feedback | None:
        """What lossy codecs owe; per ask of a round, and only for vectors of one size."""
        if self.spec is None or not CODECS[self.spec.codec].needs_feedback:
            return None
        known = self.feedback.get(pending.index)
        if known is None or known.sent.size != pending.vector.size:
            known = self.feedback[pending.index] = Feedback(pending.vector.size)
        return known

    def _after_fetching(self, effects: Effects, now: float) -> Effects:
        fetching = self.fetching
        if fetching is None:
            return effects
        if fetching.arrived and self.phase is Phase.SYNCING:
            arrived = Arrived(fetching.state, fetching.n_bytes, fetching.take_arrived())
            effects = [*effects, Notify(arrived)]
        if not fetching.is_over:
            return effects
        self.fetching = None
        self._has_turned = False
        self._remember(fetching.paces())
        self._half_fetched = {} if fetching.is_done else fetching.known_chunks()
        for peer in fetching.liars:
            reason = "it sent bytes of the state that do not verify"
            effects = [*effects, Notify(Refused(peer, reason))]
        for peer in fetching.failed:
            entry = self.table.get(peer)
            # One that went on to its next state while we asked has claimed nothing wrong.
            if entry is not None and entry.presence.state == fetching.state:
                self._doubt(peer, now)
        if self.phase is Phase.HELPING:
            if fetching.is_done:
                self.round, self.state, self.previous = fetching.round, fetching.state, fetching.previous
                data, leaves = fetching.vector.data, fetching.leaves
                self.serving.hold(self.round, self.state, self.previous, data, leaves, keeps_former=False)
                effects = [*effects, *self._push(now)]
            return effects
        if fetching.is_done:
            for peer in fetching.served:
                self._doubts.pop(peer, None)
            got = (fetching.round, fetching.state, fetching.previous, fetching.vector)
            return [*effects, Notify(Synced(*got, fetching.served, fetching.reused, fetching.leaves))]
        self.phase = Phase.WORKING
        again = self._check_behind(now)
        return [*effects, *(again or [Notify(Synced(self.round, self.state, self.previous, EMPTY))])]

    def _know(self, event: Known, now: float) -> Effects:
        if self.fetching is None:
            return []
        return self._after_fetching(self.fetching.know(event.chunks, now), now)

    def _remember(self, paces: dict[PeerId, float]) -> None:
        self._paces = dict(list(paces.items())[-MAX_DOUBTS:])

    def _yields(self) -> bool:
        """Whether others who fetch from us have to wait for an exchange."""
        exchange = self.exchange
        return self.phase is Phase.EXCHANGING and exchange is not None and len(exchange.group.members) > 1

    def _doubt(self, peer: PeerId, now: float) -> None:
        """Do not go by a peer for a while that did not give the state it claims, longer every time."""
        if len(self._doubts) >= MAX_DOUBTS:
            del self._doubts[min(self._doubts, key=lambda known: self._doubts[known][1])]
        count = self._doubts.get(peer, (0, 0.0))[0]
        self._doubts[peer] = (count + 1, now + DOUBT * 2 ** min(count, 7))

    # --- the view ---------------------------------------------------------------------------------

    def _view_changed(self, now: float) -> Effects:
        effects: Effects = []
        if self.phase is Phase.SEEKING and self._matchmaking is not None:
            effects += self._after_matchmaking(self._matchmaking.expect(self._expected(), now), now)
        return effects + self._look_for_donors(now) + self._check_behind(now)

    def _look_for_donors(self, now: float) -> Effects:
        """While a state is fetched: ask those too that came to hold it, or turn to a newer one."""
        fetching = self.fetching
        if fetching is None or self.phase is not Phase.SYNCING:
            return []
        target = self._agreed_state(now)
        is_newer = target is not None and target.round > fetching.round and target.holders
        if target is not None and is_newer and not self._has_turned and fetching.share_missing > TURN_BELOW:
            # Once: where rounds are shorter than a fetch, one that turned every time would never end.
            self._has_turned = True
            self._half_fetched = fetching.known_chunks()
            self._remember(fetching.paces())
            ended = [Send(peer, Fetch(fetching.state, ())) for peer in fetching.asked()]
            return [*ended, *self._begin_fetching(target, now)]
        holders = [
            peer
            for peer in sorted(self.table.connected)
            if (entry := self.table.get(peer)) is not None
            and fetching.state in (entry.presence.state, entry.presence.previous)
        ]
        return self._after_fetching(fetching.add(holders, now), now)

    def _agreed_state(self, now: float) -> SwarmState | None:
        """Return the state that the swarm goes by, as far as those tell whom we do not doubt."""
        doubted = {peer for peer, (_, until) in self._doubts.items() if now < until}
        heeded = [(peer, e.presence) for peer, e in self.table.in_run(self.run) if peer not in doubted]
        return swarm_state(heeded, self.me, self._presence(), self.table.connected)

    def _begin_fetching(self, target: SwarmState, now: float) -> Effects:
        assert self.spec is not None
        known = self.serving.known_chunks() | self._half_fetched
        self.fetching = Fetching(
            target.state,
            target.round,
            4 * self.spec.state_numel,
            target.holders + self._helpers_with(target.state),
            self._exchange_wait.seconds(),
            known=known,
            paces=self._paces,
        )
        begun: Effects = [Notify(Behind(target.round)), SetTimer(INFINITY, MATCHMAKING), *self._push(now)]
        return begun + self._after_fetching(self.fetching.begin(now), now)

    def _check_behind(self, now: float) -> Effects:
        if self.phase is Phase.HELPING and not self.run:
            return self._hold_for_others(now)
        idle = self.phase in (Phase.WORKING, Phase.SEEKING, Phase.FINISHED)
        if not idle or self.spec is None or not self.state:
            return []
        others = self.table.in_run(self.run)
        if all(e.presence.state == self.state and e.presence.round == self.round for _, e in others):
            return []
        target = self._agreed_state(now)
        if target is None or not target.holders or not self._is_behind(target):
            return []
        effects: Effects = []
        if self.phase is Phase.SEEKING:
            effects.append(Notify(Failed("LeftOut", "the swarm is at another state")))
        self._end_round()
        self._has_made = self._has_made and target.includes_us
        self.phase = Phase.SYNCING
        return effects + self._begin_fetching(target, now)

    def _hold_for_others(self, now: float) -> Effects:
        """Keep the state of the run with the most trainers, for newcomers whose donors fail."""
        runs: dict[bytes, list[tuple[PeerId, Presence]]] = {}
        for peer, entry in self.table:
            if entry.presence.run and entry.presence.state:
                runs.setdefault(entry.presence.run, []).append((peer, entry.presence))
        if not runs or self.fetching is not None or now < self._hold_next:
            return []
        largest = max(runs, key=lambda run: (len(runs[run]), run))
        nothing = msgspec.structs.replace(self._presence(), state=b"", previous=b"")
        target = swarm_state(runs[largest], self.me, nothing, self.table.connected)
        if target is None or not target.holders or target.state == self.state:
            return []
        self._hold_next = now + HOLD_EVERY
        stall = self._exchange_wait.seconds()
        self.fetching = Fetching(target.state, target.round, None, target.holders, stall)
        return self._after_fetching(self.fetching.begin(now), now)

    def _helpers_with(self, state: bytes) -> tuple[PeerId, ...]:
        """Linked nodes without a trainer that hold this state."""
        return tuple(
            peer
            for peer, entry in self.table
            if not entry.presence.run and entry.presence.state == state and peer in self.table.connected
        )

    def _is_behind(self, target: SwarmState) -> bool:
        """Whether there is a state to fetch before we can work on."""
        # Equal bytes alone do not tell: a model that has converged is the same round after round.
        if (target.round, target.state) == (self.round, self.state):
            return False
        if self._is_mixing() and self.phase is not Phase.FINISHED:
            # States differ between groups and meet in means; only who lags or runs ahead must fetch.
            if target.round == self.round + 1:
                return not self._expected()
            return target.round > self.round or (target.round < self.round - 1 and not target.includes_us)
        if not target.includes_us:
            return True
        if target.round == self.round:
            # Two outcomes of one round: which of them more hold is told when everyone has one.
            return not any(self._is_on_its_way(entry.presence) for _, entry in self._linked_workers())
        return target.round > self.round

    def _linked_workers(self) -> Iterator[tuple[PeerId, Entry]]:
        for peer, entry in self.table.in_run(self.run):
            is_there = peer in self.table.connected and peer not in self._late
            # Who fetches the state that we have will be there as soon as those who have just made it: over
            # links with latency it would else come too late in every round, and chase the swarm for ever.
            fetches = entry.presence.phase == "syncing" and self._is_on_its_way(entry.presence)
            if is_there and (entry.presence.phase == "working" or fetches):
                yield peer, entry

    def _is_on_its_way(self, presence: Presence) -> bool:
        """Whether a peer is in the round that we have just finished."""
        return presence.state == self.previous != b"" and presence.round == self.round - 1

    def _expected(self) -> set[PeerId]:
        """Peers worth waiting for: linked, working, and at our state or on their way to it."""
        mixing = self._is_mixing()
        found = set()
        for peer, entry in self._linked_workers():
            presence = entry.presence
            here = (presence.round, presence.state) == (self.round, self.state)
            near = mixing and self.round - 1 <= presence.round <= self.round
            if here or near or self._is_on_its_way(presence):
                found.add(peer)
        return found

    def _is_mixing(self) -> bool:
        """Whether the run has several groups a round, so that states differ between them."""
        if not self._mergeable or self.spec is None:
            return False
        return sum(1 for _ in self.table.in_run(self.run)) + 1 > self.spec.group_size

    def _base(self) -> bytes:
        # Not by whether there are several groups just now: views differ, and bases that differ with them
        # would keep peers apart that could average.
        return NO_BASE if self._mergeable else self.state

    def _is_mine(self, ready: Ready) -> bool:
        return ready.round == self.round and ready.base == self._base()

    # --- small things -----------------------------------------------------------------------------

    def _matchmaking_config(self) -> MatchmakingConfig:
        assert self.spec is not None
        first = self.round == 0
        patience = self.config.patience * (2 if first else 1)
        return MatchmakingConfig(
            group_size=self.spec.group_size,
            quorum=self.spec.quorum,
            wait_for=self.config.wait_for if first else 1,
            ready_wait=self._ready_wait.seconds(),
            answer_wait=self._answer_wait.seconds(),
            patience=patience,
        )

    def _hurry(self, ready: Ready, until: float, now: float) -> Effects:
        """Be done before the most hurried of those that wait goes on without us."""
        at = max(now, until - (1 - HURRY_AFTER) * ready.wait)
        if not self._is_mine(ready) or at >= self._hurry_at:
            return []
        self._hurry_at = at
        return [SetTimer(at, HURRY)]

    def _abandon(self) -> Effects:
        if self.exchange is None or self.exchange.is_over:
            return []
        return self.exchange.abandon()

    def _end_round(self, *, finished: bool = False) -> None:
        if self.exchange is not None:
            lost = frozenset(self.exchange.lost_members)
            self._past[self.exchange.group.id] = lost if finished else None
            while len(self._past) > MAX_PAST:
                self._past.popitem(last=False)
        self._matchmaking = None
        self.exchange = None
        self._pending = None
        self._kept, self._kept_bytes = [], 0

    def _presence(self) -> Presence:
        shown = {Phase.SEEKING: "working", Phase.EXCHANGING: "working", Phase.APPLYING: "working"}
        phase = shown.get(self.phase, self.phase.value)
        name = self.spec.name if self.spec is not None else ""
        return Presence(
            self.run,
            name,
            self.round,
            self.state,
            self.previous,
            phase,
            self.config.lease,
            self._addresses,
            self._has_made,
        )

    def _record(self) -> Record:
        return Record(self.me, self.sequence, self._presence())

    def _push(self, now: float) -> Effects:
        """Tell the neighbours about a change."""
        self.sequence += 1
        records = Records(((self._record(), 0.0),))
        return [Send(peer, records) for peer in sorted(self.table.connected)[:MAX_PUSHED]]

    def _sample(self, now: float, *, reply: bool) -> Records:
        """Return our record and a random few of those we know."""
        aged = [(entry.record, max(0.0, now - entry.heard), entry.lease) for _, entry in self.table]
        known = [(record, age) for record, age, lease in aged if age < lease]
        while len(known) > 15:
            known.pop(int(self._dice.random() * len(known)))
        return Records(((self._record(), 0.0), *known), reply)
