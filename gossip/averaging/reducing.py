"""Reducing: the parts of one all-reduce, as a member gives, reduces, hands out and takes them over.

    give chunks to each owner        own a part: collect answers, reduce, hand out the mean
    owner lost: next ballot --> yield to the next owner, or claim the part and collect anew

Why this is safe is said in all_reduce.py, which takes the messages and keeps the deadlines.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.announced import digest_of
from shoal.gossip.averaging.announcing import Announcing, ExchangeConfig, ShownMean
from shoal.gossip.averaging.attendance import UNNAMED
from shoal.gossip.averaging.chunks import mean_alike
from shoal.gossip.averaging.ledger import Verdict
from shoal.gossip.averaging.origin import STANDS_ALONE, Origin
from shoal.gossip.averaging.tensor_codecs import Feedback
from shoal.gossip.deadlines import Progress
from shoal.gossip.errors import LocalViolation
from shoal.gossip.events import Data, Effects, Loan, Send, SetTimer, Timer, Vector
from shoal.gossip.group import Exchanged, Group
from shoal.gossip.messages import (
    Claim,
    Done,
    Part,
    Reduced,
    Yield,
)

MAX_CIRCLES: Final = 2
"""How often a part may come to each member: those who refused an owner may be lost themselves by then."""


@dataclass(slots=True)
class _Collected:
    """What an owner holds of a chunk that is not yet reduced: every member's answer."""

    parts: dict[int, Data] = field(default_factory=dict)
    means: dict[int, ShownMean] = field(default_factory=dict)
    """By member: what it showed in answer to a claim."""
    doubted: set[int] = field(default_factory=set)
    """Who showed a mean made by announcements that are not here: it owes them."""


class Reducing(Announcing):
    """One member's side of the parts of one all-reduce. See the module's docstring."""

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
        self._turn = group.turn
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

    @property
    def is_over(self) -> bool:
        """Whether nothing more is waited for: complete, or left out."""
        return self.result is not None or self.is_left_out

    @property
    def outcome(self) -> Exchanged | None:
        """See `shoal.gossip.averaging.exchange`."""
        return self.result

    @property
    def share_done(self) -> float:
        """See `Attendance`: the chunks whose mean is here."""
        return 1.0 - self._missing / max(1, sum(len(masks) for masks in self._masks))

    # --- what is given to owners ------------------------------------------------------------------

    def _contribute(self, part: int) -> Effects:
        """Give the part's owner, chunk by chunk, the mean if we have it, else our contribution."""
        ballot = self._ballot[part]
        owner = self._owner(part, ballot)
        effects: Effects = []
        for chunk, mask in enumerate(self._masks[part]):
            if mask:
                effects += self._mean_messages([owner], part, chunk, self._at_ballot[part][chunk])
            else:
                head = Part(self.group.id, self.index, part, chunk, ballot)
                loan = self._chunks.contribution(part, chunk)
                self._lent.setdefault(owner, []).append(loan)
                effects.append(Send(self._members[owner], head, loan))
        return effects

    def _mean_messages(self, members: Iterable[int], part: int, chunk: int, ballot: int) -> Effects:
        mask = self._masks[part][chunk].to_bytes(8, "big")
        made_by = self._made_by[part][chunk]
        head = Reduced(self.group.id, self.index, part, chunk, ballot, mask, made_by)
        effects: Effects = []
        view = memoryview(self._chunks.mean(part, chunk))
        for member in members:
            loan = Loan(view)
            self._lent.setdefault(member, []).append(loan)
            effects.append(Send(self._members[member], head, loan))
        return effects

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
        if held is None or self.is_over:
            return []
        is_early = self._missing and len(held.parts) + len(held.means) < len(self._alive)
        if is_early or self._unanswered(held):
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
        return [*self._mean_messages(sorted(self._others), part, chunk, ballot), *noted]

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
        if not members:
            return None
        terms = self._announced.terms(members, names, part) if self._is_bounded else None
        base, last = (terms.base, terms.last_name) if terms is not None else (b"", b"")
        if base and base != self._chunks.origin.name:
            return None
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

    def _numbers(self, part: int, chunk: int, held: _Collected, member: int) -> Vector | None:
        if member == self._mine:
            return self._chunks.own(part, chunk)
        return self._chunks.read(part, chunk, held.parts[member])

    def _unanswered(self, held: _Collected) -> set[int]:
        """Whose answer a chunk lacks: of those that live, and have not said that they hold what we hold."""
        unknown = self._alive - held.means.keys() if held.means else set(self._alive)
        given = held.parts.keys()
        unknown -= given & self._announced.members if self._is_bounded else given
        unknown |= held.doubted & self._alive
        if self._missing:
            return unknown
        return {member for member in unknown if self._done.get(member) != self._outcome}

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

    def abandon(self) -> Effects:
        """Tell the others not to wait for us."""
        self._take_back()
        return self._tell_abandon()

    def _all(self) -> range:
        return range(len(self._members))

    def _part_of(self, member: int) -> int:
        """Return the part that a member owns at first."""
        return (member - self._turn) % len(self._members)

    @property
    def _last_ballot(self) -> int:
        return MAX_CIRCLES * len(self._members)

    def _owner(self, part: int, ballot: int) -> int:
        return (part + self._turn + ballot) % len(self._members)
