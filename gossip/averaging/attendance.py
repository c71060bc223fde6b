"""Attendance: who of a group is still there in one exchange, and what they say of its end.

All-reduce and gather differ in what they exchange. What they share is here: members are numbered by their
place in the group, some are lost on the way, and those that live say what they ended with (`Done`). Where
members ended with different things, the most common outcome stands.

A member that no longer waits for another says so to all (`Cut`). One word alone binds nobody: the member that
is cut goes on without the one that cut it, and gives up only if more than half of the members that it hears
cut it. The others go on without it under the same condition. So no member ends a round for the rest. In a
group of two there is no rest, and the exchange ends for both. Newcomers have no voice.

What opens an exchange names the ask. With a member that asks for something else nothing is exchanged. Where
half of the members or more do, the exchange ends at once.
"""

from abc import abstractmethod
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from shoal.crypto.keys import PeerId, short
from shoal.gossip.deadlines import BEAT, Progress
from shoal.gossip.events import Data, Effects, Send
from shoal.gossip.group import Group
from shoal.gossip.messages import Abandon, Announce, Cut, Digest, ExchangeMessage

NEWCOMERS_SHARE: Final = 0.5
"""Of the time that other members have, which newcomers have: they reduce nothing, and wait for nobody."""
UNNAMED: Final = bytes(8)
"""The ask of an exchange that is part of another: it is not compared."""


def ask_name(kind: str, tag: str) -> bytes:
    """Return the digest by which members compare asks."""
    return blake2b(f"{kind} {tag}".encode(), digest_size=8, person=b"shoal/ask").digest()


MEGABYTE: Final = 1e6


@dataclass(frozen=True, slots=True)
class Attendee:
    """How far one member is, as this one sees it."""

    peer: PeerId
    is_lost: bool
    is_done: bool
    """Whether it has all, as it says."""
    bytes_received: int
    """Of bulk that came from it."""
    bytes_taken: int
    """Of bulk that came to it, as it says; of this member, what came to it."""


