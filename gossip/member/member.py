"""Member: everything one node does in its swarm, as one core.

It composes the cores of presence, discovery, matchmaking, averaging and transfer, hands each message
to the one it belongs to, and decides when this node is behind: when the swarm's state (presence.py) is
not ours and we are not in the middle of an exchange that will get us there.

Every event of a node comes in here. What is decided about one is in the core that it is handed to, or in
own_round.py and neighbours.py, where it concerns several.
"""

from typing import Final

from shoal.gossip.events import (
    Arriving,
    DialFailed,
    Drop,
    Effects,
    Learned,
    Notify,
    PeerFound,
    PeerLost,
    Received,
    Send,
    SetTimer,
    Timer,
    TimerFired,
)
from shoal.gossip.lifecycle import Phase, Trigger
from shoal.gossip.member.commands import (
    AbortRound,
    AddAddress,
    AnswerCalls,
    Attach,
    AttendRound,
    BeginExternalExchange,
    CachedChunks,
    CallPeer,
    Command,
    Contribution,
    Detach,
    Event,
    FetchBase,
    Finish,
    FinishEarly,
    Goodbye,
    HoldBase,
    JoinBy,
    LeaveRole,
    LookForRole,
    Measured,
    NewState,
    OfferRoles,
    RefuseState,
    RemoveAddress,
    ResetTrust,
    SetAddresses,
    SetEngine,
    Submit,
    WantCalls,
)
from shoal.gossip.member.neighbours import Neighbours
from shoal.gossip.messages import (
    Accept,
    Answer,
    Applied,
    Call,
    Chunk,
    Coming,
    Commit,
    Decline,
    Describe,
    Exchange,
    Fetch,
    Leave,
    Near,
    NotHeld,
    Offer,
    Propose,
    Push,
    Ready,
    Record,
    Records,
    Roles,
    RosterDigest,
    RosterHave,
    RosterKeys,
    RosterMessage,
    RosterNews,
    Settle,
    Shown,
    Unheard,
    Unserved,
    Wait,
    Want,
)

OF_OUTSIDERS: Final = (Records, Leave, Describe, RosterMessage)
"""What is listened to, whoever says it."""


