"""Dissemination: what a node says of itself and others. News crosses any swarm, at little cost in large ones.

    something changed      our record to the neighbours, at once                           push
    every other beat       the same, where nothing has changed: a lease outlives it        push
    every beat             our record and a few others', with one neighbour, both ways     swap
    a new link             our record and some more of those we know                       greeting
    who the new one is     its record to other neighbours, which it may not have met       introduction
    few links              our record to everyone, by GossipSub                            announcement

None of it grows with the swarm: neighbours are some dozens however many peers there are (dial_plan.py),
samples have a size, and announcements are as many in every swarm. Everyone hears those, so what was heard in
the last beat tells how many announce; each announces as often as makes their sum come out right. The same
idea times the words of Trickle: Levis and others, "The Trickle Algorithm", RFC 6206.
"""

from typing import Final, TypeVar

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Effects, Publish, Send
from shoal.gossip.membership.dial_plan import Dice
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.messages import Record, Records
from shoal.gossip.sequence import Sequence

T = TypeVar("T")
INFINITY: Final = float("inf")
MAX_PUSHED: Final = 32
"""Neighbours that are told of a change at once, drawn anew each time; the rest learn it from them."""
PUSH_AFTER: Final = 1.25
"""Beats without a push until the next beat pushes: where nothing changes, every other one does."""
MAX_SAMPLE: Final = 15
"""Records of others that a new neighbour is shown."""
SWAPPED: Final = 7
"""And that two neighbours swap at a beat."""
INTRODUCED: Final = 8
"""Neighbours that are told of a new one."""
SWAP_RARELY: Final = 1 / 3
"""Chance of a swap at a beat where all that we know are neighbours: there is hardly any news to tell."""
ANNOUNCED: Final = 8
"""Announcements per beat that a swarm should hear, however large it is."""


class Dissemination:
    """What one node says of itself. See the module's docstring."""

    def __init__(self, view: SwarmView, dice: Dice, sequence: Sequence, beat: float) -> None:
        """`sequence`: of our records; `beat`: seconds."""
        self.sequence = sequence
        self._view, self._dice, self._beat = view, dice, beat
        self._pushed_at = -INFINITY
        self._heard = 0
        """Announcements since the last beat."""
        self._chance = 1.0
        """Of an announcement of ours at a beat."""

    def heard(self, record: Record) -> Records:
        """Return an announcement as the message that it amounts to, and count it."""
        self._heard += 1
        return Records(((record, 0.0),))

    def record(self) -> Record:
        """Return our own record as it stands."""
        return Record(self._view.me, self.sequence.last, self._view.presence())

    def tell(self, peer: PeerId) -> Effects:
        """Send a peer our record."""
        return [Send(peer, Records(((self.record(), 0.0),)))]

    def push(self, now: float) -> Effects:
        """Tell the neighbours about a change."""
        self.sequence.next()
        self._pushed_at = now
        records = Records(((self.record(), 0.0),))
        return [Send(peer, records) for peer in self._draw(sorted(self._view.table.connected), MAX_PUSHED)]

    def greet(self, peer: PeerId, now: float) -> Effects:
        """Tell a new neighbour of us, and whom else we know."""
        # A newer record than any it may have of us: it may have forgotten us when a link ended.
        self.sequence.next()
        return [Send(peer, self.sample(now, MAX_SAMPLE, reply=False))]

    def introduce(self, record: Record, age: float) -> Effects:
        """Tell neighbours who has just become one: two that met us at the same moment were not told of each
        other when we greeted them.
        """
        others = sorted(self._view.table.connected - {record.author})
        return [Send(peer, Records(((record, age),))) for peer in self._draw(others, INTRODUCED)]

    def answer(self, peer: PeerId, now: float) -> Effects:
        """Give a neighbour records in return for its own."""
        return [Send(peer, self.sample(now, SWAPPED, reply=False))]

    def ask(self, peer: PeerId, now: float) -> Effects:
        """Show a neighbour records as at a beat, and ask for its own."""
        return [Send(peer, self.sample(now, SWAPPED, reply=True))]

    def beat(self, now: float, *, seeks_links: bool) -> Effects:
        """Say what is due at a beat; `seeks_links`: whether we have fewer links than we want."""
        effects = self.push(now) if now >= self._pushed_at + PUSH_AFTER * self._beat else []
        dice, table = self._dice.random, self._view.table
        self.sequence.next()
        knows_strangers = any(peer not in table.connected for peer, _ in table)
        neighbours = sorted(table.connected)
        if neighbours and (knows_strangers or dice() < SWAP_RARELY):
            chosen = neighbours[int(dice() * len(neighbours))]
            effects += self.ask(chosen, now)
        self._chance = min(1.0, self._chance * ANNOUNCED / max(1, self._heard))
        self._heard = 0
        # Of who has links enough, its neighbours tell the others.
        if knows_strangers and seeks_links and dice() < self._chance:
            effects.append(Publish(Records(((self.record(), 0.0),))))
        return effects

    def sample(self, now: float, count: int, *, reply: bool) -> Records:
        """Return our record and a random few of those we know."""
        aged = [
            (entry.record, max(0.0, now - entry.heard))
            for _, entry in self._view.table
            if now - entry.heard < entry.lease
        ]
        return Records(((self.record(), 0.0), *self._draw(aged, count)), reply)

    def _draw(self, some: list[T], count: int) -> list[T]:
        """Return so many of them at random."""
        for place in range(min(count, len(some) - 1) if len(some) > count else 0):
            other = place + int(self._dice.random() * (len(some) - place))
            some[place], some[other] = some[other], some[place]
        return some[:count]
