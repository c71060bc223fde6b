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

from typing import Final, TypeAlias

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.ledger import Verdict
from shoal.gossip.averaging.reducing import Reducing
from shoal.gossip.deadlines import BEAT, SHORTEST_TIMEOUT
from shoal.gossip.events import Data, Effects, SetTimer, Timer
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
Talk: TypeAlias = (
    Part | Reduced | Alive | Done | Announce | Announcements | Unannounced | Yield | Claim | Cut | Abandon
)
"""By how often it comes."""
Heard: TypeAlias = Talk | Digest
"""What is taken of a member; a digest tells what it asks for."""
NUMBERED: Final = (Part, Reduced, Yield, Claim)
"""What is about a part."""


class AllReduce(Reducing):
    """One member's side of one all-reduce. See the module's docstring."""

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

    def moved_elsewhere(self, peer: PeerId, n_bytes: int, now: float) -> None:
        """So much has come to a member in what this exchange is a part of: it is not here yet, and moves."""
        member = self._number.get(peer, self._mine)
        self._earn(member, n_bytes, now - BEAT)

    # --- messages ---------------------------------------------------------------------------------

    def owns(self, index: int) -> bool:
        """See `shoal.gossip.averaging.exchange`."""
        return index == self.index

    def fire(self, timer: Timer, now: float) -> Effects:
        """See `shoal.gossip.averaging.exchange`."""
        return self.timer(now) if timer is Timer.ALL_REDUCE else []

    def handle(self, peer: PeerId, message: ExchangeMessage, data: Data, now: float) -> Effects:
        """A message of this exchange arrived."""
        member = self._number.get(peer, self._mine)
        if member == self._mine or not isinstance(message, Heard):
            return []
        self._heard[member] = now
        self._spoke.add(member)
        # Nearly all are about a part.
        if not isinstance(message, NUMBERED):
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
                case Announce() | Announcements() | Unannounced():
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

    # --- deadlines --------------------------------------------------------------------------------

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
        silent = {m for m in self._others if now - self._heard[m] >= silence * self._patience_with(m)}
        if not silent and all(now < self._progress[member].due for member in self._others):
            return []  # whoever is waited for has until then at least
        return [
            member for member, due in sorted(self._waited_for().items()) if now >= due or member in silent
        ]

    def _tick(self, now: float) -> Effects:
        self._next_tick = now + min(BEAT, self.config.silence_timeout)
        return [] if self.is_over else [SetTimer(self._next_tick, Timer.ALL_REDUCE)]
