"""Gather: every member's small body, the same set on all members, fixed before anything is seen.

    committing --all digests--> revealing --all bodies--> agreeing --> fetching --> finishing --> done
               or silence                   or silence

First everyone sends the hash of its body, and only then the body: nobody can choose his contribution by
the others'. What counts is then agreed on by an all-reduce (all_reduce.py, with its takeovers) of a small
vector, seventeen numbers per member: whether I hold its body, and the sixteen 16-bit words of the body's
hash. The mean, divided by the share of holders, is the hash itself if all holders were told the same, and
nobody's hash if a member told different peers different things: such a body counts for none. A body
that is in the set and never reached us is fetched from whoever holds it.

Nobody leaves before all that live hold the whole set, so that there is always somebody to ask. A body that
nobody alive holds counts for none; should members have come to different sets all the same, since links
failed between some of them, the most common set stands and the others give up.

Everyone thus reduces the same bodies in the same order, and no bit depends on who was fast.
"""

from enum import Enum
from hashlib import blake2b
from typing import Final

import msgspec
import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.all_reduce import AllReduce, Talk
from shoal.gossip.averaging.announcing import ExchangeConfig
from shoal.gossip.averaging.attendance import UNNAMED, Attendance
from shoal.gossip.averaging.origin import EXACT
from shoal.gossip.deadlines import BEAT, Progress
from shoal.gossip.events import Data, Drop, Effects, Send, SetTimer, Timer, Vector
from shoal.gossip.group import Bodies, Group
from shoal.gossip.messages import Abandon, Alive, Cut, Digest, Done, ExchangeMessage, Missing, Reveal

MAX_BODY_BYTES: Final = 4 << 20
INNER_INDEX: Final = 500
"""The inner all-reduce of ask i is exchange i + 500 of the group."""
WORDS: Final = 16
WIDTH: Final = 1 + WORDS


class Step(Enum):
    """Where a gathering stands."""

    COMMITTING = "committing"
    REVEALING = "revealing"
    AGREEING = "agreeing"
    FETCHING = "fetching"
    FINISHING = "finishing"
    DONE = "done"
    FAILED = "failed"


def body_digest(group: bytes, index: int, member: int, body: Data) -> bytes:
    """Return the hash that commits a member to its body in one ask."""
    text = group + index.to_bytes(4, "big") + member.to_bytes(4, "big")
    return blake2b(text + bytes(body), digest_size=32).digest()


def encode_holding(digests: dict[int, bytes], n_members: int) -> Vector:
    """Return the vector that says which bodies we hold, float32 [n_members * 17]."""
    table = np.zeros((n_members, WIDTH), dtype=np.float32)
    for member, digest in digests.items():
        table[member, 0] = 1.0
        table[member, 1:] = np.frombuffer(digest, dtype=">u2")
    return table.reshape(-1)


def decode_holding(mean: Vector) -> dict[int, bytes]:
    """Return the agreed digest of each member in the set, from the mean of everyone's vectors."""
    agreed = {}
    for member, row in enumerate(mean.reshape(-1, WIDTH).astype(np.float64)):
        if row[0] <= 0:
            continue
        words = np.rint(row[1:] / row[0])
        if np.all((words >= 0) & (words <= 0xFFFF)):
            agreed[member] = words.astype(">u2").tobytes()
    return agreed


