"""Matchmaking: peers that are ready for the same round agree on a group, with no one in charge.

    waiting --all expected are ready, or the deadline--> convener of my group?
        yes: proposing --all accept--> formed
                 |--some decline, or stay silent--> propose again without them, one ballot higher
        no:  waiting --Propose--> promised --Commit--> formed
                 '----silence----> the next peer in hash order convenes

Ready peers are sorted by a hash of (run, peer) and dealt into ceil(n / group_size) groups that mix over
rounds (grid.py). The first of each group convenes it (turns.py). A convener decides nothing: a proposal is
taken only from a peer that said `Ready`, in its turn by our own order, and only if it is what we derive from
the `Ready`s that we hold, or that the convener shows us (proposals.py). Views may differ for a moment: then
two conveners propose, and a peer promises itself to the one whose turn is before the other's. A member that
declines says so at once (`Decline`). A convener that half of its members decline steps down, and says so. It
tells the ready that are not in its group that its members are taken. So where there are many
groups, and hardly two peers see the same others, nobody waits for silence to learn it.

Members need not all be linked to each other, only to their convener: so of colleagues whoever has links to
most convenes, before all hashes, and leaves out nobody. Who lacks a link to another member gets no part of
the vector to reduce, and so speaks only with those that everyone reaches.

Invariants: a core leaves for `formed` at most once; a group is committed only after every member has
accepted it; a member that finds itself committed twice abandons the second group at once, aloud; and one that
is shown a group of an earlier search again does the same, since what it gave there is not what it has now.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Effects, Send
from shoal.gossip.matchmaking.bandwidth import MOST
from shoal.gossip.matchmaking.convening import Convening
from shoal.gossip.matchmaking.proposals import (
    commit_of,
    derived_shares,
    leaves_out_most,
    mask_of,
    named_by,
)
from shoal.gossip.matchmaking.search import State
from shoal.gossip.matchmaking.standing import seats
from shoal.gossip.matchmaking.turns import Claim
from shoal.gossip.messages import (
    Abandon,
    Accept,
    Commit,
    Decline,
    Negotiation,
    Propose,
    Ready,
    Shown,
    Unheard,
)

MAX_BALLOT: Final = 1000
"""Ballots that are believed: an honest search needs a few."""
MAX_PATIENT: Final = 2
"""Ballots for which a member that declines, and so lives, is asked again."""
NOT_READY: Final = "proposal of a peer that is not ready"
OUT_OF_TURN: Final = "proposal out of turn"
NOT_DERIVED: Final = "proposal that does not follow from what its members said"
LEAVES_OUT: Final = "proposal that leaves out most colleagues"
SEATS_NEWCOMERS: Final = "proposal with other newcomers than there are"
OTHER_GROUP: Final = "committed another group than it had offered"


class Matchmaking(Convening):
    """One round's search for a group. See the module's docstring."""

    # --- commands ---------------------------------------------------------------------------------

    def begin(self, expected: Iterable[PeerId], early: Iterable[tuple[PeerId, Ready]], now: float) -> Effects:
        """Start seeking. `expected`: peers worth waiting for; `early`: who was ready before us."""
        self.expected = frozenset(expected) - {self.me}
        self.ready.update(early)
        self._go_at = now + self.config.ready_wait
        self._give_up_at = now + self.config.patience
        return self._tell_ready(self.expected, now) + self._evaluate(now)

    def expect(self, expected: Iterable[PeerId], now: float) -> Effects:
        """Take note of who is there now; newcomers are told that we are ready."""
        fresh = frozenset(expected) - {self.me}
        news = fresh - self.expected
        self.expected = fresh
        if self.state is State.FORMED:
            return []
        return self._tell_ready(news, now) + self._evaluate(now)

    def wait_for_no_more(self, now: float) -> Effects:
        """Nobody is to come who is not here yet."""
        self.config = msgspec.structs.replace(self.config, wait_for=1)
        return self._evaluate(now)

    def lost(self, peer: PeerId, now: float) -> Effects:
        """Go on without a peer whose link is gone or who left."""
        self.expected -= {peer}
        self._told.discard(peer)
        self.turns.forget(peer)
        self.owing.pop(peer, None)
        return self.withdraw(peer, now)

    def withdraw(self, peer: PeerId, now: float) -> Effects:
        """Take note that a peer is not ready any more: it is gone, gave up, or is elsewhere."""
        self.ready.pop(peer, None)
        if self.state is State.PROMISED and self._promised and self._promised[1] == peer:
            self.state = State.WAITING
        elif self.state is State.PROPOSING and peer in self._missing():
            self._withdraw_offer()
        return self._evaluate(now)

    def timer(self, now: float) -> Effects:
        """Go on: something that was waited for did not come."""
        if self.state is State.FORMED or now < self._fire_at:
            return []
        self._n_waits += 1
        if self.state is State.PROPOSING and self._offering is not None:
            lives = self._offering.reluctant if self._ballot < MAX_PATIENT else set()
            self.silent |= self._missing() - lives
            self.tardy |= set(filter(self._standing.is_newcomer, self._missing()))
            self._withdraw_offer()
        elif self.state is State.PROMISED and self._promised is not None:
            self.turns.pass_over(self._promised[1])
            self.owing[self._promised[1]] = self._asked_at
            self.state = State.WAITING
        elif self._waiting_for is not None:
            self.turns.pass_over(self._waiting_for)
        self.turns.passed.discard(self.me)
        self.declined.clear()
        return self._evaluate(now)

    # --- messages ---------------------------------------------------------------------------------

    def handle(self, peer: PeerId, message: Negotiation, now: float, sealed: bytes = b"") -> Effects:
        """A peer that is ready has something to say about a group; `sealed`: as it came."""
        match message:
            case Propose():
                return self.handle_propose(peer, message, now)
            case Accept():
                return self.handle_accept(peer, message, now, sealed)
            case Decline():
                return self.handle_decline(peer, message, now)
            case Commit():
                return self.handle_commit(peer, message, now)
            case Unheard():
                return self.handle_unheard(peer, message)
            case Shown():
                return self.handle_shown(peer, message)

    def handle_ready(self, peer: PeerId, message: Ready, now: float) -> Effects:
        """A peer is ready too."""
        if message.base != self.base:
            return []
        if self._commit is not None:
            # A member that is still ready has lost its convener, and our commit with it.
            return self._tell_commit(peer) if peer in self._commit.members else []
        self.silent.discard(peer)
        is_news = peer not in self.ready
        self.ready[peer] = message
        return self._evaluate(now) if is_news else []

    def handle_propose(self, peer: PeerId, message: Propose, now: float) -> Effects:
        """A convener offers a group."""
        if message.base != self.base or not self._is_sound(peer, message.members, message.shares):
            return []
        if self.state is State.FORMED:
            # An honest convener that missed our commit learns of it, whether it is a member or not.
            return self._tell_commit(peer)
        if peer not in self.ready or message.ballot > MAX_BALLOT:
            self._refuse(peer, NOT_READY)
            return []
        decline = Send(peer, Decline(self.round, message.ballot, message.nonce))
        if not self._is_turn_of(peer, message.members):
            self._refuse(peer, OUT_OF_TURN)
            return [decline, *self._call(peer, now)]
        reason = self._objection(peer, message)
        if reason is NOT_DERIVED and self._accepted.asks(peer, message):
            return [self._ask(peer, message)]
        if reason is not None:
            self._refuse(peer, reason)
            return [decline]
        mine = (self._ballot, self.me)
        best = {State.PROPOSING: mine, State.PROMISED: self._promised}.get(self.state)
        if best is not None and not self._is_better((message.ballot, peer), best):
            return [decline]
        return self._promise(peer, message, now)

    def handle_shown(self, peer: PeerId, message: Shown) -> Effects:
        """A convener shows what members of its group said."""
        if self._accepted.awaits(peer):
            self._accepted.show(peer, message)
        return []

    def handle_commit(self, peer: PeerId, message: Commit, now: float) -> Effects:
        """A group stands: ours, if we accepted it."""
        if peer == message.convener and self._accepted.is_contradicted(message):
            # It offered us another group under this ballot, so this is none. The one it offered may stand.
            self.faults.append((peer, OTHER_GROUP))
            return []
        if message.base != self.base or not self._is_sound(message.convener, message.members, message.shares):
            return self._taken_elsewhere(peer, message, now)
        found = self._group_of(message)
        if self.group is not None and self.group.id == found.id:
            return []
        if self.group is not None or not self._accepted.has(message) or found.id in self._past:
            # Of an earlier search or life: what we gave to it then is not what we have now.
            gone = Abandon(found.id, 0)
            effects: Effects = [Send(other, gone) for other in message.members if other != self.me]
            return effects if self.group is not None else effects + self.withdraw(peer, now)
        if not self._accepted.is_kept(message, self.me, self._links_to(message.members)):
            if peer == message.convener:
                self.faults.append((peer, OTHER_GROUP))
            return []
        self._proof = self._accepted.proof(message.convener)
        return self._form(message, now)

    def matches(self, group: bytes) -> bool:
        """Tell whether an exchange message of this group shows that our promise was committed."""
        if self.state is not State.PROMISED or self._proposal is None or self._promised is None:
            return False
        promised = self._group_of(commit_of(self._proposal, self._promised[1])).id
        return promised == group and group not in self._past

    def ask_about_group(self, peer: PeerId, now: float) -> Effects:
        """Ask a peer that is at an exchange already: its group may be ours, if our convener died."""
        is_ours = self._accepted.includes(peer)
        if self.state is not State.WAITING or not is_ours or peer in self._asked:
            return []
        self._asked.add(peer)
        return self._tell_ready(frozenset({peer}), now)

    def form_promised(self, now: float) -> Effects:
        """Form the group we promised ourselves to: its commit was lost, but its exchange has begun."""
        assert self._proposal is not None
        assert self._promised is not None
        return self._form(commit_of(self._proposal, self._promised[1]), now)

    # --- proposals of others ----------------------------------------------------------------------

    def _refuse(self, peer: PeerId, reason: str) -> None:
        self.refused[reason] += 1
        if peer not in self._standing.supporters and peer not in self._standing.nearly:
            self.faults.append((peer, reason))

    def _is_turn_of(self, peer: PeerId, members: tuple[PeerId, ...]) -> bool:
        """Tell whether nobody may convene before a peer, as far as we know."""
        # Whom it leaves out where there are several groups may be in another.
        rivals = set(members) & self.ready.keys() if self._is_several else self._known()
        if peer in self.turns.passed and not self._accepted.may_be_again(peer, members):
            # It was silent after a proposal that we had accepted.
            return False
        if self._is_stalled and peer in self._standing.supporters:
            return True
        if self.state is State.PROMISED or not self._is_enough():
            rivals = rivals - {self.me}
        return self.turns.is_turn_of(peer, rivals)

    def _is_better(self, one: Claim, other: Claim) -> bool:
        supporters = self._standing.supporters | {self.me}
        if self._is_stalled and {one[1], other[1]} <= supporters:
            return self.turns.is_higher(one, other)
        return self.turns.is_better(one, other)

    def _call(self, peer: PeerId, now: float) -> Effects:
        """Wait for nobody else, since a peer that may convene waits no longer."""
        if peer not in self._standing.supporters or self.state is not State.WAITING:
            return []
        self._is_called = True
        return self._evaluate(now)

    def _ask(self, peer: PeerId, message: Propose) -> Send:
        """Ask a convener for what its members signed."""
        unheard = set(message.members) - self.ready.keys()
        mask = mask_of(message.members, unheard or set(message.members) - {peer})
        return Send(peer, Unheard(self.round, message.ballot, message.nonce, mask))

    def _objection(self, convener: PeerId, message: Propose) -> str | None:
        """Return why a proposal is not what follows from the words of its members."""
        members = set(message.members)
        ready = {**self.ready, **self._accepted.ready_shown_by(convener)}
        if not members <= ready.keys():
            return NOT_DERIVED
        newcomers = frozenset(named_by(message.members, message.newcomers))
        if message.shares != derived_shares(message.members, ready, newcomers, MOST[self.config.mode]):
            return NOT_DERIVED
        if not self._may_seat(convener, message.members, newcomers):
            return SEATS_NEWCOMERS
        held = self.ready.keys() - {self.me}
        if not self._is_several and leaves_out_most(members, self._standing.supporters, held):
            return LEAVES_OUT
        return None

    def _may_seat(self, convener: PeerId, members: tuple[PeerId, ...], newcomers: frozenset[PeerId]) -> bool:
        """Tell whether a proposal may count these members as newcomers, and no others."""
        if self.config.mode != "open":
            return not newcomers
        if len(newcomers) > seats(len(members) - len(newcomers)) or convener in newcomers:
            return False
        if not self._standing.are_spread(newcomers):
            return False
        if not (self._standing.colleagues or self.turns.is_settled(convener)):
            return not newcomers
        # In several groups everyone meets others.
        return self._is_several or self._standing.is_plausible(set(members) - {self.me}, newcomers)

    def _promise(self, peer: PeerId, message: Propose, now: float) -> Effects:
        effects = self._step_down(peer)
        self.state, self._promised, self._proposal = State.PROMISED, (message.ballot, peer), message
        self._ballot = max(self._ballot, message.ballot)
        self._offering = self._waiting_for = None
        self._asked_at = now
        self.owing.pop(peer, None)
        self.turns.take(peer)
        self._accepted.add(peer, message)
        accept = Accept(self.round, message.ballot, message.nonce, self._links_to(message.members))
        return [*effects, Send(peer, accept), *self._fire(now + self.config.answer_wait)]

    def _step_down(self, better: PeerId) -> Effects:
        """Tell those that count on us, or on whom we count, that we are promised to a better convener now."""
        if self.state is State.PROPOSING and self._offering is not None:
            proposal, others = self._offering.proposal, self._offering.members - {self.me, better}
        elif self.state is State.PROMISED and self._promised and self._promised[1] != better:
            assert self._proposal is not None
            proposal, others = self._proposal, frozenset({self._promised[1]})
        else:
            return []
        gone = Decline(self.round, proposal.ballot, proposal.nonce)
        return [Send(other, gone) for other in proposal.members if other in others]

    def _taken_elsewhere(self, peer: PeerId, message: Commit, now: float) -> Effects:
        """Someone we proposed to shows a group without us: they are taken for this round."""
        if self.me in message.members or self.state is State.FORMED or peer not in message.members:
            return []
        is_trusted = self._is_several or peer in self._standing.supporters
        taken = set(message.members) if is_trusted else {peer}
        for member in taken:
            self.ready.pop(member, None)
        self.expected -= taken
        if self.state is State.PROPOSING and taken & self._missing():
            self._withdraw_offer()
        elif self.state is State.PROMISED and self._promised and self._promised[1] in taken:
            self.state, self._promised = State.WAITING, None
        return self._evaluate(now)
