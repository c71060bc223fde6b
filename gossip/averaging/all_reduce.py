"""AllReduce: the all-reduce of one group, with parts that survive their owners.

The vector is cut into one part per member, sized by the members' shares, and a part into chunks
as the group's commit says. Every member sends each owner its chunks; the owner adds them in member order as
soon as all have come, and sends the mean back with the list of contributors. Chunks flow independently, so
reducing, encrypting and sending overlap. A received mean takes the place of our own contribution,
which nobody needs any more: one buffer serves both.

    per part:   ballot 0, owner = member p      --owner lost-->   ballot b, owner = member (p + b) mod n

Whoever notices a lost owner moves to the next ballot and yields to the next owner, who claims the part from
everyone; whose part is claimed tells those that wait for it. To a claim each member answers, chunk by
chunk, with the mean if it has one and else with its contribution; a member that has promised itself to a
ballot takes no means of lower ones. The new owner waits for all that live, adopts the mean of the highest
ballot it is shown, and reduces again only what nobody has. That is single-decree Paxos per chunk (Lamport,
The Part-Time Parliament, 1998), with the mean as value. Where every owner is lost to some member, since links
failed here and there, a part would go round for ever: after `MAX_CIRCLES` whoever refuses its owner leaves.

    reducing --every mean is here--> done --all that live are done--> over

Nobody leaves before all that live are done: so whoever takes a part over finds what was made of it, and the
memory of the vector is nobody's but the exchange's until the end. `Done` says what the means are made of;
where members were told different things, since links failed between some of them, the most common outcome
stands and the others give up: they fetch the state of those that went on.

Waiting: a member that sends nothing for `silence_timeout` seconds is lost (all say that they are alive),
sooner where half of the others are done; one that lives is cut when nothing has moved for `slow_timeout`: no
byte has come of it, nor, as it says, to it. What moves earns time (deadlines.py), so a slow line is no reason
to be cut, and a byte now and then is. A member that is cut is told, and
a member cut by half of the others gives up, unless somebody has the means that it has: the round went on
without it. A member that is not linked to us is lost from the start; parts reach it through others.

A member that dies leaves its chunks in the means that are made already, and nothing in the others: each
mean names its contributors.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, TypeAlias

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.announced import digest_of
from shoal.gossip.averaging.announcing import Announcing, ExchangeConfig, ShownMean
from shoal.gossip.averaging.attendance import UNNAMED
from shoal.gossip.averaging.chunks import mean_alike
from shoal.gossip.averaging.ledger import Verdict
from shoal.gossip.averaging.origin import STANDS_ALONE, Origin
from shoal.gossip.averaging.tensor_codecs import Feedback
from shoal.gossip.deadlines import BEAT, SHORTEST_TIMEOUT, Progress
from shoal.gossip.errors import LocalViolation
from shoal.gossip.events import Data, Effects, Loan, Send, SetTimer, Timer, Vector
from shoal.gossip.group import Exchanged, Group
from shoal.gossip.messages import (
    Abandon,
    Alive,
    Announce,
    Announcements,
    Claim,
    Cut,
    Digest,
    Done,
    ExchangeMessage,
    Part,
    Reduced,
    Unannounced,
    Yield,
)

OWNER_GRACE: Final = 1.25
"""Owners are cut later than senders by this factor: they may be waiting for a sender that we do not see."""
DONE_GRACE: Final = 2.0
"""And those that are not done, later still: they may be waiting for an owner."""
MAX_CIRCLES: Final = 2
"""How often a part may come to each member: those who refused an owner may be lost themselves by then."""
Talk: TypeAlias = (
    Announce | Announcements | Unannounced | Part | Reduced | Yield | Claim | Alive | Cut | Abandon | Done
)


@dataclass(slots=True)
class _Collected:
    """What an owner holds of a chunk that is not yet reduced: every member's answer."""

    parts: dict[int, Data] = field(default_factory=dict)
    means: dict[int, ShownMean] = field(default_factory=dict)
    """By member: what it showed in answer to a claim."""
    doubted: set[int] = field(default_factory=set)
    """Who showed a mean made by announcements that are not here: it owes them."""


