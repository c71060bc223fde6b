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

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from hashlib import blake2b
from types import MappingProxyType
from typing import Final

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Effects, Send, SetTimer, Timer
from shoal.gossip.group import Group
from shoal.gossip.matchmaking.accepted import Accepted
from shoal.gossip.matchmaking.bandwidth import MOST, halvings_by
from shoal.gossip.matchmaking.grid import deal
from shoal.gossip.matchmaking.offering import Offering
from shoal.gossip.matchmaking.proposals import (
    commit_of,
    derived_shares,
    group_id,
    leaves_out_most,
    mask_of,
    named_by,
)
from shoal.gossip.matchmaking.standing import Standing, seated, seats
from shoal.gossip.matchmaking.turns import Claim, Turns
from shoal.gossip.messages import (
    Abandon,
    Accept,
    Commit,
    Decline,
    Negotiation,
    Propose,
    Ready,
    Shown,
    Signed,
    Unheard,
)
from shoal.gossip.run_spec import CHUNK_NUMEL

INFINITY: Final = float("inf")
MAX_BALLOT: Final = 1000
"""Ballots that are believed: an honest search needs a few."""
MAX_PATIENT: Final = 2
"""Ballots for which a member that declines, and so lives, is asked again."""
MAX_WAITS: Final = 2
"""Times that a search waits in vain before turns give way to ballots."""
NOT_READY: Final = "proposal of a peer that is not ready"
OUT_OF_TURN: Final = "proposal out of turn"
NOT_DERIVED: Final = "proposal that does not follow from what its members said"
LEAVES_OUT: Final = "proposal that leaves out most colleagues"
SEATS_NEWCOMERS: Final = "proposal with other newcomers than there are"
OTHER_GROUP: Final = "committed another group than it had offered"


NOBODY: Final = Standing()
NOTHING: Final[Mapping[PeerId, bytes]] = MappingProxyType({})


class State(Enum):
    """Where a peer stands in matchmaking."""

    WAITING = "waiting"
    PROPOSING = "proposing"
    PROMISED = "promised"
    FORMED = "formed"


class MatchmakingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What matchmaking goes by."""

    group_size: int = 16
    quorum: int = 1
    company: int = 1
    """As many must be ready, for however long that takes: who waits for company never gives up."""
    share: float = 1.0
    """Of those expected that must be ready; where there are many groups, nobody need wait for the last."""
    wait_for: int = 1
    """So many must have been ready at some time, whatever group they are in by now."""
    ready_wait: float = 15.0
    """Seconds from our own readiness until we go on without those still expected; learned."""
    answer_wait: float = 2.0
    """Seconds until a convener or a member that does not answer counts as silent; learned."""
    newcomer_wait: float = INFINITY
    """Seconds that newcomers have, once all others are ready."""
    patience: float = 15.0
    """Seconds until we go on with whoever is there."""
    max_chunk_numel: int = CHUNK_NUMEL
    """Of the run: what a commit's `halvings` halve, once for each half of `QUICK_LINE`."""
    several: bool = False
    """Whether there are more peers than fit into a group, as far as we know."""
    mode: str = "open"
    """Of the run: open, invite or closed."""


def place(run: bytes, peer: PeerId) -> bytes:
    """Return where a peer stands on the grid, in every round."""
    return blake2b(run + peer.encode(), digest_size=8).digest()


