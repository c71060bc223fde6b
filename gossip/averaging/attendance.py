"""Attendance: who of a group is still there in one exchange, and what they say of its end.

All-reduce and gather differ in what they exchange. What they share is here: members are numbered by their
place in the group, some are lost on the way, and those that live say what they ended with (`Done`). Where
members ended with different things, the most common outcome stands.
"""

from collections.abc import Set as AbstractSet

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Data, Effects, Send
from shoal.gossip.group import Group
from shoal.gossip.messages import Abandon, Cut, ExchangeMessage


class Attendance:
    """The members of one exchange. See the module's docstring."""

    def __init__(self, me: PeerId, group: Group, index: int) -> None:
        """`index`: of the ask within the round, from 0."""
        self.group, self.index = group, index
        self.lost_members: list[PeerId] = []
        self._members = group.members
        self._number = {peer: number for number, peer in enumerate(group.members)}
        self._mine = self._number[me]
        self._alive = set(range(len(group.members)))
        self._outcome = b""
        """A digest of what we ended with; empty until then."""
        self._done: dict[int, bytes] = {}
        """By member: the outcome that it told us."""
        self._cut_by: set[int] = set()
        self._told: set[int] = set()
        """Members that know, from us or by themselves, that we do not wait for each other."""
        self._heard: dict[int, float] = {}

    @property
    def _others(self) -> AbstractSet[int]:
        return self._alive - {self._mine}

    def _to_all(self, message: ExchangeMessage, data: Data = b"") -> Effects:
        return [Send(self._members[member], message, data) for member in sorted(self._others)]

    def _tell_abandon(self) -> Effects:
        return self._to_all(Abandon(self.group.id, self.index))

    def _tell_cut(self, member: int) -> Effects:
        """Tell a member that we wait for it no longer."""
        self._told.add(member)
        return [Send(self._members[member], Cut(self.group.id, self.index))]

    def _is_cut_by_half(self, member: int) -> bool:
        """Take note that a member cut us; tells whether half of the others have."""
        self._cut_by.add(member)
        self._told.add(member)
        return 2 * len(self._cut_by) >= len(self._members) - 1

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
