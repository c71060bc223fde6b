"""Gathering: every member's small body, the same set on all members, fixed before anything is seen.

    committing --all digests--> revealing --all bodies--> agreeing --> fetching --> done
               or silence                   or silence

First everyone sends the hash of its body, and only then the body: nobody can choose his contribution by
the others'. What counts is then agreed on by an all-reduce (averaging.py, with its takeovers) of a small
vector, seventeen numbers per member: whether I hold its body, and the sixteen 16-bit words of the body's
hash. The mean, divided by the share of holders, is the hash itself if all holders were told the same, and
nobody's hash if a member told different peers different things: such a body counts for none. A body
that is in the set and never reached us is fetched from whoever holds it.

Everyone thus reduces the same bodies in the same order, and no bit depends on who was fast.
"""

from enum import Enum
from hashlib import blake2b
from typing import Final

import numpy as np

from crypto.keys import PeerId
from gossip.averaging import Averaging, AveragingConfig, Talk
from gossip.core import Data, Drop, Effects, Send, SetTimer, Vector
from gossip.matchmaking import Group
from gossip.messages import Abandon, Alive, Cut, Digest, Exchange, Missing, Reveal

TIMER: Final = "gathering"
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


class Gathering:
    """One member's side of one gathering. See the module's docstring."""

    def __init__(self, me: PeerId, group: Group, index: int, body: bytes, config: AveragingConfig) -> None:
        """`body`: at most 4 MiB."""
        self.group, self.index, self.config = group, index, config
        self.step = Step.COMMITTING
        self.bodies: tuple[tuple[PeerId, bytes], ...] = ()
        """The agreed set, sorted by peer id, when done."""
        self.inner: Averaging | None = None
        self.lost_members: list[PeerId] = []
        self._me = me
        self._members = group.members
        self._mine = group.members.index(me)
        self._held: dict[int, bytes] = {self._mine: body}
        self._digests = {self._mine: body_digest(group.id, index, self._mine, body)}
        self._unproved: dict[int, bytes] = {}
        self._alive = set(range(len(group.members)))
        self._early: list[tuple[PeerId, Talk, Data]] = []
        self._agreed: dict[int, bytes] = {}
        self._asked: dict[int, list[int]] = {}
        self._vector: Vector = np.empty(0, dtype=np.float32)
        self._due = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing more is waited for."""
        return self.step in (Step.DONE, Step.FAILED)

    def begin(self, now: float) -> Effects:
        """Commit to our body."""
        digest = Digest(self.group.id, self.index, self._digests[self._mine])
        effects: Effects = [Send(peer, digest) for peer in self._others()]
        return effects + self._wait(now) + self._advance(now)

    def handle(self, peer: PeerId, message: Exchange, data: Data, now: float) -> Effects:
        """A message of this ask, or of its inner all-reduce, arrived."""
        if peer not in self._members or peer == self._me:
            return []
        member = self._members.index(peer)
        if message.index == self.index + INNER_INDEX:
            return self._to_inner(peer, message, data, now)
        match message:
            case Digest():
                self._digests.setdefault(member, message.digest)
                early = self._unproved.pop(member, None)
                return self._take(member, member, early, now) if early is not None else self._advance(now)
            case Reveal():
                return self._handle_reveal(member, message, data, now)
            case Missing():
                return self._handle_missing(peer, message)
            case Abandon() | Cut():
                return self._lose(member, now)
        return []

    def lost(self, peer: PeerId, now: float) -> Effects:
        """Go on without a member."""
        if peer not in self._members:
            return []
        return self._lose(self._members.index(peer), now)

    def timer(self, now: float) -> Effects:
        """Give up on what has not come."""
        if self.is_over or now < self._due:
            return []
        if self.step is Step.FETCHING:
            return self._ask_next(now)
        for member in sorted(self._awaited()):
            self._forget(member)
        return self._advance(now)

    def inner_timer(self, now: float) -> Effects:
        """Hand a timer on to the inner all-reduce."""
        return self._after_inner(self.inner.timer(now), now) if self.inner is not None else []

    def abandon(self) -> Effects:
        """Tell the others not to wait for us."""
        gone = Abandon(self.group.id, self.index)
        return [Send(peer, gone) for peer in self._others()]

    # --- messages ---------------------------------------------------------------------------------

    def _handle_reveal(self, sender: int, message: Reveal, data: Data, now: float) -> Effects:
        if len(data) > MAX_BODY_BYTES or message.member >= len(self._members):
            return [Drop(self._members[sender], "body is too large"), *self._lose(sender, now)]
        body = bytes(data)
        if self.step is Step.FETCHING:
            member = message.member
            digest = body_digest(self.group.id, self.index, member, body)
            if self._agreed.get(member) == digest:
                self._held[member] = body
            return self._finish_if_complete(now)
        if message.member != sender or sender in self._held:
            return []
        if sender not in self._digests:
            # Bulk may overtake control: the digest is on its way.
            self._unproved[sender] = body
            return []
        return self._take(sender, sender, body, now)

    def _take(self, sender: int, member: int, body: bytes, now: float) -> Effects:
        if body_digest(self.group.id, self.index, member, body) != self._digests[member]:
            return [Drop(self._members[sender], "body is not what was committed"), *self._lose(sender, now)]
        self._held[member] = body
        return self._advance(now)

    def _handle_missing(self, peer: PeerId, message: Missing) -> Effects:
        return [
            Send(peer, Reveal(self.group.id, self.index, member), self._held[member])
            for member in message.members
            if member in self._held
        ]

    # --- steps ------------------------------------------------------------------------------------

    def _awaited(self) -> set[int]:
        """Members whose word the present step waits for."""
        have = self._digests if self.step is Step.COMMITTING else self._held
        return self._alive - have.keys()

    def _advance(self, now: float) -> Effects:
        effects: Effects = []
        if self.step is Step.COMMITTING and not self._awaited():
            self.step = Step.REVEALING
            reveal = Reveal(self.group.id, self.index, self._mine)
            effects += [Send(peer, reveal, self._held[self._mine]) for peer in self._others()]
            effects += self._wait(now)
        if self.step is Step.REVEALING and not self._awaited():
            effects += self._agree(now)
        return effects

    def _agree(self, now: float) -> Effects:
        self.step = Step.AGREEING
        held = {member: self._digests[member] for member in self._held}
        self._vector = encode_holding(held, len(self._members))
        index = self.index + INNER_INDEX
        group = Group(self.group.id, self.group.round, self._members, (1,) * len(self._members))
        self.inner = Averaging(self._me, group, index, self._vector, 1.0, self.config)
        effects = [SetTimer(float("inf"), TIMER), *self._after_inner(self.inner.begin(now), now)]
        for member in set(range(len(self._members))) - self._alive:
            effects += self._after_inner(self.inner.lost(self._members[member], now), now)
        early, self._early = self._early, []
        for peer, message, data in early:
            effects += self._to_inner(peer, message, data, now)
        return effects

    def _to_inner(self, peer: PeerId, message: Exchange, data: Data, now: float) -> Effects:
        if not isinstance(message, Talk):
            return []
        if self.inner is None:
            # Others agree already; a handful of small messages per member at most.
            if len(self._early) < 16 * len(self._members) and len(data) <= 4 * WIDTH * len(self._members):
                self._early.append((peer, message, data))
            return []
        if self.step is Step.AGREEING or not isinstance(message, Alive):
            return self._after_inner(self.inner.handle(peer, message, data, now), now)
        return []

    def _after_inner(self, effects: Effects, now: float) -> Effects:
        if self.step is not Step.AGREEING or self.inner is None or not self.inner.is_over:
            return effects
        if self.inner.result is None:
            self.step = Step.FAILED
            return effects
        self.step = Step.FETCHING
        self._agreed = decode_holding(self._vector)
        for member, digest in self._agreed.items():
            body = self._held.get(member)
            if body is not None and body_digest(self.group.id, self.index, member, body) != digest:
                del self._held[member]
        return effects + self._finish_if_complete(now)

    def _finish_if_complete(self, now: float) -> Effects:
        if self.step is not Step.FETCHING:
            return []
        if self._agreed.keys() - self._held.keys():
            return self._ask_next(now) if not self._asked else []
        self.step = Step.DONE
        agreed = [(self._members[member], self._held[member]) for member in self._agreed]
        self.bodies = tuple(sorted(agreed))
        return [SetTimer(float("inf"), TIMER)]

    def _ask_next(self, now: float) -> Effects:
        """Ask one more member for each body that is missing; what nobody has counts for none."""
        effects: Effects = []
        wanted: dict[int, list[int]] = {}
        for member in sorted(self._agreed.keys() - self._held.keys()):
            asked = self._asked.setdefault(member, [self._mine])
            left = sorted((self._alive | {member}) - set(asked), key=lambda other: (other != member, other))
            if not left:
                del self._agreed[member]
                continue
            asked.append(left[0])
            wanted.setdefault(left[0], []).append(member)
        for holder, members in wanted.items():
            missing = Missing(self.group.id, self.index, tuple(members))
            effects.append(Send(self._members[holder], missing))
        if not wanted:
            return self._finish_if_complete(now)
        return effects + self._wait(now)

    # --- small things -----------------------------------------------------------------------------

    def _others(self) -> list[PeerId]:
        return [peer for peer in self._members if peer != self._me]

    def _forget(self, member: int) -> None:
        if member in self._alive:
            self._alive.discard(member)
            self.lost_members.append(self._members[member])

    def _lose(self, member: int, now: float) -> Effects:
        self._forget(member)
        effects = self._after_inner(self.inner.lost(self._members[member], now), now) if self.inner else []
        return effects if self.is_over else effects + self._advance(now)

    def _wait(self, now: float) -> Effects:
        self._due = now + self.config.stall
        return [SetTimer(self._due, TIMER)]