class Matchmaking:
    """One round's search for a group. See the module's docstring."""

    def __init__(
        self,
        me: PeerId,
        run: bytes,
        round_: int,
        base: bytes,
        config: MatchmakingConfig,
        nonce: int,
        linked: AbstractSet[PeerId],
        uplink: int = 0,
        unreached: int = 0,
        past: Container[bytes] = (),
        standing: Standing = NOBODY,
        sealed: Mapping[PeerId, bytes] = NOTHING,
    ) -> None:
        """`base`: the hash of the state everyone in the group must have started from, or 32 zero bytes.

        `nonce`: another for every search, so that no group is ever formed twice; `linked`: to whom we have
        links; `uplink`: kB/s, 0 where that is not known; `unreached`: to how many that work on the run we
        have no link; `past`: groups that we have been in; `standing`: what we know of our peers; `sealed`:
        what those that are ready signed, as it came.
        """
        self.me, self.run, self.round, self.base = me, run, round_, base
        self.config, self._nonce = config, nonce
        self._linked, self._past = linked, past
        self.state = State.WAITING
        self.group: Group | None = None
        self._standing, self._sealed = standing, sealed
        ready = Ready(round_, base, uplink, 0.0, unreached, bool(standing.colleagues))
        self.ready: dict[PeerId, Ready] = {me: ready}
        self.turns = Turns(me, run, round_, standing, self.ready)
        self._met: set[PeerId] = set()
        self.silent: set[PeerId] = set()
        """Did not answer a proposal: left out of the next."""
        self.tardy: set[PeerId] = set()
        """Newcomers among them: they get no seat in this search, however often they are ready again."""
        self.declined: set[PeerId] = set()
        """Promised to others just now: left out of the next proposal, and asked again after a while."""
        self.refused: Counter[str] = Counter()
        """Proposals that were not taken, by reason."""
        self.faults: list[tuple[PeerId, str]] = []
        """Conveners that did what no honest one does."""
        self.owing: dict[PeerId, float] = {}
        """Conveners that we had accepted and that then said nothing, and since when."""
        self.expected: frozenset[PeerId] = frozenset()
        self._commit: Commit | None = None
        self._offering: Offering | None = None
        """What we have offered, while we propose."""
        self._proposal: Propose | None = None
        """What we are promised to."""
        self._promised: Claim | None = None
        self._accepted = Accepted(round_, base)
        self._asked: set[PeerId] = set()
        self._is_called = False
        """Whether somebody that may convene has proposed out of turn, and so waits no longer."""
        self._told: set[PeerId] = set()
        """Those that know that we are ready."""
        self._proof: tuple[Signed, ...] = ()
        """Which members lack a link, as they said it: goes with the commit."""
        self._ballot = 0
        self.answered_in: float | None = None
        """Seconds from our proposal or our word until the group stood."""
        self._asked_at = 0.0
        self._go_at = INFINITY
        self._known_at = INFINITY
        """Since when nobody but newcomers is waited for."""
        self._hurried_at = INFINITY
        """Since when our offer waits for newcomers alone."""
        self.newcomers_took = 0.0
        """Seconds for which nobody but newcomers was waited for, that came after all."""
        self._give_up_at = INFINITY
        self._waiting_for: PeerId | None = None
        self._n_waits = 0
        """How often something was waited for in vain."""
        self._fire_at = INFINITY

    @property
    def mute(self) -> AbstractSet[PeerId]:
        """Peers that did not convene when it was their turn."""
        return self.turns.passed

    @property
    def has_convened(self) -> bool:
        """Whether the group that stands is the one that we offered."""
        return self._commit is not None and self._commit.convener == self.me

    @property
    def lacks_company(self) -> bool:
        """Whether fewer are ready than must be, so that only a peer ends this search."""
        return self.state is State.WAITING and len(self._known()) < self.config.company

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

    def handle_unheard(self, peer: PeerId, message: Unheard) -> Effects:
        """A member of the group we offered asks for the words that it follows from."""
        if self._offering is None or not self._is_ours(message):
            return []
        return self._offering.show(peer, message, self.ready, self._sealed)

    def handle_shown(self, peer: PeerId, message: Shown) -> Effects:
        """A convener shows what members of its group said."""
        if self._accepted.awaits(peer):
            self._accepted.show(peer, message)
        return []

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

    # --- inside -----------------------------------------------------------------------------------

    def _refuse(self, peer: PeerId, reason: str) -> None:
        self.refused[reason] += 1
        if peer not in self._standing.supporters and peer not in self._standing.nearly:
            self.faults.append((peer, reason))

    def _is_ours(self, message: Accept | Decline | Unheard) -> bool:
        """Tell whether a word is about the group that we offer now."""
        ours = (self._ballot, self._nonce)
        return self.state is State.PROPOSING and (message.ballot, message.nonce) == ours

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

    @property
    def _is_stalled(self) -> bool:
        """Whether turns do not tell: members saw different ones being silent, and would decline each other.

        Then any supporter may convene, and of two proposals the one with the higher ballot counts.
        """
        return self._n_waits >= MAX_WAITS

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

    def _withdraw_offer(self) -> None:
        self._offering, self.state = None, State.WAITING
        self._ballot += 1

    def _yield_turn(self, offering: Offering, now: float) -> Effects:
        """Let others convene: by the order of our members it is not our turn."""
        gone = Decline(self.round, offering.proposal.ballot, self._nonce)
        told = [Send(peer, gone) for peer in sorted(offering.accepted - {self.me})]
        self._withdraw_offer()
        self.turns.passed.add(self.me)
        return [*told, *self._evaluate(now)]

    def _tell_commit(self, peer: PeerId) -> Effects:
        """Tell a peer which group stands, and why some reduce nothing."""
        assert self._commit is not None
        proof: Effects = [Send(peer, Shown(self.round, self._proof))] if self._proof else []
        return [*proof, Send(peer, self._commit)]

    def _tell_ready(self, peers: frozenset[PeerId], now: float) -> Effects:
        self._told |= peers
        wait = max(0.0, self._go_at - now)
        ready = msgspec.structs.replace(self.ready[self.me], wait=wait)
        sooner = msgspec.structs.replace(ready, wait=min(wait, self.config.newcomer_wait))
        newcomers = set(filter(self._standing.is_newcomer, peers))
        return [Send(peer, sooner if peer in newcomers else ready) for peer in sorted(peers)]

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

    @property
    def _is_several(self) -> bool:
        """Whether there are several groups: whom another leaves out may be in another group."""
        return self.config.several or len(self.ready) > self.config.group_size

    def _is_enough(self) -> bool:
        """Tell whether those that are ready are as many as we need to go on."""
        self._met |= self.ready.keys()
        return len(self._known()) >= self.config.quorum and len(self._met) >= self.config.wait_for

    def _known(self) -> AbstractSet[PeerId]:
        return self.ready.keys() - self.silent - self.declined

    def _candidates(self) -> list[PeerId]:
        return sorted(self._known(), key=lambda peer: place(self.run, peer))

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

    def _links_to(self, members: tuple[PeerId, ...]) -> bytes:
        mask = sum(1 << i for i, peer in enumerate(members) if peer == self.me or peer in self._linked)
        return mask.to_bytes(8, "big")

    def _form(self, commit: Commit, now: float) -> Effects:
        if len(commit.members) > 1:
            self.answered_in = now - self._asked_at
        self.state = State.FORMED
        self._commit = commit
        self.group = self._group_of(commit)
        return self._fire(INFINITY)

    def _group_of(self, commit: Commit) -> Group:
        chunk_numel = max(1, self.config.max_chunk_numel >> commit.halvings)
        newcomers = frozenset(named_by(commit.members, commit.newcomers))
        id_ = group_id(self.run, commit)
        return Group(id_, commit.round, commit.members, commit.shares, chunk_numel, newcomers)

    def _is_sound(self, convener: PeerId, members: tuple[PeerId, ...], shares: tuple[int, ...]) -> bool:
        return (
            self.me in members
            and convener in members
            and len(set(members)) == len(members) == len(shares)
            and len(members) <= self.config.group_size
        )

    def _missing(self) -> frozenset[PeerId]:
        return self._offering.missing if self._offering is not None else frozenset()

    def _fire(self, at: float) -> Effects:
        self._fire_at = at
        return [SetTimer(at, Timer.MATCHMAKING)]
