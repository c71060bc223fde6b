"""Member: everything one node does in its swarm, as one core.

    helping                                        no trainer: serves records and states
    working  --Contribute-->  seeking  --group-->  exchanging  --mean-->  applying  --NewState--> working
       '---behind---> syncing --Synced, NewState--> working                  |
       '<------------------------AbortRound (the ask failed)---------------------'
    finished                                       the run is over: serves its last state

It composes the cores of presence, discovery, matchmaking, averaging and transfer, hands each message
to the one it belongs to, and decides when this node is behind: when the swarm's state (presence.py) is
not ours and we are not in the middle of an exchange that will get us there.

The file is long because every event of a node comes in here; what is decided about one is in the core that
it is handed to.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.all_reduce import CHUNK_NUMEL, AllReduce, is_sane
from shoal.gossip.averaging.gather import Gather
from shoal.gossip.averaging.push_sum import TIMER as PAIRWISE
from shoal.gossip.averaging.tensor_codecs import Feedback
from shoal.gossip.events import (
    Data,
    DialFailed,
    Drop,
    Effects,
    Event,
    Learned,
    Notify,
    PeerFound,
    PeerLost,
    Received,
    Send,
    SetTimer,
    TimerFired,
)
from shoal.gossip.matchmaking.matchmaking import TIMER as MATCHMAKING
from shoal.gossip.member.asks import TIMERS as EXCHANGING
from shoal.gossip.member.asks import AskQueue
from shoal.gossip.member.commands import (
    AbortRound,
    AddAddress,
    Attach,
    BeginExternalExchange,
    CachedChunks,
    Contribute,
    ContributeBody,
    Detach,
    Failed,
    Finish,
    FinishEarly,
    Goodbye,
    Measured,
    NewState,
    PeerAddresses,
    Refused,
    RemoveAddress,
    SetAddresses,
    SetEngine,
)
from shoal.gossip.member.group_search import HURRY, GroupSearch
from shoal.gossip.member.pairwise_rounds import TIMER as MIXING
from shoal.gossip.member.pairwise_rounds import PairwiseRounds
from shoal.gossip.member.run_mismatch import RunMismatch
from shoal.gossip.member.state_sync import StateSync
from shoal.gossip.membership.dial_plan import ENOUGH, DialPlan, Dice
from shoal.gossip.membership.dial_plan import TIMER as DISCOVERY
from shoal.gossip.membership.dissemination import Dissemination
from shoal.gossip.membership.presence import PresenceTable
from shoal.gossip.membership.swarm_view import Phase, SwarmView
from shoal.gossip.messages import (
    Accept,
    Applied,
    Chunk,
    Commit,
    Decline,
    Describe,
    Exchange,
    Fetch,
    Leave,
    NotHeld,
    Offer,
    Propose,
    Push,
    Ready,
    Record,
    Records,
    Settle,
    Wait,
    Want,
)
from shoal.gossip.state.fetch import TIMER as TRANSFER
from shoal.gossip.state.fetch import Fetching
from shoal.gossip.state.serve import TIMER as SERVING
from shoal.gossip.state.serve import Serving, ServingConfig

BEAT: Final = "beat"
INFINITY: Final = float("inf")


class MemberConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this node behaves among its peers."""

    patience: float = 15.0
    """Seconds: the upper bound of every learned deadline, and the deadline until one is learned."""
    lease: float = 12.0
    """Seconds for which a presence record holds; a silent peer is forgotten after this."""
    beat: float = 3.0
    """Seconds between records when nothing changes: a quarter of the lease survives two losses."""
    wait_for: int = 1
    """Round 0 starts when this many trainers are ready, or after `wait_seconds`."""
    wait_seconds: float = 0.0
    """0: twice the patience."""
    max_links: int = 64
    """No further peers are dialled above this many links; dial_plan.py says when fewer are enough."""
    serving: ServingConfig = ServingConfig()
    """What this node gives to those that fetch its state."""
    awaits_trainer: bool = False
    """Whether a trainer will attach, with a state of its own: meanwhile this node keeps nobody else's."""


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
        self._has_left = False
        self.view = SwarmView(me, config.lease)
        self.dial_plan = DialPlan(me, dice, config.max_links)
        self.dissemination = Dissemination(self.view, dice, sequence, config.beat)
        self.serving = Serving(config.serving)
        self.asks = AskQueue(self.view, config.patience, chunk_numel, self.dissemination.tell)
        self.state_sync = StateSync(
            self.view, self.serving, self.asks.wait.seconds, self.dissemination.push, self._check_behind
        )
        self.pairwise = PairwiseRounds(self.view, config.patience, chunk_numel, self._next_epoch)
        self.group_search = GroupSearch(
            self.view,
            dice,
            self.dial_plan,
            self.asks,
            self.pairwise,
            self.dissemination.tell,
            patience=config.patience,
            wait_for=config.wait_for,
            wait_seconds=config.wait_seconds,
        )
        self.run_mismatch = RunMismatch(self.view)
        self._next_beat = 0.0
        self._commands: dict[type, Callable[[Any, float], Effects]] = {
            Received: self._received,
            TimerFired: self._timer,
            PeerFound: self._peer_found,
            PeerLost: self._peer_lost,
            DialFailed: self._dial_failed,
            Learned: lambda e, now: self.dial_plan.add(e.address, e.source, now),
            Attach: self._attach,
            NewState: self._new_state,
            CachedChunks: lambda e, now: self.state_sync.know(e.chunks, now),
            Contribute: self._contribute,
            ContributeBody: self._contribute,
            BeginExternalExchange: self._engage,
            AbortRound: self._give_up,
            Detach: self._detach,
            Finish: self._finish,
            AddAddress: lambda e, now: self.dial_plan.add(e.address, e.source, now),
            RemoveAddress: lambda e, now: self._remove_address(e.address),
            SetAddresses: self._set_addresses,
            SetEngine: self._set_engine,
            Measured: self._measured,
            Goodbye: lambda e, now: self._goodbye(),
        }
        self._messages: dict[type, Callable[[PeerId, Any, Data, float], Effects]] = {
            Records: self._records,
            Leave: lambda peer, m, data, now: self._left(peer, now),
            Describe: lambda peer, m, data, now: self.run_mismatch.handle(peer, m),
            Ready: lambda peer, m, data, now: self.group_search.ready(peer, m, now),
            Propose: lambda peer, m, data, now: self.group_search.handle("handle_propose", peer, m, now),
            Accept: lambda peer, m, data, now: self.group_search.handle("handle_accept", peer, m, now),
            Decline: lambda peer, m, data, now: self.group_search.handle("handle_decline", peer, m, now),
            Commit: lambda peer, m, data, now: self.group_search.handle("handle_commit", peer, m, now),
            Want: lambda peer, m, data, now: self.serving.want(peer, m, now),
            Fetch: lambda peer, m, data, now: self.serving.fetch(peer, m, now, yields=self.asks.is_busy),
            Wait: self.state_sync.handle,
            Offer: self.state_sync.handle,
            NotHeld: self.state_sync.handle,
            Chunk: self.state_sync.handle,
            Push: self.pairwise.handle,
            Settle: self.pairwise.handle,
            Applied: self.pairwise.handle,
        }

    def handle(self, event: Event, now: float) -> Effects:
        """See `shoal.gossip.events`."""
        if self._has_left:
            return []
        effects = self._commands[type(event)](event, now)
        for effect in effects:
            if isinstance(effect, Drop):
                self.view.ban(effect.peer, now)
        if self.serving.is_yielding and not self.asks.is_busy:
            effects = [*effects, *self.serving.go_on(now)]
        return effects

    def heard(self, record: Record) -> Records:
        """Return an announcement as the message that it amounts to, and count it."""
        return self.dissemination.heard(record)

    def begin(self, now: float) -> Effects:
        """Start the heartbeat."""
        self._next_beat = now
        return [SetTimer(now, BEAT)]

    # --- what others look at ----------------------------------------------------------------------

    @property
    def table(self) -> PresenceTable:
        """The records of all peers that we know of."""
        return self.view.table

    @property
    def sequence(self) -> int:
        """The last number that we gave a word of ours."""
        return self.dissemination.sequence

    @property
    def phase(self) -> Phase:
        """What the node is doing."""
        return self.view.phase

    @property
    def run(self) -> bytes:
        """The hash of our run spec; empty without a trainer."""
        return self.view.run

    @property
    def round(self) -> int:
        """How many rounds our state has behind it."""
        return self.view.round

    @property
    def state(self) -> bytes:
        """The hash of our state."""
        return self.view.state

    @property
    def previous(self) -> bytes:
        """The hash of the state that ours was made from."""
        return self.view.previous

    @property
    def exchange(self) -> AllReduce | Gather | None:
        """The exchange that is under way, or the last of this round."""
        return self.asks.current

    @property
    def fetching(self) -> Fetching | None:
        """The fetch that is under way."""
        return self.state_sync.fetching

    @property
    def feedback(self) -> dict[int, Feedback]:
        """By ask of a round: what lossy codecs owe. The node keeps it over restarts."""
        return self.asks.feedback

    # --- commands ---------------------------------------------------------------------------------

    def _attach(self, event: Attach, now: float) -> Effects:
        self.view.run, self.view.spec, self.view.mergeable = event.run, event.spec, event.mergeable
        self.pairwise.attach(now)
        # Whoever lacks a link to a member of its group reduces no part of the vector.
        self.dial_plan.enough = max(ENOUGH, event.spec.group_size * 3 // 2)
        return []

    def _new_state(self, event: NewState, now: float) -> Effects:
        if self.view.phase is Phase.SYNCING:
            self.view.last_group = frozenset()
        else:
            self.view.has_finished_round = self.view.phase is not Phase.HELPING
        self.view.round, self.view.state, self.view.previous = event.round, event.state, event.previous
        self.serving.hold(event.round, event.state, event.previous, event.data, event.leaves)
        self.pairwise.note_state(event.data)
        self.view.phase = Phase.WORKING
        # The trainer writes its next contribution where this exchange has its mean.
        self._end_round(finished=True)
        self.state_sync.has_state()
        effects = self.group_search.new_round(now)
        return [*effects, *self.dissemination.push(now), *self._check_behind(now)]

    def _contribute(self, event: Contribute | ContributeBody, now: float) -> Effects:
        if self.view.phase is not Phase.WORKING and self.view.phase is not Phase.APPLYING:
            return [Notify(Failed("LeftOut", "the swarm went on without this node"))]
        if isinstance(event, Contribute) and not is_sane(event.vector):
            text = "this node's own contribution is not finite: lower the learning rate"
            return [Notify(Failed("GossipError", text))]
        effects: Effects = [SetTimer(INFINITY, HURRY)]
        self.asks.ask(event, now)
        if self.asks.can_go_on(event.index):
            return effects + self.asks.go_on(now)
        self.asks.drop_last()
        return effects + self.group_search.begin(now)

    def _engage(self, event: BeginExternalExchange, now: float) -> Effects:
        if self.view.phase not in (Phase.WORKING, Phase.EXCHANGING):
            return [Notify(Failed("LeftOut", "the swarm went on without this node"))]
        self.view.phase = Phase.EXCHANGING
        return [SetTimer(INFINITY, HURRY)]

    def _give_up(self, event: AbortRound, now: float) -> Effects:
        if self.view.phase in (Phase.SYNCING, Phase.FINISHED):
            return []
        effects = self.asks.abandon()
        self._end_round()
        self.view.phase = Phase.WORKING
        return effects + self._check_behind(now)

    def _detach(self, event: Detach, now: float) -> Effects:
        effects = self.asks.abandon()
        self._end_round()
        self.state_sync.stop()
        # Who trains no more counts no more than who comes back, but for what the whole run came to.
        self.view.has_finished_round = self.view.has_finished_round and self.view.phase is Phase.FINISHED
        self.view.phase = Phase.HELPING
        return [*effects, *self.dissemination.push(now)]

    def _finish(self, event: Finish, now: float) -> Effects:
        self.view.phase = Phase.FINISHED
        return [*self.dissemination.push(now), *self._check_behind(now)]

    def _remove_address(self, address: str) -> Effects:
        self.dial_plan.remove(address)
        return []

    def _set_addresses(self, event: SetAddresses, now: float) -> Effects:
        self.view.addresses = event.addresses[:8]
        return self.dissemination.push(now)

    def _set_engine(self, event: SetEngine, now: float) -> Effects:
        if self.view.engine == event.addresses[:4]:
            return []
        self.view.engine = event.addresses[:4]
        return self.dissemination.push(now)

    def _measured(self, event: Measured, now: float) -> Effects:
        self.group_search.uplink.observe(event.n_bytes, event.busy, self.asks.load)
        return []

    def _goodbye(self) -> Effects:
        # A further word would bring us back into the tables of our peers.
        self._has_left = True
        return [Send(peer, Leave()) for peer in sorted(self.view.table.connected)]

    # --- links ------------------------------------------------------------------------------------

    def _peer_found(self, event: PeerFound, now: float) -> Effects:
        self.view.table.connected.add(event.peer)
        self.view.note_link(event.peer)
        effects = self.dial_plan.found(event.peer, event.address, now)
        effects += self.dissemination.greet(event.peer, now)
        return effects + self.pairwise.found(event.peer, now) + self._view_changed(now)

    def _peer_lost(self, event: PeerLost, now: float) -> Effects:
        self.view.table.connected.discard(event.peer)
        # Most links end with their peer. If it lives, others bring its next record within a beat.
        self.view.table.forget(event.peer, now)
        return self.dial_plan.lost(event.peer, now) + self._gone(event.peer, now)

    def _dial_failed(self, event: DialFailed, now: float) -> Effects:
        return self.dial_plan.failed(event.address, event.reason, now) + self.group_search.wait_for_no_more(
            now
        )

    def _left(self, peer: PeerId, now: float) -> Effects:
        self.view.table.forget(peer, now)
        return self._gone(peer, now, is_dead=True)

    def _gone(self, peer: PeerId, now: float, *, is_dead: bool = False) -> Effects:
        effects = self.pairwise.lost(peer, now, is_dead=is_dead)
        self.serving.lost(peer)
        effects += self.group_search.lost(peer, now)
        return effects + self.asks.lost(peer, now) + self.state_sync.lost(peer, now)

    # --- messages ---------------------------------------------------------------------------------

    def _received(self, event: Received, now: float) -> Effects:
        self.view.unresponsive.discard(event.peer)
        self.view.table.touch(event.peer, now)
        if isinstance(event.message, Exchange):
            return self._to_exchange(event, now)
        return self._messages[type(event.message)](event.peer, event.message, event.data, now)

    def _records(self, peer: PeerId, message: Records, data: Data, now: float) -> Effects:
        effects: Effects = []
        changed = False
        for record, age in message.records:
            if record.author == self.me:
                if record.sequence > self.dissemination.sequence:
                    # A twin, or ourselves before a restart with a clock set back: nobody would listen.
                    self.dissemination.sequence = record.sequence
                    reason = "another node runs with this node's identity: give one of them a new key"
                    effects += [*self.dissemination.push(now), Notify(Refused(record.author, reason))]
                continue
            if self.view.table.is_of_before(record, age, now, teller=peer):
                # Shown it, its author says something newer.
                effects.append(Send(record.author, Records(((record, age),))))
                continue
            known = self.view.table.get(record.author)
            if not self.view.table.update(record, age, now, teller=peer):
                if record.author == peer and known is not None and now - known.heard >= known.lease:
                    # Started again with a clock set back. What we know is too old to be handed on, and is
                    # prolonged whenever its author speaks: shown it, that says something newer.
                    effects.append(Send(peer, Records(((known.record, 0.0),))))
                continue
            if known is not None and known.presence == record.presence:
                continue
            changed = True
            effects += self.group_search.moved(record.author, record.presence, now)
            addresses = record.presence.addresses
            if record.author not in self.view.table.connected:
                effects += self.dial_plan.add_all(addresses, "peers", now)
            elif addresses and (known is None or known.presence.addresses != addresses):
                effects.append(Notify(PeerAddresses(record.author, addresses)))
            if record.author == peer:
                effects += self.run_mismatch.met(peer, record.presence, now)
                if known is None and not self.view.is_large_swarm():
                    effects += self.dissemination.introduce(record, age)
        if message.reply:
            effects += self.dissemination.answer(peer, now)
        return effects + (self._view_changed(now) if changed else [])

    def _to_exchange(self, event: Received, now: float) -> Effects:
        effects, is_kept = self.group_search.overtaken(event, now)
        return effects if is_kept else effects + self.asks.receive(event, now)

    # --- timers -----------------------------------------------------------------------------------

    def _timer(self, event: TimerFired, now: float) -> Effects:
        if event.name == BEAT:
            return self._beat(now)
        if event.name == DISCOVERY:
            return self.dial_plan.plan(now) + self.group_search.wait_for_no_more(now)
        if event.name == MATCHMAKING:
            return self.group_search.timer(now)
        if event.name in EXCHANGING:
            return self.asks.timer(event.name, now)
        if event.name == PAIRWISE:
            return self.pairwise.timer(now)
        if event.name == MIXING:
            return self.pairwise.grace_ends(now)
        if event.name == SERVING:
            return self.serving.go_on(now, yields=self.asks.is_busy)
        if event.name == TRANSFER:
            return self.state_sync.timer(now)
        if event.name == HURRY and self.view.phase is Phase.WORKING:
            return [Notify(FinishEarly())]
        return []

    def _beat(self, now: float) -> Effects:
        effects: Effects = []
        if now > self._next_beat + self.config.beat:
            self.view.table.forgive(now - self._next_beat, now)
        if self.view.table.expire(now):
            effects += self._view_changed(now)
        self.serving.expire(now)
        effects += self.dissemination.beat(now, seeks_links=self.dial_plan.seeks_links)
        jitter = 0.8 + 0.4 * self._dice.random()
        self._next_beat = now + self.config.beat * jitter
        return [*effects, *self._check_behind(now), SetTimer(self._next_beat, BEAT)]

    # --- the view ---------------------------------------------------------------------------------

    def _view_changed(self, now: float) -> Effects:
        effects = self.group_search.view_changed(now)
        if self.view.is_large_swarm() and self.view.phase is not Phase.SYNCING:
            # Where there are many something changes all the time, and nothing that cannot wait for the beat.
            return effects
        effects += self.state_sync.look_for_donors(now) + self._check_behind(now)
        return effects + self.group_search.wait_for_no_more(now)

    def _check_behind(self, now: float) -> Effects:
        if self.view.phase is Phase.HELPING and not self.view.run:
            return [] if self.config.awaits_trainer else self.state_sync.hold_for_others(now)
        target = self.view.ahead(now)
        if target is None:
            return []
        effects: Effects = [SetTimer(INFINITY, MATCHMAKING)]
        if self.view.phase is Phase.SEEKING:
            effects.append(Notify(Failed("LeftOut", "the swarm is at another state")))
        self._end_round()
        self.view.has_finished_round = self.view.has_finished_round and target.includes_us
        return effects + self.state_sync.begin(target, now)

    # --- small things -----------------------------------------------------------------------------

    def _end_round(self, *, finished: bool = False) -> None:
        self.asks.end(finished=finished)
        self.pairwise.end()
        self.group_search.end()

    def _next_epoch(self) -> int:
        self.dissemination.sequence += 1
        return self.dissemination.sequence