class Member(Neighbours):
    """One node in its swarm. See the module's docstring."""

    def handle(self, event: Event, now: float) -> Effects:
        """See `shoal.gossip.events`."""
        if self._has_left:
            return []
        effects = self._take(event, now)
        if self.roster_sync.joined or self.roster_sync.left:
            effects += self._roster_changed(now)
        effects += self._settle(now)
        for effect in effects:
            if type(effect) is Drop:
                self.admission.ban(effect.peer, now)
        if self.serving.is_yielding and not self.asks.is_busy:
            effects += self.serving.go_on(now)
        return effects

    def _take(self, event: Event, now: float) -> Effects:
        match event:
            case Received():
                return self._received(event, now)
            case Arriving():
                self.asks.arriving(event.peer, event.n_bytes, now)
                self.state_sync.arriving(event.peer, now)
                self.calls.arriving(event.peer, now)
                self.base_sync.arriving(event.peer, now)
                return self.pairwise.arriving(event.peer, event.n_bytes, now)
            case TimerFired():
                return self._timer(event.name, now)
            case PeerFound():
                return self._peer_found(event, now)
            case PeerLost():
                return self._peer_lost(event.peer, now)
            case DialFailed():
                failed = self.dial_plan.failed(event.address, event.reason, now)
                return failed + self.group_search.wait_for_no_more(now)
            case Learned() | AddAddress():
                effects = self.dial_plan.add(event.address, event.source, now)
                self.view.colleagues.named = self.dial_plan.named()
                return effects
            case _:
                return self._command(event, now)

    def _command(self, event: Command, now: float) -> Effects:
        if isinstance(event, Contribution):
            return self._contribute(event, now)
        match event:
            case Attach():
                return self._attach(event, now)
            case NewState():
                return self._new_state(event, now)
            case RefuseState():
                return self._refuse_state(event, now)
            case ResetTrust():
                self.view.reset_trust()
                return self._check_behind(now)
            case CachedChunks():
                return self.state_sync.know(event.chunks, now)
            case FetchBase():
                return self.base_sync.begin(event.base, now)
            case HoldBase():
                self.serving.hold_base(event.base)
                return []
            case BeginExternalExchange():
                return self._begin_external_exchange()
            case AbortRound():
                return self._abort_round(now)
            case Detach():
                return self._detach(now)
            case Finish():
                self._enter(Trigger.RUN_FINISHED)
                return [*self.dissemination.push(now), *self._check_behind(now)]
            case RemoveAddress():
                self.dial_plan.remove(event.address)
                self.view.colleagues.named = self.dial_plan.named()
                return []
            case SetAddresses():
                everyone, effects = self.nearby.set_own(event.addresses, event.here)
                self.dial_plan.here = event.here
                self.view.set_addresses(everyone)
                return [*self.dissemination.push(now), *effects]
            case SetEngine():
                return self.dissemination.push(now) if self.view.set_engine(event.addresses) else []
            case Measured():
                self.group_search.uplink.observe(event.n_bytes, event.busy, self.asks.load)
                return []
            case OfferRoles() | CallPeer() | WantCalls() | AnswerCalls() | LookForRole() | LeaveRole():
                return self.calling.command(event, now)
            case AttendRound():
                return self.calling.command(event, now)
            case Submit():
                return self.roster_sync.submitted(event.words, now)
            case JoinBy():
                return self.roster_sync.join_by(event.redeem, now)
            case Goodbye():
                # A further word would bring us back into the tables of our peers.
                self._has_left = True
                return [Send(peer, Leave()) for peer in sorted(self.view.table.connected)]

    def heard(self, record: Record) -> Records:
        """Return an announcement as the message that it amounts to, and count it."""
        return self.dissemination.heard(record)

    def begin(self, now: float) -> Effects:
        """Start the heartbeat."""
        self._next_beat = now
        return [SetTimer(now, Timer.BEAT)]

    # --- messages ---------------------------------------------------------------------------------

    def _received(self, event: Received, now: float) -> Effects:
        peer, message = event.peer, event.message
        self.view.heard_from(peer, now)
        if not self.admission.is_inside(peer, now) and not isinstance(message, OF_OUTSIDERS):
            return self._from_outsider(peer, message, now)
        match message:
            case Exchange():
                return self._to_exchange(event, message, now)
            case Records():
                return self._records(peer, message, now)
            case Near():
                return self._near(peer, message, now)
            case Leave():
                return self._left(peer, now)
            case Describe():
                return self.run_mismatch.handle(peer, message)
            case RosterNews() | RosterDigest() | RosterHave() | RosterKeys():
                return self.roster_sync.handle(peer, message, now)
            case Ready():
                return self.group_search.ready(peer, message, now, event.head)
            case Propose() | Accept() | Decline() | Commit() | Unheard() | Shown():
                return self.group_search.handle(peer, message, now, event.head)
            case Want():
                return self.serving.want(peer, message, now)
            case Fetch():
                return self.serving.fetch(peer, message, now, yields=self.asks.is_busy)
            case Wait() | Offer() | NotHeld() | Chunk() if self.base_sync.is_of(message.state):
                return self.base_sync.handle(peer, message, event.data, now)
            case Wait() | Offer() | NotHeld() | Chunk():
                return self.state_sync.handle(peer, message, event.data, now)
            case Push() | Settle() | Applied() | Coming():
                return self.pairwise.handle(peer, message, event.data, now)
            case Roles() | Call() | Answer() | Unserved():
                return self.calls.handle(peer, message, event.data, now)

    def _to_exchange(self, event: Received, message: Exchange, now: float) -> Effects:
        search = self.group_search.under_way
        if search is None:
            return self.asks.receive(event, now)
        if not search.matches(message.group):
            # Its commit may be on its way to us, in the other lane or from another peer.
            self.asks.keep(event)
            return search.ask_about_group(event.peer, now)
        effects = search.form_promised(now)
        return [*effects, *self._settle(now), *self.asks.receive(event, now)]

    # --- timers -----------------------------------------------------------------------------------

    def _timer(self, name: Timer, now: float) -> Effects:
        match name:
            case Timer.BEAT:
                return self._beat(now)
            case Timer.DIALS:
                return self.dial_plan.plan(now) + self.group_search.wait_for_no_more(now)
            case Timer.MATCHMAKING:
                return self.group_search.timer(now)
            case Timer.ALL_REDUCE | Timer.GATHER:
                return self.asks.timer(name, now)
            case Timer.PUSH_SUM:
                return self.pairwise.timer(now)
            case Timer.PUSH_SUM_GRACE:
                return self.pairwise.grace_ends(now)
            case Timer.SERVING:
                return self.serving.go_on(now, yields=self.asks.is_busy)
            case Timer.FETCH:
                return self.state_sync.timer(now)
            case Timer.CALLS:
                return self.calls.timer(now)
            case Timer.BASE:
                return self.base_sync.timer(now)
            case Timer.FINISH_EARLY:
                return [Notify(FinishEarly())] if self.phase is Phase.WORKING else []

    def _beat(self, now: float) -> Effects:
        effects: Effects = []
        if now > self._next_beat + self.config.beat:
            self.view.table.forgive(now - self._next_beat, now)
        if self.view.table.expire(now):
            effects += self._view_changed(now)
        self.serving.expire(now)
        effects += self._look_for_company(now)
        effects += self.roster_sync.beat(now) + self.base_sync.beat(now)
        effects += self.dissemination.beat(now, seeks_links=self.dial_plan.seeks_links)
        jitter = 0.8 + 0.4 * self._dice.random()
        self._next_beat = now + self.config.beat * jitter
        self.foreign_lineages.beat(now)
        effects += self.calls.beat(now)
        return [*effects, *self._check_behind(now), SetTimer(self._next_beat, Timer.BEAT)]
