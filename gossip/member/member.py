"""Member: everything one node does in its swarm, as one core.

It composes the cores of presence, discovery, matchmaking, averaging and transfer, hands each message
to the one it belongs to, and decides when this node is behind: when the swarm's state (presence.py) is
not ours and we are not in the middle of an exchange that will get us there.

The file is long because every event of a node comes in here; what is decided about one is in the core that
it is handed to.
"""

import logging
from typing import Final

import msgspec
import numpy as np

from shoal.crypto.keys import PeerId, short
from shoal.gossip.admission.admission import Admission
from shoal.gossip.averaging.announcing import is_sane
from shoal.gossip.averaging.exchange import GroupExchange
from shoal.gossip.averaging.tensor_codecs import Feedback
from shoal.gossip.calls.calls import Calls
from shoal.gossip.deadlines import SLOWEST_LINE
from shoal.gossip.events import (
    BANNED,
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
    Vector,
)
from shoal.gossip.group import Group
from shoal.gossip.lifecycle import Phase, Trigger
from shoal.gossip.member.asks import AskQueue
from shoal.gossip.member.base_sync import BaseSync
from shoal.gossip.member.calling import Calling
from shoal.gossip.member.commands import (
    AbortRound,
    Acquainted,
    AddAddress,
    AnswerCalls,
    Attach,
    AttendRound,
    BeginExternalExchange,
    CachedChunks,
    CallPeer,
    Command,
    Contribute,
    ContributeBody,
    Detach,
    Event,
    Failed,
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
    PeerAddresses,
    Refused,
    RefuseState,
    RemoveAddress,
    ResetTrust,
    SetAddresses,
    SetEngine,
    Submit,
    Synced,
    WantCalls,
)
from shoal.gossip.member.group_search import GroupSearch
from shoal.gossip.member.pairwise_rounds import PairwiseRounds
from shoal.gossip.member.roster_sync import RosterSync
from shoal.gossip.member.run_mismatch import RunMismatch
from shoal.gossip.member.state_sync import StateSync
from shoal.gossip.membership.colleagues import LEAST_ROUNDS, LEAST_SECONDS, Colleagues
from shoal.gossip.membership.company import Policy
from shoal.gossip.membership.dial_plan import ENOUGH, DialPlan, Dice
from shoal.gossip.membership.dissemination import Dissemination
from shoal.gossip.membership.foreign_lineages import ForeignLineages
from shoal.gossip.membership.nearby import Nearby
from shoal.gossip.membership.presence import PresenceTable
from shoal.gossip.membership.swarm_view import SwarmView
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
    PeerMessage,
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
from shoal.gossip.run_spec import NATIVE, least_of
from shoal.gossip.sequence import Sequence
from shoal.gossip.state.fetch import Fetching
from shoal.gossip.state.serve import Serving, ServingConfig

log = logging.getLogger(__name__)

OF_OUTSIDERS: Final = (Records, Leave, Describe, RosterMessage)
"""What is listened to, whoever says it."""
EMPTY: Final[Vector] = np.empty(0, dtype=np.float32)
INFINITY: Final = float("inf")


class MemberConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this node behaves among its peers."""

    patience: float = 15.0
    """Seconds without a sign of a wanted peer: what deadlines are at most, and until they are learned."""
    slowest_line: float = SLOWEST_LINE
    """Bytes per second: how slow a line may be, where it is not known yet how long exchanges take."""
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
    colleague_rounds: int = LEAST_ROUNDS
    """Finished rounds with this node that make a peer a colleague of it: see colleagues.py."""
    colleague_seconds: float = LEAST_SECONDS
    """And over how many seconds."""


class Member:
    """One node in its swarm. See the module's docstring."""

    def __init__(
        self,
        me: PeerId,
        config: MemberConfig,
        dice: Dice,
        sequence: int,
        *,
        admission: Admission | None = None,
    ) -> None:
        """`sequence`: larger than any this identity used before."""
        self.me, self.config, self._dice = me, config, dice
        self._has_left = False
        self.admission = admission or Admission(config.max_links)
        colleagues = Colleagues(me, config.colleague_rounds, config.colleague_seconds)
        self.view = SwarmView(me, config.lease, self.admission, config.alone, colleagues)
        self.dial_plan = DialPlan(me, dice, config.max_links)
        self.nearby = Nearby(me)
        self._numbers = Sequence(sequence)
        self.dissemination = Dissemination(self.view, dice, self._numbers, config.beat)
        self.serving = Serving(config.serving, self.admission)
        self.asks = AskQueue(self.view, config.patience, self.dissemination, config.slowest_line)
        self.state_sync = StateSync(self.view, self.serving, self.asks.wait, self.dissemination)
        self.base_sync = BaseSync(self.view, self.serving, self.asks.wait)
        self.pairwise = PairwiseRounds(self.view, config.patience, self._numbers, config.slowest_line)
        self.admission.keep_places("colleagues", self.view.colleagues.colleagues)
        self.admission.keep_places("named, or of the book", self.dial_plan.known)
        self.group_search = GroupSearch(
            self.view,
            dice,
            self.dial_plan,
            self.dissemination,
            self.nearby,
            patience=config.patience,
            wait_for=config.wait_for,
            wait_seconds=config.wait_seconds,
        )
        linked = self.view.table.connected
        self.calls = Calls(me, config.patience, config.lease, linked, self.admission)
        self.calling = Calling(self.view, self.group_search, self.calls)
        self.run_mismatch = RunMismatch(self.view)
        self.roster_sync = RosterSync(self.view, dice)
        self.foreign_lineages = ForeignLineages(self.view)
        self._next_beat = 0.0

    def handle(self, event: Event, now: float) -> Effects:
        """See `shoal.gossip.events`."""
        if self._has_left:
            return []
        effects = self._take(event, now)
        if self.roster_sync.has_changed:
            effects += self._roster_changed(now)
        effects += self._settle(now)
        for effect in effects:
            if isinstance(effect, Drop):
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
            case Contribute() | ContributeBody():
                return self._contribute(event, now)
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

    # --- what others look at ----------------------------------------------------------------------

    @property
    def table(self) -> PresenceTable:
        """The records of all peers that we know of."""
        return self.view.table

    @property
    def sequence(self) -> int:
        """The last number that we gave a word of ours."""
        return self._numbers.last

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
    def exchange(self) -> GroupExchange | None:
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
        self.view.attach(event.run, event.spec, mergeable=event.mergeable)
        self.view.together.attach(had_company=event.had_company)
        effects = self.roster_sync.attach(event.spec.charter, now)
        self.view.colleagues.restore(event.known)
        self.view.is_unanchored = event.is_unanchored
        self.pairwise.attach(now)
        self.asks.attach(event.spec)
        # Whoever lacks a link to a member of its group reduces no part of the vector.
        self.dial_plan.enough = max(ENOUGH, event.spec.group_size * 3 // 2)
        return effects

    def _new_state(self, event: NewState, now: float) -> Effects:
        is_fetched = self.phase is Phase.SYNCING
        made_with = self.view.linked_trainers() if is_fetched else event.contributors
        self.view.together.note_state(made_with, self.me, is_fetched=is_fetched)
        self.view.take_state(event.round, event.state, event.previous)
        self.serving.hold(event.round, event.state, event.previous, event.data, event.leaves)
        self.pairwise.note_state(event.data)
        self.asks.note_state(event.data, is_fetched=is_fetched)
        self._enter(Trigger.STATE_TAKEN)
        # The trainer writes its next contribution where this exchange has its mean.
        self._end_round(finished=True)
        self.state_sync.has_state()
        effects = self._note_colleagues(event, now, is_fetched=is_fetched)
        effects += self.group_search.new_round(now, is_fetched=is_fetched) + self._look_for_company(now)
        return [*effects, *self.dissemination.push(now), *self._check_behind(now)]

    def _note_colleagues(self, event: NewState, now: float, *, is_fetched: bool) -> Effects:
        """Take note of with whom a round was finished, or of who gave us our state."""
        view = self.view
        if is_fetched:
            for peer in self.state_sync.take_served():
                view.doubts.trust(peer)
        elif set(event.contributors) <= {self.me}:
            return []
        else:
            view.colleagues.note_round(event.contributors, now, event.round)
            view.is_unanchored = view.is_unanchored and not view.colleagues.colleagues()
        return [Notify(Acquainted(view.colleagues.known(), view.is_unanchored))]

    def _refuse_state(self, event: RefuseState, now: float) -> Effects:
        served = self.state_sync.take_served()
        for peer in served if event.fault else ():
            self.admission.named_faults.add(peer, event.fault, now)
        self.view.refuse(event.state, now)
        if self.phase is not Phase.SYNCING:
            return []
        self._enter(Trigger.FETCH_FAILED)
        return [*self.dissemination.push(now), *self._check_behind(now)]

    def _contribute(self, event: Contribute | ContributeBody, now: float) -> Effects:
        if self.phase not in (Phase.WORKING, Phase.APPLYING):
            return [Notify(Failed("LeftOut", "the swarm went on without this node"))]
        if isinstance(event, Contribute) and not is_sane(event.vector):
            text = "this node's own contribution is not finite: lower the learning rate"
            return [Notify(Failed("NotFinite", text))]
        effects: Effects = [SetTimer(INFINITY, Timer.FINISH_EARLY)]
        self.asks.ask(event, now)
        if self.asks.can_go_on(event.index):
            self._enter(Trigger.EXCHANGE_BEGUN)
            return effects + self.asks.go_on(now)
        self.asks.drop_last()
        self._enter(Trigger.SEARCH_BEGUN)
        return effects + self.group_search.begin(self.asks.past, now)

    def _begin_external_exchange(self) -> Effects:
        if self.phase not in (Phase.WORKING, Phase.EXCHANGING):
            return [Notify(Failed("LeftOut", "the swarm went on without this node"))]
        self._enter(Trigger.EXCHANGE_BEGUN)
        return [SetTimer(INFINITY, Timer.FINISH_EARLY)]

    def _abort_round(self, now: float) -> Effects:
        if self.phase in (Phase.SYNCING, Phase.FINISHED):
            return []
        if self.view.spec is not None and self.view.spec.engine != NATIVE:
            self.view.together.note_failure()
        effects = self.asks.abandon()
        self._end_round()
        self._enter(Trigger.ROUND_ABORTED)
        return effects + self._check_behind(now)

    def _detach(self, now: float) -> Effects:
        effects = self.asks.abandon()
        self._end_round()
        self.state_sync.stop()
        self.view.trainer_left()
        self._enter(Trigger.TRAINER_LEFT)
        effects += self.calls.detach(now)
        return [*effects, *self.dissemination.push(now)]

    # --- links ------------------------------------------------------------------------------------

    def _peer_found(self, event: PeerFound, now: float) -> Effects:
        if self.admission.is_refused(event.peer, now):
            return [*self.dial_plan.found(event.peer, event.address, now), Drop(event.peer, BANNED)]
        self.view.link_up(event.peer)
        self.view.together.found(event.peer)
        effects = self.dial_plan.found(event.peer, event.address, now)
        effects += self.nearby.link_up(event.peer, event.host, is_relayed=event.link == "relayed")
        self.view.colleagues.named = self.dial_plan.named()
        effects += self.dissemination.greet(event.peer, now)
        effects += self.roster_sync.greet(event.peer, now)
        effects += self.calls.found(event.peer, now)
        return effects + self.pairwise.found(event.peer, now) + self._view_changed(now)

    def _peer_lost(self, peer: PeerId, now: float) -> Effects:
        self.view.link_down(peer, now)
        self.nearby.link_down(peer)
        return self.dial_plan.lost(peer, now) + self._gone(peer, now)

    def _left(self, peer: PeerId, now: float) -> Effects:
        self.view.table.forget(peer, now)
        self.view.together.left(peer)
        return self._gone(peer, now, is_dead=True)

    def _gone(self, peer: PeerId, now: float, *, is_dead: bool = False) -> Effects:
        effects = [*self.pairwise.lost(peer, now, is_dead=is_dead), *self.calls.lost(peer, now)]
        self.serving.lost(peer)
        # A group that comes about without it begins its exchange, before that loses it too.
        effects = [*effects, *self.group_search.lost(peer, now), *self._settle(now)]
        effects += self.asks.lost(peer, now) + self.state_sync.lost(peer, now)
        return effects + self.base_sync.lost(peer, now)

    # --- messages ---------------------------------------------------------------------------------

    def _received(self, event: Received, now: float) -> Effects:
        peer, message = event.peer, event.message
        self.view.heard_from(peer, now)
        if not isinstance(message, OF_OUTSIDERS) and not self.admission.is_inside(peer, now):
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

    def _near(self, peer: PeerId, message: Near, now: float) -> Effects:
        before = self.nearby.said_by(peer)
        effects = self.nearby.take(peer, message)
        if (said := self.nearby.said_by(peer)) != before:
            effects.append(Notify(PeerAddresses(peer, said)))
        return effects + self._hear(peer, message.addresses, now)

    def _hear(self, teller: PeerId, addresses: tuple[str, ...], now: float) -> Effects:
        """Take note of addresses that a linked peer named."""
        return self.dial_plan.hear(addresses, teller, self.nearby.host_of(teller), now)

    def _from_outsider(self, peer: PeerId, message: PeerMessage, now: float) -> Effects:
        """Refuse what only those do that take part in the run."""
        self.admission.count("not on the roster")
        return [Send(peer, NotHeld(message.state))] if isinstance(message, Want) else []

    def _roster_changed(self, now: float) -> Effects:
        """Greet those that have come to take part, and forget those that no longer do."""
        sync, effects = self.roster_sync, Effects()
        left, sync.left = sync.left, []
        for peer in left:
            effects += self._left(peer, now)
        joined, sync.joined = sync.joined, []
        for peer in joined:
            # What it said before it was one of us was not listened to.
            effects += [*self.roster_sync.greet(peer, now), *self.dissemination.ask(peer, now)]
        return effects + (self._view_changed(now) if left else [])

    def _records(self, peer: PeerId, message: Records, now: float) -> Effects:
        effects: Effects = []
        changed = False
        for record, age in message.records:
            if record.author == self.me:
                if record.sequence > self._numbers.last:
                    # A twin, or ourselves before a restart with a clock set back: nobody would listen.
                    self._numbers.last = record.sequence
                    reason = "another node runs with this node's identity: give one of them a new key"
                    effects += [*self.dissemination.push(now), Notify(Refused(record.author, reason))]
                continue
            if (
                self.run
                and record.presence.run == self.run
                and not self.admission.is_inside(record.author, now)
            ):
                continue  # it says that it is in our run, and may not be: nobody goes by that
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
                if record.author not in self.view.table.connected and self.dial_plan.seeks_links:
                    # A teller may name few at a time.
                    effects += self._hear(peer, record.presence.addresses, now)
                continue
            changed = True
            effects += self.group_search.moved(record.author, record.presence, now)
            addresses = record.presence.addresses
            if record.author not in self.view.table.connected:
                effects += self._hear(peer, addresses, now)
            elif addresses and (known is None or known.presence.addresses != addresses):
                effects.append(Notify(PeerAddresses(record.author, addresses)))
            if record.author == peer:
                effects += self.run_mismatch.met(peer, record.presence, now)
                if known is None and not self.view.is_large_swarm():
                    effects += self.dissemination.introduce(record, age)
        if message.reply:
            effects += self.dissemination.answer(peer, now)
        self.foreign_lineages.heard((record for record, _ in message.records), now)
        return effects + (self._view_changed(now) if changed else [])

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

    # --- what the parts came to -------------------------------------------------------------------

    def _settle(self, now: float) -> Effects:
        """Act on what came about: in a search, then in the trainer's ask, then in a fetch."""
        effects: Effects = []
        if self.group_search.is_stale:
            self.asks.asked_at = now
            effects += self.group_search.begin(self.asks.past, now)
        if (group := self.group_search.formed) is not None:
            effects += self._group_formed(group, now)
        if self.asks.is_answered:
            self._enter(Trigger.ASK_ENDED)
            effects += self.asks.answer(now)
        if self.pairwise.is_answered:
            self._enter(Trigger.ASK_ENDED)
            effects += self.pairwise.answer(now)
        if self.state_sync.is_over:
            effects += self._fetch_ended(now)
        return effects + self.calling.settle(now)

    def _group_formed(self, group: Group, now: float) -> Effects:
        """Begin the exchange."""
        log.debug("%s: round %d: a group of %d", short(self.me), group.round, len(group.members))
        asks, spec = self.asks, self.view.spec
        effects = self.group_search.learn(asks.asked_at, now)
        if self.view.pattern.has_own_states and isinstance(asks.pending, Contribute):
            if not self.view.pattern.is_in_group(is_last=self.view.is_last):
                self._enter(Trigger.EXCHANGE_BEGUN)
                return effects + self.pairwise.begin(asks.pending, asks.asked_at, now)
            asks.ask(self.pairwise.close(asks.pending), asks.asked_at)
        if spec is not None and len(group.members) < (least := least_of(spec)):
            self._enter(Trigger.ASK_ENDED)
            text = f"{len(group.members)} of at least {least} peers were ready"
            return [*effects, Notify(Failed("TooFew", text))]
        self._enter(Trigger.EXCHANGE_BEGUN)
        return effects + asks.begin(group, now)

    def _fetch_ended(self, now: float) -> Effects:
        """Hand a state on to the trainer, or keep it for others, or look whether we still need one."""
        fetched, effects = self.state_sync.take_result(now)
        if self.phase is Phase.HELPING:
            return [*effects, *(self._hold(fetched, now) if fetched.is_done else [])]
        if fetched.is_done:
            got = (fetched.round, fetched.state, fetched.previous, fetched.vector)
            apart = self.view.rounds_apart(fetched.round)
            found = Synced(*got, fetched.served, fetched.reused, fetched.leaves, apart)
            return [*effects, Notify(found)]
        self._enter(Trigger.FETCH_FAILED)
        ours = Synced(self.round, self.state, self.previous, EMPTY)
        return [*effects, *(self._check_behind(now) or [Notify(ours)])]

    def _hold(self, fetched: Fetching, now: float) -> Effects:
        kept = (fetched.round, fetched.state, fetched.previous)
        self.view.hold_state(*kept)
        self.serving.hold(*kept, fetched.vector.data, fetched.leaves, keeps_former=False)
        return self.dissemination.push(now)

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

    def _look_for_company(self, now: float) -> Effects:
        if not self.view.run or self.phase in (Phase.HELPING, Phase.FINISHED):
            return []
        together, others = self.view.together, len(self.view.linked_trainers())
        together.stopped(self.view.linked_helpers())
        if self.view.spec is not None and self.view.spec.engine != NATIVE:
            # Those of another engine that are no nodes are linked with nobody here.
            others += together.n_others
        said = together.look(others, self.round, now)
        self.group_search.look_again(now)
        return said + self._settle(now)

    # --- the view ---------------------------------------------------------------------------------

    def _view_changed(self, now: float) -> Effects:
        effects = [*self.group_search.view_changed(now), *self._settle(now), *self.base_sync.look(now)]
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
        effects: Effects = [SetTimer(INFINITY, Timer.MATCHMAKING)]
        if self.phase is Phase.SEEKING:
            effects.append(Notify(Failed("LeftOut", "the swarm is at another state")))
        self._end_round()
        self.view.follow(target)
        self._enter(Trigger.FELL_BEHIND)
        return effects + self.state_sync.begin(target, now)

    # --- small things -----------------------------------------------------------------------------

    def _end_round(self, *, finished: bool = False) -> None:
        self.asks.end(finished=finished)
        self.pairwise.end()
        self.group_search.end()
        self.calling.new_round()

    def _enter(self, trigger: Trigger) -> None:
        self.view.lifecycle.enter(trigger)
