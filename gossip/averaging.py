"""Averaging: the all-reduce of one group, with parts that survive their owners.

The vector is cut into one part per member, sized by the members' shares, and a part into chunks of
1 MiB. Every member sends each owner its chunks; the owner adds them in member order as soon as
all have come, and sends the mean back with the list of contributors. Chunks flow independently, so
reducing, encrypting and sending overlap. A received mean takes the place of our own contribution,
which nobody needs any more: one buffer serves both.

    per part:   ballot 0, owner = member p      --owner lost-->   ballot b, owner = member (p + b) mod n

Whoever notices a lost owner moves to the next ballot and yields to the next owner, who claims the part
from everyone. To a claim each member answers, chunk by chunk, with the mean if it has one
and else with its contribution; a member that has promised itself to a ballot takes no means of lower
ones. The new owner adopts the mean of the highest ballot it is shown, and reduces again only what
nobody has. That is single-decree Paxos per chunk (Lamport, The Part-Time Parliament, 1998), with
the mean as value; it makes all members that stay connected end with the same bytes. One that does not is
told apart by its state hash and fetches the state of the others.

Waiting: a member that sends nothing for `stall` seconds is lost (those that wait themselves say that they are
alive); one that is alive but slow is cut at `cut`. It is told, and a member cut by half of the others gives
up: the round went on without it.

A member that dies leaves its chunks in the means that are made already, and nothing in the others: each
mean names its contributors.
"""

from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec
import numpy as np

from crypto.keys import PeerId
from gossip.chunks import Chunks, weighted_mean
from gossip.codecs import Feedback
from gossip.core import Data, Drop, Effects, Send, SetTimer, Vector
from gossip.errors import LocalViolation
from gossip.matchmaking import Group
from gossip.messages import Abandon, Alive, Claim, Cut, Part, Reduced, Yield

CHUNK_NUMEL: Final = 1 << 18
TIMER: Final = "averaging"
BEATS: Final = 4
"""Signs of life per `stall`, so that one that is late is not taken for death."""
OWNER_GRACE: Final = 1.5
"""Owners are cut later than senders by this factor: they may be waiting for a sender that we do not see."""

Talk: TypeAlias = Part | Reduced | Yield | Claim | Alive | Cut | Abandon


class AveragingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an exchange goes by."""

    stall: float = 15.0
    """Seconds without a sign of a member we wait for, after which it counts as lost; learned."""
    cut: float = 60.0
    """Seconds after which members that are merely slow are left out; learned."""
    max_norm: float = 1e15
    """The largest Euclidean norm of a chunk that is believed."""
    codec: str = "float32"
    """How numbers travel (gossip/codecs.py). Equal on all peers."""
    chunk_numel: int = CHUNK_NUMEL
    """Numbers per chunk. Equal on all peers."""


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The exchange is complete: the buffer holds the mean."""

    masks: tuple[tuple[int, ...], ...]
    """Per part, per chunk: the contributors as a bit mask over the group's members."""
    contributors: tuple[PeerId, ...]
    """Who is in every chunk, sorted."""
    takeovers: int
    """How many parts changed their owner."""


@dataclass(slots=True)
class _Collected:
    """What an owner holds of a chunk that is not yet reduced."""

    parts: dict[int, tuple[Data, float]] = field(default_factory=dict)
    means: dict[int, tuple[int, int, Data]] = field(default_factory=dict)
    """By member: (ballot, mask, mean), shown in answer to a claim."""


def is_sane(numbers: Vector, max_norm: float = 1e15) -> bool:
    """Tell whether numbers may take part: finite, and not absurdly large."""
    # One pass: a NaN or an infinity anywhere makes the square sum not finite.
    return bool(np.dot(numbers, numbers) <= max_norm**2)


