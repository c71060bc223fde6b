"""Convening: when a search waits no longer, and what becomes of the offer that a convener makes.

    who is ready --> it is my turn: Propose --all accept--> Commit
                                       '--some decline or stay silent--> again without them

A convener decides nothing: its offer follows from what its members said (proposals.py).
"""

from collections.abc import Set as AbstractSet

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Effects, Send
from shoal.gossip.matchmaking.bandwidth import MOST, halvings_by
from shoal.gossip.matchmaking.grid import deal
from shoal.gossip.matchmaking.offering import Offering
from shoal.gossip.matchmaking.proposals import (
    commit_of,
    derived_shares,
    mask_of,
    named_by,
)
from shoal.gossip.matchmaking.search import INFINITY, Search, State
from shoal.gossip.matchmaking.standing import seated
from shoal.gossip.messages import (
    Accept,
    Decline,
    Propose,
    Unheard,
)


class Convening(Search):
    """One node's own offers in one search. See the module's docstring."""

    # --- whether to go on -------------------------------------------------------------------------

    def _evaluate(self, now: float) -> Effects:
        if self.state is not State.WAITING:
            return []
        awaited = self.expected - self.silent
        everyone = len(awaited & self.ready.keys()) >= self.config.share * len(awaited)
        newcomers_until = self._newcomers_until(awaited - self.ready.keys(), now)
        everyone = everyone or now >= newcomers_until
        enough = self._is_enough()
        if len(self._known()) < self.config.company:
            self._waiting_for = None
            return self._fire(INFINITY)
        overdue = (now >= self._go_at or self._is_called) and enough
        if not ((everyone and enough) or overdue or now >= self._give_up_at):
            self._waiting_for = None
            go_at = min(self._go_at, newcomers_until)
            return self._fire(go_at if enough and now < go_at else self._give_up_at)
        groups = deal(self._candidates(), self.round, self.config.group_size)
        members = next(group for group in groups if self.me in group)
        convener = self.turns.next_of(members)
        if convener is None:
            # All had their turn: from the start.
            self.turns.passed.clear()
            self._waiting_for = None
            return self._fire(now + self.config.answer_wait)
        if convener == self.me and len(members) == 1 and self.declined and now < self._give_up_at:
            # Rather than alone, with those whose own groups do not come about.
            self._waiting_for = None
            return self._fire(min(now + self.config.answer_wait, self._give_up_at))
        if convener == self.me:
            return self._propose(members, now)
        if self._waiting_for != convener:
            self._waiting_for = convener
            # One that reaches more than we do may be waiting for a peer that we do not see.
            reaches_more = self.ready[convener].unreached < self.ready[self.me].unreached
            return self._fire(max(now + self.config.answer_wait, self._go_at if reaches_more else 0.0))
        return []

    def _newcomers_until(self, late: AbstractSet[PeerId], now: float) -> float:
        """Return until when these are waited for, if they are newcomers, and all others are ready."""
        has_limit = self.config.newcomer_wait < INFINITY
        if not (late and has_limit and all(map(self._standing.is_newcomer, late))):
            if self._known_at < INFINITY:
                self.newcomers_took += now - self._known_at
            self._known_at = INFINITY
            return INFINITY
        self._known_at = min(self._known_at, now)
        return self._known_at + self.config.newcomer_wait

    # --- an offer ---------------------------------------------------------------------------------

    def _seat(self, members: list[PeerId]) -> tuple[tuple[PeerId, ...], frozenset[PeerId]]:
        """Return who is in our group, and which of them are newcomers: those that get one of few seats."""
        found = [peer for peer in members if peer != self.me and self._standing.is_newcomer(peer)]
        if self.config.mode != "open" or not found:
            return tuple(members), frozenset()
        # Another one in every round.
        found.sort(key=self.turns.place)
        able = [peer for peer in found if peer not in self._standing.muted | self.tardy]
        some = seated(able, len(members) - len(found), self._standing)
        return tuple(peer for peer in members if peer not in found or peer in some), some

    def _propose(self, dealt: list[PeerId], now: float) -> Effects:
        self._ballot = max(self._ballot, self._promised[0] + 1 if self._promised else 0)
        members, newcomers = self._seat(dealt)
        shares = derived_shares(members, self.ready, newcomers, MOST[self.config.mode])
        mask = mask_of(members, newcomers)
        halvings = halvings_by([self.ready[member].uplink for member in members])
        proposal = Propose(
            self.round, self.base, self._ballot, self._nonce, members, shares, halvings, newcomers=mask
        )
        self._offering, self.state = Offering(self.me, proposal), State.PROPOSING
        self._asked_at, self._hurried_at = now, INFINITY
        self._waiting_for = None
        # A peer that does not know that we are ready takes no proposal of ours.
        effects = self._tell_ready(frozenset(members) - self._told - {self.me}, now)
        effects += [Send(peer, proposal) for peer in members if peer != self.me]
        return effects + self._fire(now + self.config.answer_wait) + self._commit_if_complete(now)

    def _missing(self) -> frozenset[PeerId]:
        return self._offering.missing if self._offering is not None else frozenset()

    def _withdraw_offer(self) -> None:
        self._offering, self.state = None, State.WAITING
        self._ballot += 1

    def _is_ours(self, message: Accept | Decline | Unheard) -> bool:
        """Tell whether a word is about the group that we offer now."""
        ours = (self._ballot, self._nonce)
        return self.state is State.PROPOSING and (message.ballot, message.nonce) == ours

    def _commit_if_complete(self, now: float) -> Effects:
        if self._offering is None or self._offering.missing:
            return []
        proposal, self._proof = self._offering.final()
        self._commit = commit = commit_of(proposal, self.me)
        # Those that are not in it are told too: its members are taken.
        told = dict.fromkeys((*commit.members, *sorted(self.ready.keys() - self.silent)))
        effects: Effects = []
        for peer in told:
            if peer in commit.members and peer != self.me:
                effects += self._tell_commit(peer)
            elif peer != self.me:
                effects.append(Send(peer, commit))
        return effects + self._form(commit, now)

    # --- what members say to it -------------------------------------------------------------------

    def handle_accept(self, peer: PeerId, message: Accept, now: float, sealed: bytes = b"") -> Effects:
        """A member joins the group we offered."""
        offering = self._offering
        if offering is None or not self._is_ours(message) or peer not in offering.members:
            return []
        offering.accept(peer, message, sealed)
        self.declined.discard(peer)
        if not offering.missing and self._hurried_at < INFINITY:
            self.newcomers_took += now - self._hurried_at
        return (
            self._commit_if_complete(now) or self._go_on_without_declined(now) or self._hurry_newcomers(now)
        )

    def handle_decline(self, peer: PeerId, message: Decline, now: float) -> Effects:
        """A member of the group we offered is promised to another, or our convener is."""
        if self.state is State.PROMISED and self._promised == (message.ballot, peer):
            self.state, self._promised = State.WAITING, None
            self.turns.pass_over(peer)
            return self._evaluate(now)
        offering = self._offering
        if offering is None or not self._is_ours(message) or peer not in offering.members - {self.me}:
            return []
        offering.accepted.discard(peer)
        if self.config.share < 1.0:
            self.declined.add(peer)
            return self._go_on_without_declined(now)
        # Where all see all, two conveners of one group have met, and the better proposal is on its way.
        offering.reluctant.add(peer)
        return self._yield_turn(offering, now) if offering.is_unwanted else []

    def handle_unheard(self, peer: PeerId, message: Unheard) -> Effects:
        """A member of the group we offered asks for the words that it follows from."""
        if self._offering is None or not self._is_ours(message):
            return []
        return self._offering.show(peer, message, self.ready, self._sealed)

    def _yield_turn(self, offering: Offering, now: float) -> Effects:
        """Let others convene: by the order of our members it is not our turn."""
        gone = Decline(self.round, offering.proposal.ballot, self._nonce)
        told = [Send(peer, gone) for peer in sorted(offering.accepted - {self.me})]
        self._withdraw_offer()
        self.turns.passed.add(self.me)
        return [*told, *self._evaluate(now)]

    def _go_on_without_declined(self, now: float) -> Effects:
        """Once all have answered, propose again to those that said yes."""
        if self._missing() - self.declined:
            return []
        self._withdraw_offer()
        return self._evaluate(now)

    def _hurry_newcomers(self, now: float) -> Effects:
        """Once only newcomers have not answered, give them half of the time that others have."""
        offering = self._offering
        if offering is None or not offering.missing:
            return []
        newcomers = named_by(offering.proposal.members, offering.proposal.newcomers)
        if not offering.missing <= set(newcomers):
            return []
        self._hurried_at = min(self._hurried_at, now)
        return self._fire(min(self._fire_at, now + self.config.answer_wait / 2))
