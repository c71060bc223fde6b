"""Member: everything one node does in its swarm, as one core.

    helping                                        no trainer: serves records and states
    working  --Contribute-->  seeking  --group-->  exchanging  --mean-->  applying  --NewState--> working
       '---behind---> syncing --Synced, NewState--> working                  |
       '<------------------------GiveUp (the ask failed)---------------------'
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
from shoal.gossip.averaging.all_reduce import Averaging, is_sane
from shoal.gossip.averaging.gather import Gathering
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
from shoal.gossip.member.asks import Exchanges
from shoal.gossip.member.commands import (
    AddAddress,
    Attach,
    Contribute,
    ContributeBody,
    Detach,
    Engage,
    Failed,
    Finish,
    GiveUp,
    Goodbye,
    Hurry,
    Known,
    Measured,
    Met,
    NewState,
    Refused,
    RemoveAddress,
    SetAddresses,
    SetEngine,
)
from shoal.gossip.member.group_search import HURRY, Seeking
from shoal.gossip.member.pairwise_rounds import TIMER as MIXING
from shoal.gossip.member.pairwise_rounds import Mixing
from shoal.gossip.member.run_mismatch import Introductions
from shoal.gossip.member.state_sync import Syncing
from shoal.gossip.membership.company import Policy
from shoal.gossip.membership.dial_plan import ENOUGH, Dice, Discovery
from shoal.gossip.membership.dial_plan import TIMER as DISCOVERY
from shoal.gossip.membership.dissemination import Chatter
from shoal.gossip.membership.presence import PresenceTable
from shoal.gossip.membership.swarm_view import Phase, Standing
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
from shoal.gossip.run_spec import NATIVE
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
    alone: Policy = "wait"
    """What a node does whose company is gone: see company.py."""
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
    ) -> None:
        """`sequence`: larger than any this identity used before."""
        self.me, self.config, self._dice = me, config, dice
        self._has_left = False
        self.at = Standing(me, config.lease, config.alone)
        self.discovery = Discovery(me, dice, config.max_links)
        self.chatter = Chatter(self.at, dice, sequence, config.beat)
        self.serving = Serving(config.serving)
        self.exchanges = Exchanges(self.at, config.patience, self.chatter.tell)
        self.syncing = Syncing(
            self.at, self.serving, self.exchanges.wait.seconds, self.chatter.push, self._check_behind
        )
        self.mixing = Mixing(self.at, config.patience, self._next_epoch)
        self.seeking = Seeking(
            self.at,
            dice,
            self.discovery,
            self.exchanges,
            self.mixing,
            self.chatter.tell,
            patience=config.patience,
            wait_for=config.wait_for,
            wait_seconds=config.wait_seconds,
        )
        self.introductions = Introductions(self.at)
        self._next_beat = 0.0
        self._commands: dict[type, Callable[[Any, float], Effects]] = {
            Received: self._received,
            TimerFired: self._timer,
            PeerFound: self._peer_found,
            PeerLost: self._peer_lost,
            DialFailed: self._dial_failed,
            Learned: lambda e, now: self.discovery.add(e.address, e.source, now),
            Attach: self._attach,
            NewState: self._new_state,
            Known: lambda e, now: self.syncing.know(e.chunks, now),
            Contribute: self._contribute,
            ContributeBody: self._contribute,
            Engage: self._engage,
            GiveUp: self._give_up,
            Detach: self._detach,
            Finish: self._finish,
            AddAddress: lambda e, now: self.discovery.add(e.address, e.source, now),
            RemoveAddress: lambda e, now: self._remove_address(e.address),
            SetAddresses: self._set_addresses,
            SetEngine: self._set_engine,
            Measured: self._measured,
            Goodbye: lambda e, now: self._goodbye(),
        }
        self._messages: dict[type, Callable[[PeerId, Any, Data, float], Effects]] = {
            Records: self._records,
            Leave: lambda peer, m, data, now: self._left(peer, now),
            Describe: lambda peer, m, data, now: self.introductions.handle(peer, m),
            Ready: lambda peer, m, data, now: self.seeking.ready(peer, m, now),
            Propose: lambda peer, m, data, now: self.seeking.handle("handle_propose", peer, m, now),
            Accept: lambda peer, m, data, now: self.seeking.handle("handle_accept", peer, m, now),
            Decline: lambda peer, m, data, now: self.seeking.handle("handle_decline", peer, m, now),
            Commit: lambda peer, m, data, now: self.seeking.handle("handle_commit", peer, m, now),
            Want: lambda peer, m, data, now: self.serving.want(peer, m, now),
            Fetch: lambda peer, m, data, now: self.serving.fetch(peer, m, now, yields=self.exchanges.is_busy),
            Wait: self.syncing.handle,
            Offer: self.syncing.handle,
            NotHeld: self.syncing.handle,
            Chunk: self.syncing.handle,
            Push: self.mixing.handle,
            Settle: self.mixing.handle,
            Applied: self.mixing.handle,
        }

    def handle(self, event: Event, now: float) -> Effects:
        """See `shoal.gossip.events`."""
        if self._has_left:
            return []
        effects = self._commands[type(event)](event, now)
        for effect in effects:
            if isinstance(effect, Drop):
                self.at.ban(effect.peer, now)
        if self.serving.is_yielding and not self.exchanges.is_busy:
            effects = [*effects, *self.serving.go_on(now)]
        return effects

    def heard(self, record: Record) -> Records:
        """Return an announcement as the message that it amounts to, and count it."""
        return self.chatter.heard(record)

    def begin(self, now: float) -> Effects:
        """Start the heartbeat."""
        self._next_beat = now
        return [SetTimer(now, BEAT)]

    # --- what others look at ----------------------------------------------------------------------

    @property
    def table(self) -> PresenceTable:
        """The records of all peers that we know of."""
        return self.at.table

    @property
    def sequence(self) -> int:
        """The last number that we gave a word of ours."""
        return self.chatter.sequence

    @property
    def phase(self) -> Phase:
        """What the node is doing."""
        return self.at.phase

    @property
    def run(self) -> bytes:
        """The hash of our run spec; empty without a trainer."""
        return self.at.run

    @property
    def round(self) -> int:
        """How many rounds our state has behind it."""
        return self.at.round

    @property
    def state(self) -> bytes:
        """The hash of our state."""
        return self.at.state

    @property
    def previous(self) -> bytes:
        """The hash of the state that ours was made from."""
        return self.at.previous

    @property
    def exchange(self) -> Averaging | Gathering | None:
        """The exchange that is under way, or the last of this round."""
        return self.exchanges.current

    @property
    def fetching(self) -> Fetching | None:
        """The fetch that is under way."""
        return self.syncing.fetching

    @property
    def feedback(self) -> dict[int, Feedback]:
        """By ask of a round: what lossy codecs owe. The node keeps it over restarts."""
        return self.exchanges.feedback

    # --- commands ---------------------------------------------------------------------------------

    def _attach(self, event: Attach, now: float) -> Effects:
        self.at.run, self.at.spec, self.at.mergeable = event.run, event.spec, event.mergeable
        self.at.together.attach(had_company=event.had_company)
        self.mixing.attach(now)
        # Whoever lacks a link to a member of its group reduces no part of the vector.
        self.discovery.enough = max(ENOUGH, event.spec.group_size * 3 // 2)
        return []

    def _new_state(self, event: NewState, now: float) -> Effects:
        is_fetched = self.at.phase is Phase.SYNCING
        self.at.together.note_state(event.contributors, self.me, is_fetched=is_fetched)
        if is_fetched:
            self.at.company = frozenset()
        else:
            self.at.has_made = self.at.phase is not Phase.HELPING
        self.at.round, self.at.state, self.at.previous = event.round, event.state, event.previous
        self.serving.hold(event.round, event.state, event.previous, event.data, event.leaves)
        self.mixing.note_state(event.data)
        self.at.phase = Phase.WORKING
        # The trainer writes its next contribution where this exchange has its mean.
        self._end_round(finished=True)
        self.syncing.has_state()
        effects = self.seeking.new_round(now) + self._look_for_company(now)
        return [*effects, *self.chatter.push(now), *self._check_behind(now)]

    def _contribute(self, event: Contribute | ContributeBody, now: float) -> Effects:
        if self.at.phase is not Phase.WORKING and self.at.phase is not Phase.APPLYING:
            return [Notify(Failed("LeftOut", "the swarm went on without this node"))]
        if isinstance(event, Contribute) and not is_sane(event.vector):
            text = "this node's own contribution is not finite: lower the learning rate"
            return [Notify(Failed("GossipError", text))]
        effects: Effects = [SetTimer(INFINITY, HURRY)]
        self.exchanges.ask(event, now)
        if self.exchanges.can_go_on(event.index):
            return effects + self.exchanges.go_on(now)
        self.exchanges.drop_last()
        return effects + self.seeking.begin(now)

    def _engage(self, event: Engage, now: float) -> Effects:
        if self.at.phase not in (Phase.WORKING, Phase.EXCHANGING):
            return [Notify(Failed("LeftOut", "the swarm went on without this node"))]
        self.at.phase = Phase.EXCHANGING
        return [SetTimer(INFINITY, HURRY)]

    def _give_up(self, event: GiveUp, now: float) -> Effects:
        if self.at.phase in (Phase.SYNCING, Phase.FINISHED):
            return []
        if self.at.spec is not None and self.at.spec.engine != NATIVE:
            self.at.together.note_failure()
        effects = self.exchanges.abandon()
        self._end_round()
        self.at.phase = Phase.WORKING
        return effects + self._check_behind(now)

    def _detach(self, event: Detach, now: float) -> Effects:
        effects = self.exchanges.abandon()
        self._end_round()
        self.syncing.stop()
        # Who trains no more counts no more than who comes back, but for what the whole run came to.
        self.at.has_made = self.at.has_made and self.at.phase is Phase.FINISHED
        self.at.phase = Phase.HELPING
        return [*effects, *self.chatter.push(now)]

    def _finish(self, event: Finish, now: float) -> Effects:
        self.at.phase = Phase.FINISHED
        return [*self.chatter.push(now), *self._check_behind(now)]

    def _remove_address(self, address: str) -> Effects:
        self.discovery.remove(address)
        return []

    def _set_addresses(self, event: SetAddresses, now: float) -> Effects:
        self.at.addresses = event.addresses[:8]
        return self.chatter.push(now)

    def _set_engine(self, event: SetEngine, now: float) -> Effects:
        if self.at.engine == event.addresses[:4]:
            return []
        self.at.engine = event.addresses[:4]
        return self.chatter.push(now)

    def _measured(self, event: Measured, now: float) -> Effects:
        self.seeking.uplink.observe(event.n_bytes, event.busy, self.exchanges.load)
        return []

    def _goodbye(self) -> Effects:
        # A further word would bring us back into the tables of our peers.
        self._has_left = True
        return [Send(peer, Leave()) for peer in sorted(self.at.table.connected)]

    # --- links ------------------------------------------------------------------------------------

    def _peer_found(self, event: PeerFound, now: float) -> Effects:
        self.at.table.connected.add(event.peer)
        self.at.note_link(event.peer)
        effects = self.discovery.found(event.peer, event.address, now)
        effects += self.chatter.greet(event.peer, now)
        return effects + self.mixing.found(event.peer, now) + self._view_changed(now)

    def _peer_lost(self, event: PeerLost, now: float) -> Effects:
        self.at.table.connected.discard(event.peer)
        # Most links end with their peer. If it lives, others bring its next record within a beat.
        self.at.table.forget(event.peer, now)
        return self.discovery.lost(event.peer, now) + self._gone(event.peer, now)

    def _dial_failed(self, event: DialFailed, now: float) -> Effects:
        return self.discovery.failed(event.address, event.reason, now) + self.seeking.wait_for_no_more(now)

    def _left(self, peer: PeerId, now: float) -> Effects:
        self.at.table.forget(peer, now)
        self.at.together.left(peer)
        return self._gone(peer, now, is_dead=True)

    def _gone(self, peer: PeerId, now: float, *, is_dead: bool = False) -> Effects:
        effects = self.mixing.lost(peer, now, is_dead=is_dead)
        self.serving.lost(peer)
        effects += self.seeking.lost(peer, now)
        return effects + self.exchanges.lost(peer, now) + self.syncing.lost(peer, now)

    # --- messages ---------------------------------------------------------------------------------

    def _received(self, event: Received, now: float) -> Effects:
        self.at.late.discard(event.peer)
        self.at.table.touch(event.peer, now)
        if isinstance(event.message, Exchange):
            return self._to_exchange(event, now)
        return self._messages[type(event.message)](event.peer, event.message, event.data, now)

    def _records(self, peer: PeerId, message: Records, data: Data, now: float) -> Effects:
        effects: Effects = []
        changed = False
        for record, age in message.records:
            if record.author == self.me:
                if record.sequence > self.chatter.sequence:
                    # A twin, or ourselves before a restart with a clock set back: nobody would listen.
                    self.chatter.sequence = record.sequence
                    reason = "another node runs with this node's identity: give one of them a new key"
                    effects += [*self.chatter.push(now), Notify(Refused(record.author, reason))]
                continue
            if self.at.table.is_of_before(record, age, now, teller=peer):
                # Shown it, its author says something newer.
                effects.append(Send(record.author, Records(((record, age),))))
                continue
            known = self.at.table.get(record.author)
            if not self.at.table.update(record, age, now, teller=peer):
                if record.author == peer and known is not None and now - known.heard >= known.lease:
                    # Started again with a clock set back. What we know is too old to be handed on, and is
                    # prolonged whenever its author speaks: shown it, that says something newer.
                    effects.append(Send(peer, Records(((known.record, 0.0),))))
                continue
            if known is not None and known.presence == record.presence:
                continue
            changed = True
            effects += self.seeking.moved(record.author, record.presence, now)
            addresses = record.presence.addresses
            if record.author not in self.at.table.connected:
                effects += self.discovery.add_all(addresses, "peers", now)
            elif addresses and (known is None or known.presence.addresses != addresses):
                effects.append(Notify(Met(record.author, addresses)))
            if record.author == peer:
                effects += self.introductions.met(peer, record.presence, now)
                if known is None and not self.at.is_crowd():
                    effects += self.chatter.introduce(record, age)
        if message.reply:
            effects += self.chatter.answer(peer, now)
        return effects + (self._view_changed(now) if changed else [])

    def _to_exchange(self, event: Received, now: float) -> Effects:
        effects, is_kept = self.seeking.overtaken(event, now)
        return effects if is_kept else effects + self.exchanges.receive(event, now)

    # --- timers -----------------------------------------------------------------------------------

    def _timer(self, event: TimerFired, now: float) -> Effects:
        if event.name == BEAT:
            return self._beat(now)
        if event.name == DISCOVERY:
            return self.discovery.plan(now) + self.seeking.wait_for_no_more(now)
        if event.name == MATCHMAKING:
            return self.seeking.timer(now)
        if event.name in EXCHANGING:
            return self.exchanges.timer(event.name, now)
        if event.name == PAIRWISE:
            return self.mixing.timer(now)
        if event.name == MIXING:
            return self.mixing.grace_ends(now)
        if event.name == SERVING:
            return self.serving.go_on(now, yields=self.exchanges.is_busy)
        if event.name == TRANSFER:
            return self.syncing.timer(now)
        if event.name == HURRY and self.at.phase is Phase.WORKING:
            return [Notify(Hurry())]
        return []

    def _beat(self, now: float) -> Effects:
        effects: Effects = []
        if now > self._next_beat + self.config.beat:
            self.at.table.forgive(now - self._next_beat, now)
        if self.at.table.expire(now):
            effects += self._view_changed(now)
        self.serving.expire(now)
        effects += self._look_for_company(now)
        effects += self.chatter.beat(now, seeks_links=self.discovery.seeks_links)
        jitter = 0.8 + 0.4 * self._dice.random()
        self._next_beat = now + self.config.beat * jitter
        return [*effects, *self._check_behind(now), SetTimer(self._next_beat, BEAT)]

    def _look_for_company(self, now: float) -> Effects:
        if not self.at.run or self.at.phase in (Phase.HELPING, Phase.FINISHED):
            return []
        together, others = self.at.together, len(self.at.linked_trainers())
        if self.at.spec is not None and self.at.spec.engine != NATIVE:
            # Those of another engine that are no nodes are linked with nobody here.
            others += together.n_others
        said = together.look(others, self.at.round, now)
        return said + self.seeking.look_again(now)

    # --- the view ---------------------------------------------------------------------------------

    def _view_changed(self, now: float) -> Effects:
        effects = self.seeking.view_changed(now)
        if self.at.is_crowd() and self.at.phase is not Phase.SYNCING:
            # Where there are many something changes all the time, and nothing that cannot wait for the beat.
            return effects
        effects += self.syncing.look_for_donors(now) + self._check_behind(now)
        return effects + self.seeking.wait_for_no_more(now)

    def _check_behind(self, now: float) -> Effects:
        if self.at.phase is Phase.HELPING and not self.at.run:
            return [] if self.config.awaits_trainer else self.syncing.hold_for_others(now)
        target = self.at.ahead(now)
        if target is None:
            return []
        effects: Effects = [SetTimer(INFINITY, MATCHMAKING)]
        if self.at.phase is Phase.SEEKING:
            effects.append(Notify(Failed("LeftOut", "the swarm is at another state")))
        self._end_round()
        self.at.has_made = self.at.has_made and target.includes_us
        return effects + self.syncing.begin(target, now)

    # --- small things -----------------------------------------------------------------------------

    def _end_round(self, *, finished: bool = False) -> None:
        self.exchanges.end(finished=finished)
        self.mixing.end()
        self.seeking.end()

    def _next_epoch(self) -> int:
        self.chatter.sequence += 1
        return self.chatter.sequence