class Averaging:
    """One member's side of one all-reduce. See the module's docstring."""

    def __init__(
        self,
        me: PeerId,
        group: Group,
        index: int,
        vector: Vector,
        weight: float,
        config: AveragingConfig,
        feedback: Feedback | None = None,
    ) -> None:
        """`vector` float32 [n] is the contribution and becomes the mean, in place.

        `feedback` float32 [n]: what lossy codecs owe from earlier rounds; updated.
        """
        self.group, self.index, self.config = group, index, config
        self.result: Exchanged | None = None
        self.is_left_out = False
        self.lost_members: list[PeerId] = []
        self._members = group.members
        self._mine = group.members.index(me)
        self._weight = weight
        self._chunks = Chunks(vector, group.shares, config.chunk_numel, config.codec, feedback)
        self._alive = set(range(len(group.members)))
        self._ballot = [0] * len(group.members)
        self._masks: list[list[int]] = [[0] * self._chunks.count(p) for p in self._all()]
        self._at_ballot: list[list[int]] = [[0] * self._chunks.count(p) for p in self._all()]
        self._missing = sum(len(masks) for masks in self._masks)
        self._collected: dict[int, dict[int, _Collected]] = {}
        self._claimed: set[int] = set()
        self._answered = [0] * len(group.members)
        self._cut_by: set[int] = set()
        self._heard: dict[int, float] = {}
        self._began = 0.0

    # --- commands ---------------------------------------------------------------------------------

    def begin(self, now: float) -> Effects:
        """Send every owner its chunks."""
        self._began = now
        self._heard = dict.fromkeys(self._all(), now)
        effects: Effects = []
        for step in range(len(self._members)):
            # Everyone starts with another owner, so that no owner is everyone's first.
            effects += self._contribute((self._mine + step) % len(self._members))
        return [*effects, *self._tick(now)]

    def timer(self, now: float) -> Effects:
        """Show that we live, and give up on members that are silent or slower than the deadline."""
        if self.is_over:
            return []
        senders, owners = self._waited_for()
        effects: Effects = []
        for member in sorted(senders | owners):
            grace = OWNER_GRACE if member in owners - senders else 1.0
            silent = now - self._heard[member] >= self.config.stall
            if silent or now - self._began >= grace * self.config.cut:
                effects.append(Send(self._members[member], Cut(self.group.id, self.index)))
                effects += self._lose(member, now)
        effects += [
            Send(self._members[m], Alive(self.group.id, self.index))
            for m in sorted(self._alive - {self._mine})
        ]
        return [*effects, *self._tick(now)]

    def lost(self, peer: PeerId, now: float) -> Effects:
        """Go on without a member whose link is gone, or who abandons the exchange."""
        member = self._member(peer)
        return [] if member is None or member == self._mine else self._lose(member, now)

    def abandon(self) -> Effects:
        """Tell the others not to wait for us."""
        gone = Abandon(self.group.id, self.index)
        return [Send(self._members[m], gone) for m in sorted(self._alive - {self._mine})]

    # --- messages ---------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing more is waited for: complete, or left out."""
        return self.result is not None or self.is_left_out

    def handle(self, peer: PeerId, message: Talk, data: Data, now: float) -> Effects:
        """A message of this exchange arrived."""
        member = self._member(peer)
        if member is None or member == self._mine:
            return []
        self._heard[member] = now
        match message:
            case Alive():
                return []
            case Abandon():
                return self._lose(member, now)
            case Cut():
                return self._handle_cut(member, now)
        if member not in self._alive or message.part >= len(self._members):
            return []
        match message:
            case Part():
                return self._handle_part(member, message, data, now)
            case Reduced():
                return self._handle_reduced(member, message, data, now)
            case Yield():
                return self._handle_yield(member, message, now)
            case Claim():
                return self._handle_claim(member, message, now)

    def _handle_part(self, member: int, message: Part, data: Data, now: float) -> Effects:
        part, chunk = message.part, message.chunk
        if self._owner(part, message.ballot) != self._mine or message.ballot != self._ballot[part]:
            return []
        if not self._chunks.fits(part, chunk, data):
            return self._violation(member, "wrong chunk size", now)
        if self._is_mean(part, chunk):
            return []
        self._of(part, chunk).parts.setdefault(member, (data, message.weight))
        return self._reduce_if_complete(part, chunk, now)

    def _handle_reduced(self, member: int, message: Reduced, data: Data, now: float) -> Effects:
        part, chunk = message.part, message.chunk
        mask = int.from_bytes(message.contributors, "big")
        if not self._chunks.fits(part, chunk, data) or not 0 < mask < 1 << len(self._members):
            return self._violation(member, "wrong mean", now)
        if self._owner(part, self._ballot[part]) == self._mine and part in self._claimed:
            if self._is_mean(part, chunk):
                return []
            self._of(part, chunk).means.setdefault(member, (message.ballot, mask, data))
            return self._reduce_if_complete(part, chunk, now)
        if self._owner(part, message.ballot) != member or message.ballot < self._ballot[part]:
            return []
        self._ballot[part] = message.ballot
        if self._is_mean(part, chunk) and message.ballot <= self._at_ballot[part][chunk]:
            return []
        mean = self._chunks.read(part, chunk, data)
        if mean is None or not self._is_sane(mean):
            return self._violation(member, "mean is not finite", now)
        if self.is_over:
            return []
        self._chunks.store(part, chunk, data, mean)
        return self._note_mean(part, chunk, message.ballot, mask)

    def _handle_yield(self, member: int, message: Yield, now: float) -> Effects:
        part, ballot = message.part, message.ballot
        if self._owner(part, ballot) != self._mine or ballot < self._ballot[part]:
            return []
        if all(self._masks[part]):
            # Nothing to claim: we have it all, and hand on what the yielder missed.
            self._ballot[part] = ballot
            return self._means(part, member, ballot)
        return self._take_over(part, ballot, now)

    def _handle_claim(self, member: int, message: Claim, now: float) -> Effects:
        part, ballot = message.part, message.ballot
        if self._owner(part, ballot) != member or ballot < self._ballot[part]:
            return []
        if ballot <= self._answered[part]:
            return []
        self._ballot[part] = self._answered[part] = ballot
        return self._contribute(part)

    def _handle_cut(self, member: int, now: float) -> Effects:
        self._cut_by.add(member)
        if 2 * len(self._cut_by) >= len(self._members) - 1 and self.result is None:
            self.is_left_out = True
            return [SetTimer(float("inf"), TIMER)]
        return self._lose(member, now)

    # --- contributions ----------------------------------------------------------------------------

    def _contribute(self, part: int) -> Effects:
        """Give the part's owner, chunk by chunk, the mean if we have it, else our contribution."""
        owner, ballot = self._owner(part, self._ballot[part]), self._ballot[part]
        effects: Effects = []
        for chunk, mask in enumerate(self._masks[part]):
            if owner == self._mine:
                if not mask:
                    self._of(part, chunk).parts[self._mine] = (b"", self._weight)
                    effects += self._reduce_if_complete(part, chunk, self._heard[self._mine])
            elif mask:
                effects.append(self._mean_message(owner, part, chunk, self._at_ballot[part][chunk]))
            else:
                head = Part(self.group.id, self.index, part, chunk, ballot, self._weight)
                effects.append(Send(self._members[owner], head, self._chunks.contribution(part, chunk)))
        return effects

    def _means(self, part: int, member: int, ballot: int) -> Effects:
        return [self._mean_message(member, part, chunk, ballot) for chunk in range(len(self._masks[part]))]

    def _mean_message(self, member: int, part: int, chunk: int, ballot: int) -> Send:
        mask = self._masks[part][chunk].to_bytes(8, "big")
        head = Reduced(self.group.id, self.index, part, chunk, ballot, mask)
        return Send(self._members[member], head, self._chunks.mean(part, chunk))

    # --- reducing ---------------------------------------------------------------------------------

    def _reduce_if_complete(self, part: int, chunk: int, now: float) -> Effects:
        held = self._of(part, chunk)
        if self._is_mean(part, chunk) or not self._alive <= held.parts.keys() | held.means.keys():
            return []
        if held.means:
            member, (_, mask, data) = max(held.means.items(), key=lambda shown: shown[1][0])
            shown = self._chunks.read(part, chunk, data)
            if shown is None or not self._is_sane(shown):
                del held.means[member]
                return self._violation(member, "mean is not finite", now)
            self._chunks.store(part, chunk, data, shown)
        else:
            mean = self._mean(part, chunk, held)
            if mean is None or not self._is_sane(mean, slack=2.0):
                return self._blame(part, chunk, held, now)
            self._chunks.make(part, chunk, mean)
            mask = sum(1 << member for member in held.parts)
        del self._collected[part][chunk]
        effects = self._note_mean(part, chunk, self._ballot[part], mask)
        for member in sorted(self._alive - {self._mine}):
            effects.append(self._mean_message(member, part, chunk, self._ballot[part]))
        return effects

    def _mean(self, part: int, chunk: int, held: _Collected) -> Vector | None:
        # In member order, so that the sum rounds alike whatever arrived first.
        members = sorted(held.parts)
        vectors = [self._numbers(part, chunk, held, member) for member in members]
        known = [vector for vector in vectors if vector is not None]
        if len(known) < len(vectors):
            return None
        return weighted_mean(known, [held.parts[member][1] for member in members])

    def _blame(self, part: int, chunk: int, held: _Collected, now: float) -> Effects:
        """Find who made a mean impossible, and go on without them."""
        effects: Effects = []
        for member in sorted(held.parts):
            numbers = self._numbers(part, chunk, held, member)
            if numbers is not None and self._is_sane(numbers):
                continue
            if member == self._mine:
                raise LocalViolation("a contribution that is not finite was let in by this node itself")
            del held.parts[member]
            effects += self._violation(member, "contribution is not finite", now)
        return effects + self._reduce_if_complete(part, chunk, now)

    def _note_mean(self, part: int, chunk: int, ballot: int, mask: int) -> Effects:
        if self.is_over:
            return []
        self._missing -= not self._is_mean(part, chunk)
        self._masks[part][chunk], self._at_ballot[part][chunk] = mask, ballot
        if self._missing:
            return []
        everyone = -1
        for masks in self._masks:
            for seen in masks:
                everyone &= seen
        contributors = tuple(sorted(m for i, m in enumerate(self._members) if everyone >> i & 1))
        takeovers = sum(ballot > 0 for ballot in self._ballot)
        self.result = Exchanged(tuple(tuple(masks) for masks in self._masks), contributors, takeovers)
        return [SetTimer(float("inf"), TIMER)]

    # --- losing members ---------------------------------------------------------------------------

    def _violation(self, member: int, reason: str, now: float) -> Effects:
        return [Drop(self._members[member], reason), *self._lose(member, now)]

    def _lose(self, member: int, now: float) -> Effects:
        if member not in self._alive or member == self._mine:
            return []
        self._alive.discard(member)
        self.lost_members.append(self._members[member])
        effects: Effects = []
        for part in self._all():
            if self._owner(part, self._ballot[part]) == member and not all(self._masks[part]):
                effects += self._next_owner(part, now)
            elif self._owner(part, self._ballot[part]) == self._mine:
                for chunk in list(self._collected.get(part, ())):
                    effects += self._reduce_if_complete(part, chunk, now)
        return effects

    def _next_owner(self, part: int, now: float) -> Effects:
        ballot = self._ballot[part] + 1
        while self._owner(part, ballot) not in self._alive:
            ballot += 1
        owner = self._owner(part, ballot)
        if owner == self._mine:
            return self._take_over(part, ballot, now)
        self._ballot[part] = ballot
        self._heard[owner] = now
        return [Send(self._members[owner], Yield(self.group.id, self.index, part, ballot))]

    def _take_over(self, part: int, ballot: int, now: float) -> Effects:
        """Own the part from this ballot on; nothing to do where we do already."""
        if ballot == 0 or (ballot <= self._ballot[part] and part in self._claimed):
            return []
        self._ballot[part] = ballot
        self._claimed.add(part)
        self._collected.pop(part, None)
        effects: Effects = []
        for member in sorted(self._alive - {self._mine}):
            self._heard[member] = now
            effects.append(Send(self._members[member], Claim(self.group.id, self.index, part, ballot)))
        for chunk, mask in enumerate(self._masks[part]):
            if mask:
                # Ours already: tell those who lack it, under the new ballot.
                effects += [
                    self._mean_message(m, part, chunk, ballot) for m in sorted(self._alive - {self._mine})
                ]
        return effects + self._contribute(part)

    # --- small things -----------------------------------------------------------------------------

    def _all(self) -> range:
        return range(len(self._members))

    def _member(self, peer: PeerId) -> int | None:
        return self._members.index(peer) if peer in self._members else None

    def _owner(self, part: int, ballot: int) -> int:
        return (part + ballot) % len(self._members)

    def _is_mean(self, part: int, chunk: int) -> bool:
        return self._masks[part][chunk] != 0

    def _is_sane(self, numbers: Vector, slack: float = 1.0) -> bool:
        # `slack` for means: rounding must not make a mean worse than everything in it.
        return is_sane(numbers, slack * self.config.max_norm)

    def _numbers(self, part: int, chunk: int, held: _Collected, member: int) -> Vector | None:
        if member == self._mine:
            return self._chunks.view(part, chunk)
        return self._chunks.read(part, chunk, held.parts[member][0])

    def _of(self, part: int, chunk: int) -> _Collected:
        return self._collected.setdefault(part, {}).setdefault(chunk, _Collected())

    def _waited_for(self) -> tuple[set[int], set[int]]:
        """Members without whom the exchange cannot go on: as senders, and as owners."""
        senders: set[int] = set()
        owners: set[int] = set()
        for part in self._all():
            owner = self._owner(part, self._ballot[part])
            if owner != self._mine:
                if not all(self._masks[part]):
                    owners.add(owner)
                continue
            for chunk, mask in enumerate(self._masks[part]):
                if not mask:
                    held = self._of(part, chunk)
                    senders |= self._alive - held.parts.keys() - held.means.keys()
        return (senders & self._alive) - {self._mine}, (owners & self._alive) - {self._mine}

    def _tick(self, now: float) -> Effects:
        return [] if self.is_over else [SetTimer(now + self.config.stall / BEATS, TIMER)]