class Attendance:
    """The members of one exchange. See the module's docstring."""

    def __init__(self, me: PeerId, group: Group, index: int, ask: bytes = UNNAMED) -> None:
        """`index`: of the ask within the round, from 0. `ask`: see `ask_name`."""
        self.group, self.index, self.ask = group, index, ask
        self.lost_members: list[PeerId] = []
        self.unlike: list[PeerId] = []
        """Members that ask for something else, in the order in which this showed."""
        self._members = group.members
        self._number = {peer: number for number, peer in enumerate(group.members)}
        self._mine = self._number[me]
        self._alive = set(range(len(group.members)))
        self._outcome = b""
        """A digest of what we ended with; empty until then."""
        self._done: dict[int, bytes] = {}
        """By member: the outcome that it told us."""
        self.unfair_cuts: list[PeerId] = []
        """Members that cut us before they can have waited for us."""
        self._began = 0.0
        self._spoke: set[int] = set()
        """Members that this exchange heard."""
        self._cut_by: dict[int, set[int]] = {}
        """By member: who waits for it no longer."""
        self._newcomers = {self._number[peer] for peer in group.newcomers if peer in self._number}
        self._given: dict[str, dict[bool, float]] = {}
        """By step: when the last of the newcomers (True) and of the others (False) gave what it had to."""
        self._told: set[int] = set()
        """Members that know, from us or by themselves, that we do not wait for each other."""
        self._heard: dict[int, float] = {}
        self.failure = ""
        """Why a member was lost first, for whoever asks why nothing came of it."""
        self._arrived = 0
        """Bytes of bulk that have come."""
        self._progress: dict[int, Progress] = {}
        self._told_moved: dict[int, int] = {}
        """By member: how many bytes have come to it, as it says."""
        self._partial: dict[int, int] = {}
        """By member: how much has come of a message that is not here yet."""
        self._came: dict[int, int] = {}
        """By member: bytes of bulk that have come from it."""

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether nothing more is waited for."""

    @abstractmethod
    def _go_on_without(self, member: int, now: float) -> Effects:
        """Lose a member; in a group of two, end."""

    @abstractmethod
    def _fail(self) -> Effects:
        """End without an outcome, and tell the others."""

    @property
    def attendees(self) -> tuple[Attendee, ...]:
        """How far each member is."""
        return tuple(
            Attendee(
                peer,
                is_lost=number not in self._alive,
                is_done=bool(self._outcome) if number == self._mine else number in self._done,
                bytes_received=self._came.get(number, 0),
                bytes_taken=self._arrived if number == self._mine else self._told_moved.get(number, 0),
            )
            for number, peer in enumerate(self._members)
        )

    @property
    def share_done(self) -> float | None:
        """How much of what is exchanged is here; nothing where it cannot be told."""
        return None

    @property
    def newcomers_took(self) -> float:
        """Seconds for which newcomers alone were waited for, that gave what they had to."""
        return sum((max(0.0, each[True] - each[False]) for each in self._given.values()), 0.0)

    def _note_given(self, step: str, member: int, now: float) -> None:
        """A member gave what this step awaits of it."""
        if self._newcomers:
            times = self._given.setdefault(step, {True: self._began, False: self._began})
            times[member in self._newcomers] = now

    def _patience_with(self, member: int) -> float:
        """Return the share of the usual time that a member has."""
        return NEWCOMERS_SHARE if member in self._newcomers else 1.0

    @property
    def _others(self) -> AbstractSet[int]:
        return self._alive - {self._mine}

    def _to_all(self, message: ExchangeMessage, data: Data = b"") -> Effects:
        return [Send(self._members[member], message, data) for member in sorted(self._others)]

    def arriving(self, peer: PeerId, n_bytes: int, now: float) -> None:
        """So many bytes have come of a message of this peer that is not here yet."""
        member = self._number.get(peer, self._mine)
        if member == self._mine:
            return
        self._heard[member] = now
        known = self._partial.get(member, 0)
        self._partial[member] = n_bytes
        self._has_come(member, max(0, n_bytes - known), now)

    def _take_bulk(self, member: int, data: Data, now: float) -> None:
        """A message with bulk is here: what is not yet counted of it is."""
        if len(data):
            self._has_come(member, max(0, len(data) - self._partial.pop(member, 0)), now)

    def _has_come(self, member: int, n_bytes: int, now: float) -> None:
        """So many bytes more have come of a member's bulk."""
        self._arrived += n_bytes
        self._came[member] = self._came.get(member, 0) + n_bytes
        self._earn(member, n_bytes, now)

    def _note_moved(self, member: int, moved: int, now: float) -> int:
        """A member says how much has come to it: it may be waiting for what we do not see.

        Returns how much more that is than it said before.
        """
        known = self._told_moved.get(member, 0)
        self._told_moved[member] = max(known, moved)
        more = max(0, moved - known)
        # It came to it at some time since it spoke last.
        self._earn(member, more, now - BEAT)
        return more

    def _earn(self, member: int, n_bytes: int, now: float) -> None:
        """Bytes renew the patience with a member, from the beat in which they came: all then tell alike."""
        if n_bytes and member in self._progress:
            self._progress[member].moved(n_bytes, now - (now - self._began) % BEAT)

    def _note_failure(self, member: int, what: str, expected: int) -> None:
        """Take note of why a member is lost; the first reason is the one that counts."""
        if not self.failure:
            came, all_ = min(self._arrived, expected) / MEGABYTE, expected / MEGABYTE
            progress = f"; {came:.3g} of {all_:.3g} MB had come" if expected else ""
            self.failure = f"{short(self._members[member])} {what}{progress}"

    def _tell_abandon(self) -> Effects:
        return self._to_all(Abandon(self.group.id, self.index))

    def _tell_cut(self, member: int) -> Effects:
        """Tell all that we wait for a member no longer."""
        self._told.add(member)
        told = sorted(self._others | {member})
        return [Send(self._members[each], self._cut_of(member)) for each in told]

    def _tell_member_cut(self, member: int) -> Effects:
        """Tell a member alone: the others know, or need not."""
        self._told.add(member)
        return [Send(self._members[member], self._cut_of(member))]

    def _cut_of(self, member: int) -> Cut:
        return Cut(self.group.id, self.index, self._members[member])

    def _note_cut(self, member: int, cut: int, now: float, deadline: float) -> bool:
        """Take note that `member` cut another, or us; tells whether that binds us.

        `deadline`: for how long a member may wait for another, in seconds.
        """
        if cut == self._mine:
            self._told.add(member)
            is_early = now <= self._began + deadline / 2
            if is_early and member in self._others and self._members[member] not in self.unfair_cuts:
                # All that it can have waited for by now was given as soon as it was there to give.
                self.unfair_cuts.append(self._members[member])
        if member not in self._newcomers:
            self._cut_by.setdefault(cut, set()).add(member)
        cutters = self._cut_by.get(cut, set())
        # Until it could be silence, who lives counts as heard: a quick liar must not be the only one.
        heard = set(self._spoke)
        if now < self._began + deadline:
            heard |= self._others
        heard -= self._newcomers | {self._mine}
        return 2 * len(cutters) > len(heard)

    def _is_other_ask(self, message: ExchangeMessage) -> bool:
        """Whether a message opens another exchange than this."""
        return isinstance(message, (Announce, Digest)) and self.ask not in (UNNAMED, message.ask)

    def _exchange_nothing_with(self, member: int, now: float) -> Effects:
        """Go on without a member that asks for something else, or end where half of the members do."""
        if self.is_over or member not in self._others:
            return []
        self.unlike.append(self._members[member])
        # One member must not end it for the rest.
        voters = set(self._members) - {self._members[each] for each in self._newcomers}
        if 2 * len(voters.intersection(self.unlike)) >= len(voters):
            return self._fail()
        told = Send(self._members[member], Abandon(self.group.id, self.index))
        return [told, *self._go_on_without(member, now)]

    def _is_new_loss(self, member: int) -> bool:
        """Go on without a member; False if we do already, or if it is this node."""
        if member not in self._others:
            return False
        self._alive.discard(member)
        self.lost_members.append(self._members[member])
        return True

    def _are_all_done(self) -> bool:
        return self._others <= self._done.keys()

    def _has_outcome_that_stands(self) -> bool:
        """Whether we ended with what most of those that live ended with; among equals, the largest digest."""
        outcomes = [self._outcome, *(self._done[member] for member in self._others)]
        return self._outcome == max(outcomes, key=lambda each: (outcomes.count(each), each))
