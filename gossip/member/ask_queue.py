"""AskQueue: the asks of a node's trainer, one after the other, and what comes early or late for them.

A round may have several asks (the trainer wants a mean, then another): exchange `index` of the same group.
Peers can be an ask ahead of us: what they send is kept. They can also wait for us in a group that is
over for us: they are told so, once a second.

An ask may be among some of the group (`Contribute.among`). Its group then has an id of its own, which follows
from the round's and the members, so that several such asks of one index go on side by side.
"""

from collections import OrderedDict
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import msgspec
import numpy as np
from nacl.utils import random

from shoal.crypto.keys import PeerId, short
from shoal.crypto.shamir import Entropy
from shoal.gossip.averaging.all_reduce import AllReduce
from shoal.gossip.averaging.announcing import ExchangeConfig
from shoal.gossip.averaging.attendance import ask_name
from shoal.gossip.averaging.exchange import GroupExchange
from shoal.gossip.averaging.gather import INNER_INDEX, MAX_BODY_BYTES, Gather
from shoal.gossip.averaging.origin import Change, Origin, variances_of
from shoal.gossip.averaging.secure.doubts import Doubts
from shoal.gossip.averaging.secure.masked_sum import MaskedSum
from shoal.gossip.averaging.tensor_codecs import CODECS, Feedback
from shoal.gossip.deadlines import LONGEST, SHORTEST_TIMEOUT, SLOWEST_LINE, Deadline, bulk_seconds
from shoal.gossip.events import Data, Effects, Notify, ProbeLink, Received, Send, Timer
from shoal.gossip.group import Bodies, Exchanged, Group
from shoal.gossip.lifecycle import Phase
from shoal.gossip.matchmaking.bandwidth import load
from shoal.gossip.member.commands import Averaged, Contribute, ContributeBody, Contribution, Failed, Gathered
from shoal.gossip.member.quorum import counting, fewest_of, is_in_all
from shoal.gossip.membership.dissemination import Dissemination
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.messages import Abandon, Cut, Exchange, ExchangeMessage
from shoal.gossip.policies.privacy import privacy_of
from shoal.gossip.run_spec import Combine, RunSpec, least_of

MAX_KEPT_BYTES: Final = 64 << 20
"""What peers may send ahead of us, for an ask that we have not yet reached."""
MAX_KEPT: Final = 4096
"""As many messages."""
MAX_PAST: Final = 64
"""Groups that are remembered as over, so that who still waits there is told, and none is formed again."""
MAX_TOLD: Final = 128
SILENT_EXCHANGES: Final = 3
"""On end, after which a member that was lost each time is named."""
GIVES_NOTHING: Final = "joined groups and gave nothing, three times or more on end"
VOIDS: Final = "was in every secure sum that opened to nonsense, and in none that opened"
LEFT_OUT: Final = "mean without this node's contribution"


@dataclass(frozen=True, slots=True)
class LastChange:
    """What the last mean of an ask was."""

    base: bytes
    """The state that it was measured from."""
    name: bytes
    change: Change
    """Its distance from there."""