class AllReduce(Announcing):
    """One member's side of one all-reduce. See the module's docstring."""

    def __init__(
        self,
        me: PeerId,
        group: Group,
        index: int,
        vector: Vector,
        weight: float,
        config: ExchangeConfig,
        feedback: Feedback | None = None,
        origin: Origin = STANDS_ALONE,
        ask: bytes = UNNAMED,
        discount: float = 1.0,
    ) -> None:
        """`vector` float32 [n] is the contribution and becomes the mean, in place.

        `feedback` float32 [n]: what lossy codecs owe from earlier rounds; updated. `origin`: what the vector
        is measured from, so that none counts too much. `ask`: what it is, see `ask_name`. `discount`, above
        0 and at most 1: what is left of our weight once it was capped.
        """
        super().__init__(me, group, index, vector, weight, config, feedback, origin, ask, discount)
        n_members = len(group.members)
        self.result: Exchanged | None = None
        self.is_left_out = False
        # Means that wait for what they were made by.
        self._waiting: dict[tuple[int, int], tuple[int, Reduced, Data]] = {}
        # Per part: the ballot we are promised to, and since when.
        self._ballot = [0] * n_members
        self._since = [0.0] * n_members
        self._answered = [0] * n_members
        self._masks: list[list[int]] = [[0] * self._chunks.count(p) for p in self._all()]
        self._at_ballot: list[list[int]] = [[0] * self._chunks.count(p) for p in self._all()]
        self._made_by: list[list[bytes]] = [[bytes(16)] * self._chunks.count(p) for p in self._all()]
        self._missing = sum(len(masks) for masks in self._masks)
        # The parts that we reduce: under which ballot, and their chunks that are not yet reduced.
        self._owning: dict[int, int] = {}
        self._open: dict[int, dict[int, _Collected]] = {}
        self._done_since = 0.0
        self._next_tick = 0.0
        self._lent: dict[int, list[Loan]] = {}
        """By member: the numbers on their way to it."""

    # --- commands ---------------------------------------------------------------------------------

    def begin(self, now: float) -> Effects:
        """Send every owner its chunks."""
        self._since = [now] * len(self._members)
        self._heard = dict.fromkeys(self._all(), now)
        self._began = now
        self._renew(now)
        effects = self._announce() if self._is_bounded else []
        mine = (self._mine - self.group.turn) % len(self._members)
        for step in range(1, len(self._members)):
            # Everyone starts with another owner, so that no owner is everyone's first.
            effects += self._contribute((mine + step) % len(self._members))
        return [*effects, *self._collect(mine, 0, now), *self._tick(now)]

    def timer(self, now: float) -> Effects:
        """Show that we live, and give up on members that are silent or slower than the deadline."""
        if self.is_over:
            return []
        if now > self._next_tick + BEAT:
            self._forgive(now - self._next_tick)
        effects: Effects = []
        for member in self._overdue(now):
            self._note_failure(member, self._why(member, now), self._expected_bytes)
            effects += self._tell_cut(member) + self._go_on_without(member, now)
        if not self.is_over:
            effects += self._to_all(Alive(self.group.id, self.index, self._arrived))
        return [*effects, *self._tick(now)]

    def _forgive(self, seconds: float) -> None:
        """Our own process slept for so long: that is nobody's silence."""
        self._heard = {member: heard + seconds for member, heard in self._heard.items()}
        self._since = [since + seconds for since in self._since]
        self._done_since += seconds
        for progress in self._progress.values():
            progress.put_off(seconds)

    def lost(self, peer: PeerId, now: float) -> Effects:
        """Go on without a member whose link is gone."""
        member = self._number.get(peer, self._mine)
        if self.is_over or member not in self._others:
            return []
        self._note_failure(member, "is no longer linked", self._expected_bytes)
        return self._lose(member, now)

    def heard_elsewhere(self, peer: PeerId, now: float, *, is_ahead: bool) -> Effects:
        """A member speaks in an earlier exchange of the group, or `is_ahead` in a later one."""
        member = self._number.get(peer, self._mine)
        self._heard[member] = now
        if not is_ahead or self._missing or member not in self._alive:
            return []
        # It would not be there if it had not been done here: its word of that was lost.
        self._done.setdefault(member, self._outcome)
        return self._finish_if_all_done()

    def abandon(self) -> Effects:
        """Tell the others not to wait for us."""
        self._take_back()
        return self._tell_abandon()

    # --- messages ---------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing more is waited for: complete, or left out."""
        return self.result is not None or self.is_left_out

    @property
    def outcome(self) -> Exchanged | None:
        """See `shoal.gossip.averaging.exchange`."""
        return self.result

    def owns(self, index: int) -> bool:
        """See `shoal.gossip.averaging.exchange`."""
        return index == self.index

    def fire(self, timer: Timer, now: float) -> Effects:
        """See `shoal.gossip.averaging.exchange`."""
        return self.timer(now) if timer is Timer.ALL_REDUCE else []

    def handle(self, peer: PeerId, message: ExchangeMessage, data: Data, now: float) -> Effects:
        """A message of this exchange arrived."""
        member = self._number.get(peer, self._mine)
        if member == self._mine or not isinstance(message, Talk | Digest):
            return []
        self._heard[member] = now
        self._spoke.add(member)
        if self._is_other_ask(message):
            return self._exchange_nothing_with(member, now)
        match message:
            case Digest():
                return []
            case Abandon():
                self._note_failure(member, "left the round", self._expected_bytes)
                return self._lose(member, now)
            case Cut():
                return self._handle_cut(member, message, now)
        if isinstance(message, Announce | Announcements | Unannounced):
            return self._handle_announced(member, message, now)
        if self.is_over or member not in self._alive:
            return self._turn_away(member, message)
        self._take_bulk(member, data, now)
        match message:
            case Alive():
                self._note_moved(member, message.moved, now)
                return []
            case Done():
                self._done[member] = message.outcome
                self._note_given("done", member, now)
                # What is reduced anew is only what we all have: it waits for no answer of those that have it.
                effects = [e for part in list(self._open) for e in self._reduce_what_is_complete(part, now)]
                effects += self._finish_if_all_done()
                if not self.is_over and self._overdue(now):
                    # A late timer forgives our own sleep first; nobody is lost here and now.
                    effects.append(SetTimer(now, Timer.ALL_REDUCE))
                return effects
        if message.part >= len(self._members) or message.ballot > self._last_ballot:
            return self._violation(member, "no such part", now)
        match message:
            case Part():
                return self._handle_part(member, message, data, now)
            case Reduced():
                return self._handle_reduced(member, message, data, now)
            case Yield():
                return self._handle_yield(message, now)
            case Claim():
                return self._handle_claim(member, message, now)

    def _handle_part(self, member: int, message: Part, data: Data, now: float) -> Effects:
        part, chunk = message.part, message.chunk
        if self._owner(part, message.ballot) != self._mine:
            return self._violation(member, "part of another owner", now)
        if self._owning.get(part) != message.ballot:
            return []
        if not self._chunks.fits(part, chunk, data):
            return self._violation(member, "wrong chunk size", now)
        held = self._open[part].get(chunk)
        if held is None:
            return []
        held.parts.setdefault(member, data)
        self._note_given("part", member, now)
        return self._reduce_if_complete(part, chunk, now)

    def _handle_reduced(self, member: int, message: Reduced, data: Data, now: float) -> Effects:
        part, chunk, ballot = message.part, message.chunk, message.ballot
        mask = int.from_bytes(message.contributors, "big")
        if not self._chunks.fits(part, chunk, data) or not 0 < mask < 1 << len(self._members):
            return self._violation(member, "wrong mean", now)
        if 0 < self._owning.get(part, 0) >= ballot:
            # Somebody's answer to our claim, or what the former owner still sent: as good.
            held = self._open[part].get(chunk)
            if held is None:
                return []
            held.means.setdefault(member, (ballot, mask, message.announced, data))
            return self._reduce_if_complete(part, chunk, now)
        if self._owner(part, ballot) != member or ballot < self._ballot[part]:
            return []
        effects = self._promise(part, ballot, now)
        if self._masks[part][chunk] and ballot <= self._at_ballot[part][chunk]:
            return effects
        return effects + self._take_mean(member, message, mask, data, now)

    def _take_mean(self, member: int, message: Reduced, mask: int, data: Data, now: float) -> Effects:
        """Store a mean that its owner sent, if it is one that an honest owner can have made."""
        part, chunk, ballot = message.part, message.chunk, message.ballot
        mean = self._chunks.read(part, chunk, data)
        if mean is None:
            return self._violation(member, "mean is not finite", now)
        verdict = self._judge(part, chunk, (ballot, mask, message.announced, data), ballot, mean)
        if verdict is not Verdict.FINE and not self._is_sane(mean):
            return self._violation(member, "mean is not finite", now)
        if verdict is Verdict.UNKNOWN:
            self._waiting[part, chunk] = (member, message, data)
            return self._ask_about(member, mask, message.announced)
        if verdict is Verdict.FINE and ballot == 0 and self._is_left_out_of(mask, message.announced):
            verdict = Verdict.OUTSIDE
        if verdict is Verdict.ELSEWHERE:
            # Nobody's fault: it goes by another state than we do.
            return self._tell_cut(member) + self._lose(member, now)
        if verdict is Verdict.OUTSIDE:
            return self._violation(member, verdict.value, now)
        self._chunks.store(part, chunk, data, mean)
        return self._note_mean(part, chunk, ballot, mask, message.announced, now)

    def _try_again(self, now: float) -> Effects:
        """Go on with what waited for an announcement."""
        effects: Effects = []
        for part, chunks in list(self._open.items()):
            for held in chunks.values():
                held.doubted.clear()
            effects += self._reduce_what_is_complete(part, now)
        waiting, self._waiting = self._waiting, {}
        for member, message, data in waiting.values():
            if member in self._alive and not self.is_over:
                effects += self._handle_reduced(member, message, data, now)
        return effects

    def _handle_yield(self, message: Yield, now: float) -> Effects:
        part, ballot = message.part, message.ballot
        if ballot <= self._ballot[part]:
            return []
        owner = self._owner(part, ballot)
        if owner == self._mine:
            return self._take_over(part, ballot, now)
        effects = self._promise(part, ballot, now)
        if owner not in self._alive and not all(self._masks[part]):
            effects += self._next_owner(part, now)
        return effects

    def _handle_claim(self, member: int, message: Claim, now: float) -> Effects:
        part, ballot = message.part, message.ballot
        if self._owner(part, ballot) != member or ballot < self._ballot[part]:
            return []
        if ballot <= self._answered[part]:
            return []
        self._answered[part] = ballot
        return self._promise(part, ballot, now) + self._contribute(part)

    def _handle_cut(self, member: int, message: Cut, now: float) -> Effects:
        cut = self._number.get(message.member)
        if cut is None:
            return []
        is_cut = self._note_cut(member, cut, now, self.config.slow_timeout)
        if cut != self._mine:
            return self._lose(cut, now) if is_cut else []
        # With every mean in hand it does not matter that others left, if somebody says that it has the same.
        # Else there may be in ours what its giver had overwritten before it left: it had lost us by then.
        has_same = bool(self._outcome) and self._outcome in self._done.values()
        if not self.is_over:
            self._note_failure(member, "waited no longer for this node", self._expected_bytes)
        if is_cut and not has_same and not self.is_over:
            return self._fail()
        return self._go_on_without(member, now)

    def _go_on_without(self, member: int, now: float) -> Effects:
        """Lose a member. Of two the other is the whole group: what is not whole by then comes to nothing."""
        if len(self._members) == 2 and self._missing and not self.is_over:
            self._is_new_loss(member)
            return self._leave_out()
        return self._lose(member, now)

    def _turn_away(self, member: int, message: Talk) -> Effects:
        """Tell a member once that we do not wait for it, or are over: it may not know."""
        still_waits = member in self._done and isinstance(message, Alive | Done)
        # It takes a part over for others, and needs nothing of us: it would count us as lost.
        has_same = member in self._alive and self._done.get(member) == self._outcome
        is_fine = self.result is not None and (still_waits or has_same)
        if member in self._told or self.is_left_out or is_fine:
            return []
        return self._tell_member_cut(member)

    # --- contributions ----------------------------------------------------------------------------

    def _contribute(self, part: int) -> Effects:
        """Give the part's owner, chunk by chunk, the mean if we have it, else our contribution."""
        ballot = self._ballot[part]
        owner = self._owner(part, ballot)
        effects: Effects = []
        for chunk, mask in enumerate(self._masks[part]):
            if mask:
                effects.append(self._mean_message(owner, part, chunk, self._at_ballot[part][chunk]))
            else:
                head = Part(self.group.id, self.index, part, chunk, ballot)
                loan = self._chunks.contribution(part, chunk)
                self._lent.setdefault(owner, []).append(loan)
                effects.append(Send(self._members[owner], head, loan))
        return effects

    def _mean_message(self, member: int, part: int, chunk: int, ballot: int) -> Send:
        mask = self._masks[part][chunk].to_bytes(8, "big")
        made_by = self._made_by[part][chunk]
        head = Reduced(self.group.id, self.index, part, chunk, ballot, mask, made_by)
        loan = Loan(memoryview(self._chunks.mean(part, chunk)))
        self._lent.setdefault(member, []).append(loan)
        return Send(self._members[member], head, loan)

    # --- reducing ---------------------------------------------------------------------------------

    def _collect(self, part: int, ballot: int, now: float) -> Effects:
        """Reduce a part under this ballot; our own answer is the first."""
        self._ballot[part] = self._owning[part] = ballot
        self._since[part] = now
        chunks = self._open[part] = {chunk: _Collected() for chunk in range(len(self._masks[part]))}
        for chunk, held in chunks.items():
            mask = self._masks[part][chunk]
            if mask:
                made_by, mean = self._made_by[part][chunk], self._chunks.mean(part, chunk)
                held.means[self._mine] = (self._at_ballot[part][chunk], mask, made_by, mean)
            else:
                held.parts[self._mine] = b""
        return self._reduce_what_is_complete(part, now)

    def _reduce_what_is_complete(self, part: int, now: float) -> Effects:
        effects: Effects = []
        for chunk in list(self._open.get(part, ())):
            effects += self._reduce_if_complete(part, chunk, now)
        return effects

    def _reduce_if_complete(self, part: int, chunk: int, now: float) -> Effects:
        held = self._open.get(part, {}).get(chunk)
        if held is None or self.is_over or self._unanswered(held):
            return []
        if held.means:
            return self._adopt(part, chunk, held, now)
        made = self._mean(part, chunk, held)
        if made == []:
            # Most of them clip around a change that we lack: the part is for one of them.
            return self._next_owner(part, now)
        if isinstance(made, list):
            return self._blame(part, chunk, held, made, now)
        if made is None:
            # Most of them go by another state than we do.
            return self._fail()
        mean, members, made_by = made
        self._chunks.make(part, chunk, mean)
        return self._hand_out(part, chunk, sum(1 << member for member in members), made_by, now)

    def _hand_out(self, part: int, chunk: int, mask: int, made_by: bytes, now: float) -> Effects:
        """Send the mean of a chunk that we own to all."""
        del self._open[part][chunk]
        ballot = self._owning[part]
        noted = self._note_mean(part, chunk, ballot, mask, made_by, now)
        others = sorted(self._others)
        return [*(self._mean_message(member, part, chunk, ballot) for member in others), *noted]

    def _adopt(self, part: int, chunk: int, held: _Collected, now: float) -> Effects:
        """Take over the mean of the highest ballot that we are shown, if an honest owner can have made it."""
        member, shown = max(held.means.items(), key=lambda each: (each[1][0], -each[0]))
        _, mask, made_by, data = shown
        mean = self._chunks.read(part, chunk, data)
        if mean is None or not self._is_sane(mean):
            # Who showed several such means is lost with the first: nothing else tries the others again.
            del held.means[member]
            lost = self._violation(member, "mean is not finite", now)
            return lost + self._reduce_if_complete(part, chunk, now)
        verdict = self._judge(part, chunk, shown, self._owning[part], mean)
        if verdict is Verdict.UNKNOWN and member in self._others:
            held.doubted.add(member)
            return self._ask_about(member, mask, made_by)
        if verdict is not Verdict.FINE:
            # Several owners may have lied in turn, each within its bound: who shows what it took is no liar.
            del held.means[member]
            if not (held.means or held.parts):
                return self._fail()
            return self._reduce_if_complete(part, chunk, now)
        self._chunks.store(part, chunk, data, mean)
        return self._hand_out(part, chunk, mask, made_by, now)

    def _mean(
        self, part: int, chunk: int, held: _Collected
    ) -> tuple[Vector, list[int], bytes] | list[int] | None:
        """Return the mean, contributors and their announcements; or who made it impossible; or nothing.

        Nobody made it impossible where this member lacks what the others clip around.
        """
        # In member order, so that the sum rounds alike whatever arrived first.
        members, names = sorted(held.parts), tuple[bytes, ...]()
        if self._is_bounded:
            members, names = self._ledger.contributors(members)
        base = self._announced.base(names)
        if not members or (base and base != self._chunks.origin.name):
            return None
        terms = self._announced.terms(members, names, part) if self._is_bounded else None
        last = terms.last_name if terms is not None else b""
        if last != self._chunks.origin.last_name and last:
            return []
        vectors, guilty = [], []
        for member in members:
            numbers = self._numbers(part, chunk, held, member)
            if numbers is None or not self._is_as_announced(part, chunk, member, numbers, base, last):
                guilty.append(member)
            else:
                vectors.append(numbers)
        if guilty:
            return guilty
        if terms is None:
            mean = self._mean_alike(vectors)
        else:
            both = (terms.numbers, terms.buffers)
            mean = self._chunks.combine(part, chunk, vectors, both, is_based=bool(base))
            if self._owning[part]:
                squares = self._chunks.squares(part, chunk, mean, is_based=bool(base))
                self._ledger.note(part, chunk, self._owning[part], squares, terms)
        return mean, members, digest_of(names) if self._is_bounded else bytes(16)

    def _mean_alike(self, vectors: list[Vector]) -> Vector:
        """Return what contributions come to that nothing was announced of."""
        return mean_alike(vectors)

    def _blame(self, part: int, chunk: int, held: _Collected, guilty: list[int], now: float) -> Effects:
        """Go on without those who gave what is not finite, or more than they announced."""
        if self._mine in guilty:
            raise LocalViolation("a contribution that is not finite was let in by this node itself")
        effects: Effects = []
        reasons = {}
        # All of them first: to lose one is to try again.
        for member in guilty:
            numbers = self._numbers(part, chunk, held, member)
            is_finite = numbers is not None and self._is_sane(numbers)
            reasons[member] = "contribution is " + ("larger than announced" if is_finite else "not finite")
            del held.parts[member]
        for member, reason in reasons.items():
            effects += self._violation(member, reason, now)
        return effects + self._reduce_if_complete(part, chunk, now)

    def _note_mean(
        self, part: int, chunk: int, ballot: int, mask: int, made_by: bytes, now: float
    ) -> Effects:
        known = self._masks[part][chunk]
        self._made_by[part][chunk] = made_by
        self._waiting.pop((part, chunk), None)
        self._missing -= not known
        self._masks[part][chunk], self._at_ballot[part][chunk] = mask, ballot
        if self._missing or (self._outcome and known == mask):
            return []
        masks = b"".join(mask.to_bytes(8, "big") for masks in self._masks for mask in masks)
        self._outcome = blake2b(masks, digest_size=16).digest()
        self._done_since = now
        self._note_given("done", self._mine, now)
        done = self._to_all(Done(self.group.id, self.index, self._outcome))
        return done + self._finish_if_all_done()

    def _finish_if_all_done(self) -> Effects:
        if self._missing or self.is_over or not self._are_all_done():
            return []
        if not self._has_outcome_that_stands():
            return self._leave_out()
        everyone = -1
        for masks in self._masks:
            for mask in masks:
                everyone &= mask
        contributors = tuple(sorted(peer for i, peer in enumerate(self._members) if everyone >> i & 1))
        takeovers = sum(ballot > 0 for ballot in self._ballot)
        self._take_back()
        self.result = Exchanged(tuple(tuple(masks) for masks in self._masks), contributors, takeovers)
        return [SetTimer(float("inf"), Timer.ALL_REDUCE)]

    def _fail(self) -> Effects:
        return [*self.abandon(), *self._leave_out()]

    def _leave_out(self) -> Effects:
        self.is_left_out = True
        self._take_back()
        return [SetTimer(float("inf"), Timer.ALL_REDUCE)]

    # --- losing members ---------------------------------------------------------------------------

    def _lose(self, member: int, now: float) -> Effects:
        if self.is_over or not self._is_new_loss(member):
            return []
        self._stop_sending(member)
        self._renew(now)
        effects: Effects = []
        for part in self._all():
            if self._owner(part, self._ballot[part]) == member and not all(self._masks[part]):
                effects += self._next_owner(part, now)
            else:
                effects += self._reduce_what_is_complete(part, now)
        return effects + self._finish_if_all_done()

    def _next_owner(self, part: int, now: float) -> Effects:
        if self.is_over:
            return []
        ballot = self._ballot[part] + 1
        while self._owner(part, ballot) not in self._alive:
            ballot += 1
        if ballot > self._last_ballot:
            return self._fail()
        owner = self._owner(part, ballot)
        if owner == self._mine:
            return self._take_over(part, ballot, now)
        told = self._promise(part, ballot, now)
        return [*told, Send(self._members[owner], Yield(self.group.id, self.index, part, ballot))]

    def _take_over(self, part: int, ballot: int, now: float) -> Effects:
        """Own the part from this ballot on."""
        return self._to_all(Claim(self.group.id, self.index, part, ballot)) + self._collect(part, ballot, now)

    def _promise(self, part: int, ballot: int, now: float) -> Effects:
        """Take no means of lower ballots from now on, and make none."""
        if ballot <= self._ballot[part]:
            return []
        self._ballot[part], self._since[part] = ballot, now
        self._owning.pop(part, None)
        # Those that wait for us may have lost the new owner, and would never hear of it.
        was_open = bool(self._open.pop(part, None))
        return self._to_all(Yield(self.group.id, self.index, part, ballot)) if was_open else []

    # --- what is on its way -----------------------------------------------------------------------

    def _renew(self, now: float) -> None:
        """Give everyone the time that its bulk may take; anew where a lost member's parts go round again."""
        ours = self._chunks.n_bytes(self._part_of(self._mine))
        for member in self._others:
            n_bytes = ours + self._chunks.n_bytes(self._part_of(member))
            patience = self.config.slow_timeout * self._patience_with(member)
            self._progress[member] = Progress(now, patience, self.config.longest, n_bytes)

    def _part_of(self, member: int) -> int:
        """Return the part that a member owns at first."""
        return (member - self.group.turn) % len(self._members)

    def moved_elsewhere(self, peer: PeerId, n_bytes: int, now: float) -> None:
        """So much has come to a member in what this exchange is a part of: it is not here yet, and moves."""
        member = self._number.get(peer, self._mine)
        self._earn(member, n_bytes, now - BEAT)

    @property
    def _expected_bytes(self) -> int:
        """Bytes that come to us if nobody is lost: all contributions to our part, and the other parts."""
        mine = self._part_of(self._mine)
        others = sum(self._chunks.n_bytes(part) for part in self._all() if part != mine)
        return others + self._chunks.n_bytes(mine) * (len(self._members) - 1)

    def _stop_sending(self, member: int) -> None:
        """Let what waits for a member that is lost be sent no more: its line may have better to do."""
        for loan in self._lent.pop(member, ()):
            loan.end()

    def _take_back(self) -> None:
        """Let nothing more be sent: the exchange is over."""
        self._chunks.take_back()
        for member in list(self._lent):
            self._stop_sending(member)

    # --- small things -----------------------------------------------------------------------------

    def _all(self) -> range:
        return range(len(self._members))

    @property
    def _last_ballot(self) -> int:
        return MAX_CIRCLES * len(self._members)

    def _owner(self, part: int, ballot: int) -> int:
        return (part + self.group.turn + ballot) % len(self._members)

    def _unanswered(self, held: _Collected) -> set[int]:
        """Whose answer a chunk lacks: of those that live, and have not said that they hold what we hold."""
        unknown = self._alive - held.means.keys() if held.means else set(self._alive)
        given = held.parts.keys()
        unknown -= given & self._announced.members if self._is_bounded else given
        unknown |= held.doubted & self._alive
        if self._missing:
            return unknown
        return {member for member in unknown if self._done.get(member) != self._outcome}

    def _numbers(self, part: int, chunk: int, held: _Collected, member: int) -> Vector | None:
        if member == self._mine:
            return self._chunks.own(part, chunk)
        return self._chunks.read(part, chunk, held.parts[member])

    def _waited_for(self) -> dict[int, float]:
        """Members without whom the exchange cannot go on, and when they are cut."""
        due: dict[int, float] = {}
        patience = self.config.slow_timeout

        def wait(members: set[int], since: float, grace: float = 1.0) -> None:
            for member in (members & self._alive) - {self._mine}:
                least = since + patience * self._patience_with(member)
                until = max(least, self._progress[member].due) + (grace - 1) * patience
                due[member] = min(until, due.get(member, until))

        for part in self._all():
            since, owner = self._since[part], self._owner(part, self._ballot[part])
            for held in self._open.get(part, {}).values():
                wait(self._unanswered(held), since)
            if part not in self._owning and not all(self._masks[part]):
                wait({owner}, since, OWNER_GRACE)
        if not self._missing:
            wait(self._alive - self._done.keys(), self._done_since, DONE_GRACE)
        return due

    def _why(self, member: int, now: float) -> str:
        """Say why a member is waited for no longer."""
        if self._progress[member].is_spent and now >= self._progress[member].due:
            return f"was too slow: {now - self._began:.0f} s were not enough"
        silence = now - self._heard[member]
        what = "sent nothing" if silence > SHORTEST_TIMEOUT else "gave nothing, though it lives,"
        return f"{what} for {max(silence, min(self.config.slow_timeout, now - self._began)):.0f} s"

    def _overdue(self, now: float) -> list[int]:
        """Members that are waited for no longer: too slow, or silent for too long."""
        # Where half of the others are done it is a link of ours that is at fault: they have what we lack.
        is_last = 2 * len(self._done) >= len(self._members) - 1
        longest = self.config.silence_timeout
        silence = min(longest, SHORTEST_TIMEOUT) if is_last else longest
        return [
            member
            for member, due in sorted(self._waited_for().items())
            if now >= due or now - self._heard[member] >= silence * self._patience_with(member)
        ]

    def _tick(self, now: float) -> Effects:
        self._next_tick = now + min(BEAT, self.config.silence_timeout)
        return [] if self.is_over else [SetTimer(self._next_tick, Timer.ALL_REDUCE)]