class Gather(Attendance):
    """One member's side of one gathering. See the module's docstring."""

    def __init__(
        self,
        me: PeerId,
        group: Group,
        index: int,
        body: bytes,
        config: ExchangeConfig,
        ask: bytes = UNNAMED,
    ) -> None:
        """`body`: at most 4 MiB. `ask`: what it is, see `ask_name`."""
        super().__init__(me, group, index, ask)
        self.config = config
        self.step = Step.COMMITTING
        self.bodies: tuple[tuple[PeerId, bytes], ...] = ()
        """The agreed set, sorted by peer id, when done."""
        self.inner: AllReduce | None = None
        self._me = me
        self._held: dict[int, bytes] = {self._mine: body}
        self._digests = {self._mine: body_digest(group.id, index, self._mine, body)}
        self._unproved: dict[int, bytes] = {}
        self._early: list[tuple[PeerId, Talk, Data]] = []
        self._vector: Vector = np.empty(0, dtype=np.float32)
        self._agreed: dict[int, bytes] = {}
        # By member whose body is missing here: whom we ask for it, and who lacks it too.
        self._asking: dict[int, int] = {}
        self._lacking: dict[int, set[int]] = {}
        self._told_lack: set[tuple[int, int]] = set()
        self._due = self._next_tick = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing more is waited for."""
        return self.step in (Step.DONE, Step.FAILED)

    @property
    def outcome(self) -> Bodies | None:
        """See `shoal.gossip.averaging.exchange`."""
        return Bodies(self.bodies) if self.step is Step.DONE else None

    @property
    def unproved(self) -> list[PeerId]:
        """Members whose agreed body is not the one that they committed themselves to before this member."""
        return [
            peer
            for peer, body in self.bodies
            for member in (self._number[peer],)
            if self._digests.get(member) != body_digest(self.group.id, self.index, member, body)
        ]

    @property
    def newcomers_took(self) -> float:
        """See `Attendance`."""
        return super().newcomers_took + (self.inner.newcomers_took if self.inner is not None else 0.0)

    def owns(self, index: int) -> bool:
        """See `shoal.gossip.averaging.exchange`."""
        return index in (self.index, self.index + INNER_INDEX)

    def fire(self, timer: Timer, now: float) -> Effects:
        """See `shoal.gossip.averaging.exchange`."""
        return self.timer(now) if timer is Timer.GATHER else self.inner_timer(now)

    def begin(self, now: float) -> Effects:
        """Commit to our body."""
        self._heard = dict.fromkeys(range(len(self._members)), now)
        self._began = now
        self._due = now + self.config.silence_timeout
        for member in self._others:
            patience, longest = self.config.silence_timeout * self._patience_with(member), self.config.longest
            self._progress[member] = Progress(now, patience, longest, MAX_BODY_BYTES)
        digest = Digest(self.group.id, self.index, self._digests[self._mine], self.ask)
        return [*self._to_all(digest), *self._tick(now), *self._advance(now)]

    def handle(self, peer: PeerId, message: ExchangeMessage, data: Data, now: float) -> Effects:
        """A message of this ask, or of its inner all-reduce, arrived."""
        if peer not in self._number or peer == self._me:
            return []
        member = self._number[peer]
        self._heard[member] = now
        self._spoke.add(member)
        if message.index == self.index + INNER_INDEX:
            return self._to_inner(peer, message, data, now)
        if self.inner is not None:
            self.inner.heard_elsewhere(peer, now, is_ahead=False)
        if self._is_other_ask(message):
            return self._exchange_nothing_with(member, now)
        match message:
            case Abandon():
                return self._lose(member, now)
            case Cut():
                return self._handle_cut(member, message, now)
        if self.is_over:
            return []
        if member not in self._alive:
            return self._turn_away(member)
        self._take_bulk(member, data, now)
        match message:
            case Alive():
                moved = self._note_moved(member, message.moved, now)
                if self.inner is not None:
                    self.inner.moved_elsewhere(peer, moved, now)
            case Digest():
                self._digests.setdefault(member, message.digest)
                self._note_given("digest", member, now)
                early = self._unproved.pop(member, None)
                return self._take(member, early, now) if early is not None else self._advance(now)
            case Reveal():
                return self._handle_reveal(member, message, data, now)
            case Missing():
                return self._handle_missing(member, message, now)
            case Done():
                self._done[member] = message.outcome
                self._note_given("done", member, now)
                return self._finish_if_all_done()
        return []

    def lost(self, peer: PeerId, now: float) -> Effects:
        """Go on without a member."""
        return self._lose(self._number[peer], now) if peer in self._number else []

    def timer(self, now: float) -> Effects:
        """Show that we live, and give up on what has not come."""
        if self.is_over:
            return []
        if now > self._next_tick + BEAT:
            # Our own process slept: that is nobody's silence.
            self._due += now - self._next_tick
            self._heard = dict.fromkeys(self._heard, now)
            for progress in self._progress.values():
                progress.put_off(now - self._next_tick)
        effects = self._to_all(Alive(self.group.id, self.index, self._arrived))
        for member in sorted(self._overdue(now)):
            self._note_failure(member, f"gave nothing for {self.config.silence_timeout:.0f} s", 0)
            effects += self._tell_cut(member) + self._go_on_without(member, now)
        return effects + self._tick(now)

    def inner_timer(self, now: float) -> Effects:
        """Hand a timer on to the inner all-reduce."""
        return self._after_inner(self.inner.timer(now), now) if self.inner is not None else []

    def heard_elsewhere(self, peer: PeerId, now: float, *, is_ahead: bool) -> Effects:
        """See `AllReduce`."""
        if peer not in self._number:
            return []
        member = self._number[peer]
        self._heard[member] = now
        if not is_ahead or self.step is not Step.FINISHING or member not in self._alive:
            return []
        self._done.setdefault(member, self._outcome)
        return self._finish_if_all_done()

    def abandon(self) -> Effects:
        """Tell the others not to wait for us."""
        return self._tell_abandon()

    # --- messages ---------------------------------------------------------------------------------

    def _handle_reveal(self, sender: int, message: Reveal, data: Data, now: float) -> Effects:
        if len(data) > MAX_BODY_BYTES or message.member >= len(self._members):
            return [Drop(self._members[sender], "body is too large"), *self._lose(sender, now)]
        member, body = message.member, bytes(data)
        if self.step is Step.FETCHING:
            if self._agreed.get(member) == body_digest(self.group.id, self.index, member, body):
                self._held[member] = body
            else:
                self._lacking.setdefault(member, set()).add(sender)
            return self._fetch(now)
        is_late = self.step is Step.FINISHING
        if is_late or member != sender or sender in self._held:
            return []
        if sender not in self._digests:
            # Bulk may overtake control: the digest is on its way.
            self._unproved[sender] = body
            return []
        return self._take(sender, body, now)

    def _take(self, sender: int, body: bytes, now: float) -> Effects:
        if body_digest(self.group.id, self.index, sender, body) != self._digests[sender]:
            return [Drop(self._members[sender], "body is not what was committed"), *self._lose(sender, now)]
        self._held[sender] = body
        self._note_given("body", sender, now)
        return self._advance(now)

    def _handle_missing(self, peer: int, message: Missing, now: float) -> Effects:
        effects: Effects = []
        for member in message.members:
            if member in self._held:
                head = Reveal(self.group.id, self.index, member)
                effects.append(Send(self._members[peer], head, self._held[member]))
            else:
                # Who asks for it does not have it; whether we shall is known when the set is.
                self._lacking.setdefault(member, set()).add(peer)
        return effects + self._fetch(now)

    def _handle_cut(self, member: int, message: Cut, now: float) -> Effects:
        cut = self._number.get(message.member)
        if cut is None:
            return []
        is_cut = self._note_cut(member, cut, now, self.config.silence_timeout)
        if cut != self._mine:
            return self._lose(cut, now) if is_cut else []
        if not self.is_over:
            self._note_failure(member, "waited no longer for this node", 0)
        if self._is_incomplete and is_cut:
            return self._fail()
        return self._go_on_without(member, now)

    @property
    def _is_incomplete(self) -> bool:
        return self.step not in (Step.FINISHING, Step.DONE, Step.FAILED)

    def _go_on_without(self, member: int, now: float) -> Effects:
        """See `AllReduce`."""
        if len(self._members) == 2 and self._is_incomplete:
            self._is_new_loss(member)
            self.step = Step.FAILED
            return []
        return self._lose(member, now)

    def _fail(self) -> Effects:
        self.step = Step.FAILED
        return self.abandon()

    def _turn_away(self, member: int) -> Effects:
        """Tell a member once that we do not wait for it: its link to us may never have broken for it."""
        return [] if member in self._told else self._tell_member_cut(member)

    # --- steps ------------------------------------------------------------------------------------

    def _awaited(self) -> set[int]:
        """Members whose word the present step waits for."""
        match self.step:
            case Step.COMMITTING:
                return self._alive - self._digests.keys()
            case Step.REVEALING:
                return self._alive - self._held.keys()
            case Step.FETCHING:
                return set(self._asking.values()) & self._alive
            case Step.FINISHING:
                return self._alive - self._done.keys() - {self._mine}
        return set()

    def _overdue(self, now: float) -> set[int]:
        silence = self.config.silence_timeout
        due = {member: max(self._due_of(member), self._progress[member].due) for member in self._others}
        if self.step is not Step.FINISHING:
            return {member for member in self._awaited() if now >= due.get(member, self._due)}
        # They may be waiting for others whom we do not see, and say that they live.
        more = {member: silence * self._patience_with(member) for member in self._others}
        return {m for m in self._awaited() if now >= min(due[m], self._heard[m]) + more[m]}

    def _due_of(self, member: int) -> float:
        """Return until when a member has what is left of the present step."""
        return self._due - self.config.silence_timeout * (1 - self._patience_with(member))

    def _advance(self, now: float) -> Effects:
        effects: Effects = []
        if self.step is Step.COMMITTING and not self._awaited():
            self.step = Step.REVEALING
            # Others may still wait for the commitment of one that was lost.
            self._due = now + self.config.silence_timeout + 2 * BEAT
            self._note_given("body", self._mine, now)
            effects += self._to_all(Reveal(self.group.id, self.index, self._mine), self._held[self._mine])
        if self.step is Step.REVEALING and not self._awaited():
            effects += self._agree(now)
        return effects

    def _agree(self, now: float) -> Effects:
        self.step = Step.AGREEING
        held = {member: self._digests[member] for member in self._held}
        self._vector = encode_holding(held, len(self._members))
        index = self.index + INNER_INDEX
        # Others may still wait for a body that reached us, for as long as one may wait for bodies.
        cut, numel = self.config.slow_timeout + self.config.silence_timeout, len(self._vector)
        # A part is one chunk, so that what comes early is a handful of messages, whoever owns how much.
        config = msgspec.structs.replace(self.config, slow_timeout=cut, chunk_numel=numel)
        # Of the same shares: who lacks a link to another member reduces nothing here either.
        self.inner = AllReduce(self._me, self.group, index, self._vector, 1.0, config, origin=EXACT)
        effects = self._after_inner(self.inner.begin(now), now)
        for member in sorted(set(range(len(self._members))) - self._alive):
            effects += self._after_inner(self.inner.lost(self._members[member], now), now)
        early, self._early = self._early, []
        for peer, message, data in early:
            effects += self._to_inner(peer, message, data, now)
        return effects

    def _to_inner(self, peer: PeerId, message: ExchangeMessage, data: Data, now: float) -> Effects:
        if not isinstance(message, Talk):
            return []
        if self.inner is None:
            # Others agree already; a handful of small messages per member at most.
            if len(self._early) < 16 * len(self._members) and len(data) <= 4 * WIDTH * len(self._members):
                self._early.append((peer, message, data))
            return []
        return self._after_inner(self.inner.handle(peer, message, data, now), now)

    def _after_inner(self, effects: Effects, now: float) -> Effects:
        if self.step is not Step.AGREEING or self.inner is None or not self.inner.is_over:
            return effects
        if self.inner.result is None:
            self.step = Step.FAILED
            return effects
        self.step = Step.FETCHING
        for peer in self.inner.lost_members:
            self._is_new_loss(self._number[peer])
        self._agreed = decode_holding(self._vector)
        for member in list(self._held):
            # What is not in the set is given to nobody, so that all come to the same end.
            digest = body_digest(self.group.id, self.index, member, self._held[member])
            if self._agreed.get(member) != digest:
                del self._held[member]
        return effects + self._fetch(now)

    def _fetch(self, now: float) -> Effects:
        """Ask one member for each body that is missing; what nobody has counts for none."""
        if self.step not in (Step.FETCHING, Step.FINISHING):
            return []
        wanted: dict[int, list[int]] = {}
        self._asking = {m: holder for m, holder in self._asking.items() if m not in self._held}
        for member in sorted((self._agreed.keys() | self._lacking.keys()) - self._held.keys()):
            lacking = self._lacking.setdefault(member, set())
            if self._asking.get(member) not in self._alive - lacking:
                self._asking.pop(member, None)
                left = sorted(
                    self._alive - lacking - {self._mine}, key=lambda other: (other != member, other)
                )
                if member in self._agreed and left:
                    self._asking[member] = left[0]
                    self._due = now + self.config.silence_timeout
                else:
                    self._agreed.pop(member, None)
            # Those that asked us are told that we lack it too, by our asking them.
            for peer in sorted({self._asking.get(member, self._mine), *lacking} & self._alive - {self._mine}):
                if (peer, member) not in self._told_lack:
                    self._told_lack.add((peer, member))
                    wanted.setdefault(peer, []).append(member)
        asks: Effects = [
            Send(self._members[peer], Missing(self.group.id, self.index, tuple(members)))
            for peer, members in wanted.items()
        ]
        return asks + self._finish_if_complete(now)

    def _finish_if_complete(self, now: float) -> Effects:
        if self.step is not Step.FETCHING or self._agreed.keys() - self._held.keys():
            return []
        self.step = Step.FINISHING
        self._note_given("done", self._mine, now)
        self._due = now + self.config.silence_timeout
        text = b"".join(bytes([member]) + self._agreed[member] for member in sorted(self._agreed))
        self._outcome = blake2b(text, digest_size=16).digest()
        done = Done(self.group.id, self.index, self._outcome)
        return [*self._to_all(done), *self._finish_if_all_done()]

    def _finish_if_all_done(self) -> Effects:
        if self.step is not Step.FINISHING or not self._are_all_done():
            return []
        self.step = Step.DONE if self._has_outcome_that_stands() else Step.FAILED
        self.bodies = tuple(sorted((self._members[m], self._held[m]) for m in self._agreed))
        return [SetTimer(float("inf"), Timer.GATHER)]

    # --- small things -----------------------------------------------------------------------------

    def _lose(self, member: int, now: float) -> Effects:
        if self.is_over:
            return []
        self._is_new_loss(member)
        effects = self._after_inner(self.inner.lost(self._members[member], now), now) if self.inner else []
        return [*effects, *self._fetch(now), *self._advance(now), *self._finish_if_all_done()]

    def _tick(self, now: float) -> Effects:
        self._next_tick = now + min(BEAT, self.config.silence_timeout)
        return [] if self.is_over else [SetTimer(self._next_tick, Timer.GATHER)]