class AskQueue:
    """The exchanges of one node. See the module's docstring."""

    def __init__(
        self,
        view: SwarmView,
        patience: float,
        dissemination: Dissemination,
        slowest_line: float = SLOWEST_LINE,
    ) -> None:
        """`patience`: seconds without a byte, the upper bound of the learned deadline.

        `slowest_line`: see `MemberConfig`.
        """
        self.entropy: Entropy = random
        """What masks are drawn from; another for a simulation alone."""
        self.doubts = Doubts()
        """Of this node, about who may have voided secure sums."""
        self._slowest_line = slowest_line
        self._view, self._dissemination = view, dissemination
        self._patience = patience
        self.current: GroupExchange | None = None
        self.asked_at = 0.0
        """When the trainer asked."""
        self.wait = Deadline(patience, floor=SHORTEST_TIMEOUT)
        self._usual: dict[int, Deadline] = {}
        """By ask of a round: how long its exchange takes."""
        self.feedback: dict[int, Feedback] = {}
        """By ask of a round: what lossy codecs owe."""
        self._state: Data = b""
        self._last: dict[int, LastChange] = {}
        """By ask of a round, where the run clips."""
        self._variances: tuple[tuple[int, int], ...] = ()
        self._pending: Contribution | None = None
        self._group: Group | None = None
        """Of the round."""
        self._asked_in: dict[bytes, frozenset[PeerId]] = {}
        """The groups of this round's asks: whom each went on without."""
        self._formed_at = 0.0
        self._linked: frozenset[PeerId] = frozenset()
        """Peers that we had links to when the group began."""
        self._lost: set[PeerId] = set()
        """Who was lost in the last exchange though there was a link."""
        self._n_lost: dict[PeerId, int] = {}
        """By peer linked to us: in how many exchanges on end it was lost."""
        self.past: OrderedDict[bytes, frozenset[PeerId] | None] = OrderedDict()
        """Groups we are in no more: whom they went on without, or nothing where we left."""
        self._told: dict[PeerId, float] = {}
        self._kept: list[Received] = []
        self._kept_bytes = 0

    # --- commands ---------------------------------------------------------------------------------

    def attach(self, spec: RunSpec) -> None:
        """A trainer of a run is there."""
        self._variances = variances_of(spec.tensors)
        self._last.clear()

    def note_state(self, data: Data, *, is_fetched: bool = False) -> None:
        """The trainer's next contributions are made from this state, which stays until the next."""
        self._state = data
        if is_fetched:
            # What led to it is not known here.
            self._last.clear()

    def ask(self, pending: Contribution, now: float) -> None:
        """Take note of what the trainer gives."""
        self._pending, self.asked_at = pending, now

    @property
    def pending(self) -> Contribution | None:
        """What the trainer asked for, and was not answered."""
        return self._pending

    def can_go_on(self, index: int) -> bool:
        """Whether a further ask of the round can use the group of the last."""
        return index > 0 and self.current is not None and self.current.is_over

    def go_on(self, now: float) -> Effects:
        """Begin the next ask in the same group."""
        if self.current is None or self._group is None:
            return []
        self._note_gone(self.current)
        gone = frozenset[PeerId]().union(*self._asked_in.values())
        effects = self.begin(self._group, now)
        for peer in sorted(gone):
            # It may be linked again, but it has left the group.
            effects += self.lost(peer, now)
        return effects

    def begin(self, group: Group, now: float) -> Effects:
        """Begin an exchange in a group that has just been formed, or once more."""
        pending = self._pending
        if pending is None:
            return []
        if self.current is None:
            self._formed_at = now
        wait = self.wait.seconds()
        usual, n_bytes = self._usual_of(pending.index), self._bulk_bytes(pending, len(group.members))
        longest = bulk_seconds(n_bytes, self._slowest_line, usual, self._patience)
        config = ExchangeConfig(
            silence_timeout=wait, slow_timeout=wait, longest=longest, chunk_numel=group.chunk_numel
        )
        self._formed_at = max(self._formed_at, self.asked_at)
        self._linked = frozenset(self._view.table.connected)
        self._group = group
        if isinstance(pending, Contribute):
            group = group.among(pending.among) if pending.among else group
            self.current = self._average(pending, group, config)
        else:
            ask = ask_name("gather", pending.tag)
            self.current = Gather(self._view.me, group, pending.index, pending.body, config, ask)
        effects = self.current.begin(now)
        for peer in group.members:
            if peer != self._view.me and peer not in self._view.reach:
                effects += self.current.lost(peer, now)
        kept, self._kept, self._kept_bytes = self._kept, [], 0
        for event in kept:
            effects += self.receive(event, now)
        return effects

    def _average(self, pending: Contribute, group: Group, config: ExchangeConfig) -> GroupExchange:
        """Return the exchange that makes a mean of what the run's members give."""
        spec, me, origin = self._view.spec, self._view.me, self._origin(pending)
        given = (pending.index, pending.vector, pending.weight)
        if spec is not None:
            # What is as long as the params ends in the model's buffers.
            exact = spec.buffers if pending.vector.size == spec.params_numel else 0
            # Of a statistic, such as a count, nothing but the mean is meant.
            combine: Combine = "mean" if pending.kind == "statistic" else spec.combine
            config = msgspec.structs.replace(config, codec=spec.codec, exact=exact, combine=combine)
            config = msgspec.structs.replace(config, grid_bits=spec.grid_bits, privacy=privacy_of(spec))
        masking = pending.masking
        if masking is not None or (spec is not None and spec.secure):
            config = msgspec.structs.replace(config, masking=masking)
            own = "" if masking is None else f" {masking.name}"
            ask = ask_name("masked_sum", f"{pending.vector.size} {pending.tag}{own}")
            hidden = (*given, config, origin, ask, pending.discount)
            unwanted = self.doubts.unwanted(group)
            return MaskedSum(me, group, *hidden, entropy=self.entropy, unwanted=unwanted)
        ask, owed = ask_name("all_reduce", pending.tag), self._feedback(pending)
        return AllReduce(me, group, *given, config, owed, origin, ask, pending.discount)

    def abandon(self) -> Effects:
        """Leave the group of an exchange that is not over."""
        return [] if self.current is None or self.current.is_over else self.current.abandon()

    def end(self, *, finished: bool = False) -> None:
        """Forget the round; `finished`: whether it gave us a state."""
        self._leave_group(finished=finished)
        self._pending = None
        self._kept, self._kept_bytes = [], 0

    def drop_last(self) -> None:
        """A search for a new group begins."""
        self._leave_group(finished=False)

    @property
    def is_busy(self) -> bool:
        """Whether an exchange with others is under way."""
        exchange = self.current
        return (
            self._view.phase is Phase.EXCHANGING and exchange is not None and len(exchange.group.members) > 1
        )

    @property
    def load(self) -> float:
        """How much more than others we send in this group; see `sizing.load`."""
        if self.current is None:
            return 1.0
        group = self.current.group
        return load(group.shares, group.members.index(self._view.me))

    # --- events -----------------------------------------------------------------------------------

    def arriving(self, peer: PeerId, n_bytes: int, now: float) -> None:
        """So many bytes have come of a bulk message of this peer."""
        if self.current is not None:
            self.current.arriving(peer, n_bytes, now)

    def lost(self, peer: PeerId, now: float) -> Effects:
        """A peer is gone."""
        return [] if self.current is None else self.current.lost(peer, now)

    def timer(self, name: Timer, now: float) -> Effects:
        """A timer of an exchange has fired."""
        exchange = self.current
        if exchange is None:
            return []
        known = set(exchange.lost_members)
        effects = exchange.fire(name, now)
        if name is Timer.GATHER:
            # Members that did not commit or reveal in time may be waiting for others, and say that they live.
            return effects
        return effects + self._distrust_links(set(exchange.lost_members) - known)

    def receive(self, event: Received, now: float) -> Effects:
        """Take a message of an exchange: of this ask, of the next, or of one that is over."""
        message = event.message
        if not isinstance(message, Exchange):
            return []
        exchange = self.current
        if exchange is None or not self._is_of_round(event.peer, message):
            return self._tell_stale(event.peer, message, now)
        if exchange.group.id == message.group and exchange.owns(message.index):
            return self._hand_on(exchange, event, message, now)
        if isinstance(message, Abandon) and message.index % INNER_INDEX < exchange.index:
            return exchange.lost(event.peer, now)
        is_ahead = message.index % INNER_INDEX > exchange.index
        if is_ahead and self._group is not None and event.peer in self._group.members:
            # Others of our group are at the round's next ask already; ours will come.
            self.keep(event)
        return exchange.heard_elsewhere(event.peer, now, is_ahead=is_ahead)

    def _is_of_round(self, peer: PeerId, message: ExchangeMessage) -> bool:
        """Whether a message is of an ask of this round: past, present, or to come among some of its group."""
        group = self._group
        if group is None:
            return False
        if message.group == group.id or message.group in self._asked_in:
            return True
        # Among whom, this node may not know yet. A round's first ask is among all.
        is_further = message.index % INNER_INDEX > 0
        return is_further and peer in group.members and message.group not in self.past

    def _note_gone(self, exchange: GroupExchange) -> None:
        known = self._asked_in.get(exchange.group.id, frozenset())
        self._asked_in[exchange.group.id] = known.union(exchange.lost_members)

    def _hand_on(
        self, exchange: GroupExchange, event: Received, message: ExchangeMessage, now: float
    ) -> Effects:
        known, n_lost = len(exchange.unfair_cuts), len(exchange.lost_members)
        effects = exchange.handle(event.peer, message, event.data, now)
        for peer in exchange.unfair_cuts[known:]:
            self._view.admission.note_unfair_cut(peer, now)
        if not isinstance(message, Cut):
            return effects
        is_gather = isinstance(exchange, Gather) and message.index == exchange.index
        if message.member in exchange.lost_members[n_lost:] and not is_gather:
            # Others found it silent before we did.
            return effects + self._distrust_links({message.member})
        return effects

    def _distrust_links(self, silent: set[PeerId]) -> Effects:
        """Do not count on peers that were silent; whatever comes from one of them next mends that."""
        silent = silent & self._view.table.connected
        self._view.note_unresponsive(silent)
        return [ProbeLink(peer) for peer in sorted(silent)]

    def keep(self, event: Received) -> None:
        """Keep a message for an exchange that we have not begun."""
        if self._kept_bytes < MAX_KEPT_BYTES and len(self._kept) < MAX_KEPT:
            self._kept.append(event)
            self._kept_bytes += len(event.data)

    def _tell_stale(self, peer: PeerId, message: ExchangeMessage, now: float) -> Effects:
        """Tell, once a second, who waits for us where we are not: the round is over, or we left it."""
        lost = self.past.get(message.group)
        if (
            isinstance(message, Cut | Abandon)
            or not self._view.run
            or (lost is not None and peer not in lost)
        ):
            # Whoever was there when we finished needs nothing: these are its last words.
            return []
        if now < self._told.get(peer, 0.0) + 1.0:
            return []
        if len(self._told) > MAX_TOLD:
            self._told.clear()
        self._told[peer] = now
        where = (message.group, message.index)
        gone = Abandon(*where) if lost is None else Cut(*where, peer)
        return [Send(peer, gone), *self._dissemination.tell(peer)]

    # --- what came of it --------------------------------------------------------------------------

    @property
    def is_answered(self) -> bool:
        """Whether the exchange of the trainer's ask is over, and the trainer is not told yet."""
        if self._pending is None or self.current is None:
            return False
        return self._view.phase is Phase.EXCHANGING and self.current.is_over

    def answer(self, now: float) -> Effects:
        """Tell the trainer what the exchange came to; once, when `is_answered`."""
        exchange, pending, self._pending = self.current, self._pending, None
        assert exchange is not None
        assert pending is not None
        if isinstance(exchange, MaskedSum):
            self._note_sum(exchange, now)
        times = (self._formed_at - self.asked_at, now - self._formed_at)
        result: Averaged | Gathered
        match outcome := exchange.outcome:
            case None if exchange.unlike:
                return [Notify(Failed("Mismatch", _mismatch(pending, exchange)))]
            case None if isinstance(exchange, MaskedSum) and exchange.is_refused:
                self._learn(exchange, now)
                return [Notify(Failed("TooFew", exchange.failure))]
            case None:
                if len(exchange.group.members) == 2:
                    self._learn(exchange, now)
                why = exchange.failure or "the others went on without this node"
                return [Notify(Failed("LeftOut", why))]
            case Exchanged():
                members, mixes = exchange.group.members, self._view.states_differ()
                result = Averaged(self._view.round, exchange.index, outcome, *times, members, mixes)
            case Bodies():
                mixes = self._view.states_differ()
                result = Gathered(self._view.round, exchange.index, outcome.bodies, *times, mixes)
        self._learn(exchange, now)
        if not is_in_all(self._view.me, exchange.group, outcome):
            self._view.admission.count(LEFT_OUT)
        too_few = self._too_few(exchange.group, outcome)
        if too_few and exchange.failure:
            too_few = f"{too_few}: {exchange.failure}"
        if isinstance(outcome, Exchanged) and isinstance(exchange, AllReduce) and not too_few:
            assert isinstance(pending, Contribute)
            self._note_change(pending, exchange, outcome)
        return [Notify(Failed("TooFew", too_few) if too_few else result)]

    # --- inside -----------------------------------------------------------------------------------

    def _note_sum(self, exchange: MaskedSum, now: float) -> None:
        """Take note of who was in a secure sum, and whether it was void."""
        before = self.doubts.suspect
        if exchange.outcome is not None:
            self.doubts.opened(exchange.outcome.contributors)
        elif exchange.void:
            self.doubts.void(exchange.void)
        elif exchange.left_out_by:
            self.doubts.missed(exchange.group.round, exchange.left_out_by)
        if (suspect := self.doubts.suspect) is not None and suspect != before:
            self._view.admission.named_faults.add(suspect, VOIDS, now)

    def _too_few(self, group: Group, outcome: Exchanged | Bodies) -> str:
        """Say so if fewer contributed than must."""
        view = self._view
        if view.spec is None or group.parent:
            # A quorum is of all; those who ask among themselves are as many as they are.
            return ""
        counted = fewest_of(counting(view, group, self._linked), group, outcome)
        if outcome.fewest < view.least:
            return f"{outcome.fewest} of at least {view.least} peers contributed"
        if counted < (quorum := least_of(view.spec)):
            return f"{counted} of at least {quorum} peers that count for the quorum contributed"
        return ""

    def _leave_group(self, *, finished: bool) -> None:
        if self.current is None:
            return
        self._note_gone(self.current)
        if self._group is not None:
            gone = frozenset[PeerId]().union(*self._asked_in.values())
            self._asked_in.setdefault(self._group.id, gone)
        for group, lost in self._asked_in.items():
            self.past[group] = lost if finished else None
        while len(self.past) > MAX_PAST:
            self.past.popitem(last=False)
        self.current, self._group, self._asked_in = None, None, {}

    def _learn(self, exchange: GroupExchange, now: float) -> None:
        lost = self._view.table.connected & set(exchange.lost_members)
        usual = self._usual_of(exchange.index)
        if tardy := lost & exchange.group.newcomers:
            self._note_tardy(tardy, now)
        elif exchange.newcomers_took:
            self._view.admission.newcomer_waits.charge(exchange.newcomers_took, now)
        # Newcomers make nobody wait longer for the others.
        if lost - self._lost - tardy:
            self.wait.miss()
            usual.miss()
        elif not lost and len(exchange.group.members) > 1:
            # Alone everything is quick, and nothing is learned.
            self.wait.observe(now - self._formed_at)
            usual.observe(now - self._formed_at)
        # Who is lost time after time is no reason to wait longer and longer.
        self._lost = lost
        self._name_silent(lost - tardy, exchange.group.members, now)
        self._view.note_round(exchange.group.members, lost)
        for peer in set(exchange.group.members).difference(exchange.lost_members):
            self._view.admission.pardon(peer, now)

    def _name_silent(self, lost: AbstractSet[PeerId], members: tuple[PeerId, ...], now: float) -> None:
        """Name the peers that were lost time after time though they joined: each time cost a wait."""
        self._n_lost = {peer: n for peer, n in self._n_lost.items() if peer in lost or peer not in members}
        for peer in sorted(lost):
            self._n_lost[peer] = self._n_lost.get(peer, 0) + 1
            if self._n_lost[peer] >= SILENT_EXCHANGES:
                self._view.admission.named_faults.add(peer, GIVES_NOTHING, now)
        while len(self._n_lost) > MAX_TOLD:
            del self._n_lost[next(iter(self._n_lost))]

    def _note_tardy(self, newcomers: AbstractSet[PeerId], now: float) -> None:
        """Take note of newcomers that joined the group and then gave nothing."""
        admission = self._view.admission
        for peer in sorted(newcomers):
            admission.note_tardy(peer, self._view.round, now)
        admission.newcomer_waits.charge(now - self._formed_at, now)

    def _origin(self, pending: Contribute) -> Origin:
        """Return what a contribution is measured from: this node's state, where it is at hand."""
        numel, view = pending.vector.size, self._view
        is_whole = view.spec is not None and numel == view.spec.params_numel
        has_state = is_whole and memoryview(self._state).nbytes >= 4 * numel
        if pending.kind == "statistic" or pending.among or not has_state:
            return Origin("statistic", view.state)
        # Of a pairwise run the last round has a group, whose members have a state each.
        mixes = view.pattern.has_own_states or view.states_differ()
        state = np.frombuffer(self._state, np.float32, count=numel)
        last = self._last.get(pending.index)
        # A round that failed left its state: what it came to is no change of it.
        if last is None or mixes or last.change.size != numel or last.base == view.state:
            return Origin(pending.kind, view.state, mixes, state, self._variances)
        return Origin(pending.kind, view.state, mixes, state, self._variances, last.change, last.name)

    def _note_change(self, pending: Contribute, exchange: AllReduce, outcome: Exchanged) -> None:
        """Remember what a mean changed, where the next is clipped around it."""
        origin, size = exchange.origin, pending.vector.size
        if exchange.config.combine != "clip" or origin.mixes or origin.state is None:
            return
        known, split = self._last.get(pending.index), size - exchange.config.exact
        is_as_long = known is not None and known.change.size == size
        change = known.change if known is not None and is_as_long else Change(size)
        change.note(0, pending.vector[:split], origin.of_numbers(0, split))
        change.note(split, pending.vector[split:], origin.of_buffers(split, size))
        text = origin.name + msgspec.msgpack.encode((pending.index, outcome.masks))
        name = blake2b(text, digest_size=16).digest()
        self._last[pending.index] = LastChange(origin.name, name, change)

    def _usual_of(self, index: int) -> Deadline:
        return self._usual.setdefault(index, Deadline(LONGEST, floor=self._patience))

    def _bulk_bytes(self, pending: Contribution, n_members: int) -> int:
        """Return what each member sends in an exchange."""
        others, spec = n_members - 1, self._view.spec
        if isinstance(pending, ContributeBody):
            # Of the others' bodies only the bound is known.
            return others * MAX_BODY_BYTES
        codec = CODECS[spec.codec if spec is not None else "float32"]
        return 2 * others * codec.size(pending.vector.size) // n_members

    def _feedback(self, pending: Contribute) -> Feedback | None:
        """What lossy codecs owe; per ask of a round, and only for vectors of one size."""
        spec = self._view.spec
        if spec is None or not CODECS[spec.codec].needs_feedback:
            return None
        known = self.feedback.get(pending.index)
        if known is None or known.sent.size != pending.vector.size:
            known = self.feedback[pending.index] = Feedback(pending.vector.size)
        return known


def _mismatch(pending: Contribution, exchange: GroupExchange) -> str:
    """Say with whom nothing was exchanged, and why."""
    kind = "all_reduce" if isinstance(pending, Contribute) else "gather"
    peers = ", ".join(short(peer) for peer in exchange.unlike[:4])
    return (
        f"ask {pending.index} of the round is {kind} {pending.tag!r} here and something else at {peers}:"
        " run the same versions of shoal and of the method on all peers"
    )
