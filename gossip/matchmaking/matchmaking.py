"""Matchmaking: peers that are ready for the same round agree on a group, with no one in charge.

    waiting --all expected are ready, or the deadline--> convener of my group?
        yes: proposing --all accept--> formed
                 |--some decline, or stay silent--> propose again without them, one ballot higher
        no:  waiting --Propose--> promised --Commit--> formed
                 '----silence----> the next peer in hash order convenes

Ready peers are sorted by a hash of (run, peer) and dealt into ceil(n / group_size) groups that mix over
rounds (grid.py). The first of each group by a hash of (run, round, peer) convenes it. Views may differ for a
moment: then two conveners propose, and a peer promises itself to the higher ballot, on a tie to the lower
hash. A convener that sees a better proposal before its own is complete steps down. Who is promised to a
better one says so at once (`Decline`), and so does a convener that steps down; a convener tells the ready
that are not in its group that its members are taken. So where there are many groups, and hardly two peers
see the same others, nobody waits for silence to learn it.

Members need not all be linked to each other, only to their convener: so whoever has links to most convenes,
before all hashes, and leaves out nobody. Who lacks a link to another member gets no part of the vector to
reduce, and so speaks only with those that everyone reaches.

Invariants: a core leaves for `formed` at most once; a group is committed only after every member has
accepted it; a member that finds itself committed twice abandons the second group at once, aloud; and one that
is shown a group of an earlier search again does the same, since what it gave there is not what it has now.
"""

from collections import deque
from collections.abc import Container, Iterable
from collections.abc import Set as AbstractSet
from enum import Enum
from hashlib import blake2b
from typing import Final

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Effects, Send, SetTimer, Timer
from shoal.gossip.group import Group
from shoal.gossip.matchmaking.bandwidth import shares_by
from shoal.gossip.matchmaking.grid import deal
from shoal.gossip.messages import Abandon, Accept, Commit, Decline, Negotiation, Propose, Ready
from shoal.gossip.run_spec import CHUNK_NUMEL

INFINITY: Final = float("inf")
MAX_ACCEPTED: Final = 64
"""Proposals that are remembered as accepted: an honest search needs a few, a liar could make any number."""


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
    patience: float = 15.0
    """Seconds until we go on with whoever is there."""
    max_chunk_numel: int = CHUNK_NUMEL
    """Of the run: what a commit's `halvings` halve."""


def rank(run: bytes, round_: int, peer: PeerId) -> bytes:
    """Return where a peer stands among those that may convene in this round."""
    return blake2b(run + round_.to_bytes(8, "big") + peer.encode(), digest_size=8).digest()


def place(run: bytes, peer: PeerId) -> bytes:
    """Return where a peer stands on the grid, in every round."""
    return blake2b(run + peer.encode(), digest_size=8).digest()


def group_id(run: bytes, commit: Commit) -> bytes:
    """Return the 16-byte name of a committed group."""
    text = "\0".join((commit.convener, *commit.members)).encode()
    numbers = b"".join(n.to_bytes(8, "big") for n in (commit.round, commit.ballot, commit.nonce))
    shares = b"".join(share.to_bytes(4, "big") for share in commit.shares)
    chunk = commit.halvings.to_bytes(1, "big")
    return blake2b(run + commit.base + numbers + chunk + shares + text, digest_size=16).digest()


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
    ) -> None:
        """`base`: the hash of the state everyone in the group must have started from, or 32 zero bytes.

        `nonce`: another for every search, so that no group is ever formed twice; `linked`: to whom we have
        links; `uplink`: kB/s, 0 where that is not known; `unreached`: to how many that work on the run we
        have no link; `past`: groups that we have been in.
        """
        self.me, self.run, self.round, self.base = me, run, round_, base
        self.config, self._nonce = config, nonce
        self._linked, self._past = linked, past
        self.state = State.WAITING
        self.group: Group | None = None
        ready = Ready(round_, base, uplink, unreached=unreached)
        self.ready: dict[PeerId, Ready] = {me: ready}
        self._met: set[PeerId] = set()
        self.silent: set[PeerId] = set()
        """Did not answer a proposal: left out of the next."""
        self.declined: set[PeerId] = set()
        """Promised to others just now: left out of the next proposal, and asked again after a while."""
        self.mute: set[PeerId] = set()
        """Did not convene when it was their turn: members still, but others convene."""
        self.expected: frozenset[PeerId] = frozenset()
        self._commit: Commit | None = None
        self._proposal: Propose | None = None
        self._promised: tuple[int, PeerId] | None = None
        self._accepted: deque[tuple[PeerId, int, int, int, tuple[PeerId, ...]]] = deque(maxlen=MAX_ACCEPTED)
        """Proposals we said yes to in this search: (convener, ballot, nonce, halvings, members)."""
        self._asked: set[PeerId] = set()
        self._accepts: dict[PeerId, bytes] = {}
        """Who has accepted, and to whom they have links."""
        self._ballot = 0
        self.answered_in: float | None = None
        """Seconds from our proposal or our word until the group stood."""
        self._asked_at = 0.0
        self._go_at = INFINITY
        self._give_up_at = INFINITY
        self._waiting_for: PeerId | None = None
        self._fire_at = INFINITY

    @property
    def lacks_company(self) -> bool:
        """Whether fewer are ready than must be, so that only a peer ends this search."""
        return self.state is State.WAITING and len(self._candidates()) < self.config.company

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
        return self.withdraw(peer, now)

    def withdraw(self, peer: PeerId, now: float) -> Effects:
        """Take note that a peer is not ready any more: it is gone, gave up, or is elsewhere."""
        self.ready.pop(peer, None)
        if self.state is State.PROMISED and self._promised and self._promised[1] == peer:
            self.state = State.WAITING
        elif self.state is State.PROPOSING and peer in self._members() - self._accepts.keys():
            self.state = State.WAITING
            self._ballot += 1
        return self._evaluate(now)

    def timer(self, now: float) -> Effects:
        """Go on: something that was waited for did not come."""
        if self.state is State.FORMED or now < self._fire_at:
            return []
        if self.state is State.PROPOSING:
            self.silent |= self._members() - self._accepts.keys()
            self._ballot += 1
            self.state = State.WAITING
        elif self.state is State.PROMISED and self._promised is not None:
            self.mute.add(self._promised[1])
            self.state = State.WAITING
        elif self._waiting_for is not None:
            self.mute.add(self._waiting_for)
        self.declined.clear()
        return self._evaluate(now)

    # --- messages ---------------------------------------------------------------------------------

    def handle(self, peer: PeerId, message: Negotiation, now: float) -> Effects:
        """A peer that is ready has something to say about a group."""
        match message:
            case Propose():
                return self.handle_propose(peer, message, now)
            case Accept():
                return self.handle_accept(peer, message, now)
            case Decline():
                return self.handle_decline(peer, message, now)
            case Commit():
                return self.handle_commit(peer, message, now)

    def handle_ready(self, peer: PeerId, message: Ready, now: float) -> Effects:
        """A peer is ready too."""
        if message.base != self.base:
            return []
        if self._commit is not None:
            # A member that is still ready has lost its convener, and our commit with it.
            return [Send(peer, self._commit)] if peer in self._commit.members else []
        self.silent.discard(peer)
        if peer in self.ready:
            return []
        self.ready[peer] = message
        return self._evaluate(now)

    def handle_propose(self, peer: PeerId, message: Propose, now: float) -> Effects:
        """A convener offers a group."""
        if message.base != self.base or not self._is_sound(peer, message.members, message.shares):
            return []
        if self.state is State.FORMED:
            # An honest convener that missed our commit learns of it, whether it is a member or not.
            return [Send(peer, self._commit)] if self._commit is not None else []
        key, mine = (message.ballot, peer), (self._ballot, self.me)
        best = mine if self.state is State.PROPOSING else self._promised
        if best is not None and not self._is_better(key, best):
            return [Send(peer, Decline(self.round, message.ballot, message.nonce))]
        effects = self._step_down(peer)
        self.state, self._promised, self._proposal = State.PROMISED, key, message
        self._ballot = max(self._ballot, message.ballot)
        self._waiting_for = None
        self._asked_at = now
        self._accepted.append((peer, message.ballot, message.nonce, message.halvings, message.members))
        accept = Accept(self.round, message.ballot, message.nonce, self._links_to(message.members))
        return [*effects, Send(peer, accept), *self._fire(now + self.config.answer_wait)]

    def handle_decline(self, peer: PeerId, message: Decline, now: float) -> Effects:
        """A member of the group we offered is promised to another, or our convener is."""
        if self.config.share == 1.0:
            # Where all see all, two conveners of one group have met, and the better proposal is on its way.
            return []
        if self.state is State.PROMISED and self._promised == (message.ballot, peer):
            self.state, self._promised = State.WAITING, None
            self.mute.add(peer)
            return self._evaluate(now)
        ours = (self._ballot, self._nonce)
        if self.state is not State.PROPOSING or (message.ballot, message.nonce) != ours:
            return []
        if peer not in self._members() - {self.me}:
            return []
        self._accepts.pop(peer, None)
        self.declined.add(peer)
        return self._go_on_without_declined(now)

    def handle_accept(self, peer: PeerId, message: Accept, now: float) -> Effects:
        """A member joins the group we offered."""
        ours = (self._ballot, self._nonce)
        if self.state is not State.PROPOSING or (message.ballot, message.nonce) != ours:
            return []
        if peer not in self._members():
            return []
        self._accepts[peer] = message.linked
        self.declined.discard(peer)
        return self._commit_if_complete(now) or self._go_on_without_declined(now)

    def handle_commit(self, peer: PeerId, message: Commit, now: float) -> Effects:
        """A group stands: ours, if we accepted it."""
        offer = (message.convener, message.ballot, message.nonce, message.halvings, message.members)
        is_ours = offer in self._accepted
        if not is_ours and peer == message.convener and offer[:2] in (known[:2] for known in self._accepted):
            # It offered us another group under this ballot, so this is none. The one it offered may stand.
            return []
        if message.base != self.base or not self._is_sound(message.convener, message.members, message.shares):
            return self._taken_elsewhere(peer, message, now)
        found = self._group_of(message)
        if self.group is not None and self.group.id == found.id:
            return []
        if self.group is not None or not is_ours or found.id in self._past:
            # Of an earlier search or life: what we gave to it then is not what we have now.
            gone = Abandon(found.id, 0)
            effects: Effects = [Send(other, gone) for other in message.members if other != self.me]
            return effects if self.group is not None else effects + self.withdraw(peer, now)
        return self._form(message, now)

    def matches(self, group: bytes) -> bool:
        """Tell whether an exchange message of this group shows that our promise was committed."""
        if self.state is not State.PROMISED or self._proposal is None or self._promised is None:
            return False
        promised = self._group_of(self._as_commit(self._proposal, self._promised[1])).id
        return promised == group and group not in self._past

    def ask_about_group(self, peer: PeerId, now: float) -> Effects:
        """Ask a peer that is at an exchange already: its group may be ours, if our convener died."""
        is_ours = any(peer in members for *_, members in self._accepted)
        if self.state is not State.WAITING or not is_ours or peer in self._asked:
            return []
        self._asked.add(peer)
        return self._tell_ready(frozenset({peer}), now)

    def form_promised(self, now: float) -> Effects:
        """Form the group we promised ourselves to: its commit was lost, but its exchange has begun."""
        assert self._proposal is not None
        assert self._promised is not None
        return self._form(self._as_commit(self._proposal, self._promised[1]), now)

    # --- inside -----------------------------------------------------------------------------------

    def _tell_ready(self, peers: frozenset[PeerId], now: float) -> Effects:
        ready = msgspec.structs.replace(self.ready[self.me], wait=max(0.0, self._go_at - now))
        return [Send(peer, ready) for peer in sorted(peers)]

    def _step_down(self, better: PeerId) -> Effects:
        """Tell those that count on us, or on whom we count, that we are promised to a better convener now."""
        proposal = self._proposal
        if proposal is None:
            return []
        if self.state is State.PROPOSING:
            others = [member for member in proposal.members if member not in (self.me, better)]
        elif self.state is State.PROMISED and self._promised and self._promised[1] != better:
            others = [self._promised[1]]
        else:
            return []
        gone = Decline(self.round, proposal.ballot, proposal.nonce)
        return [Send(other, gone) for other in others]

    def _go_on_without_declined(self, now: float) -> Effects:
        """Once all have answered, propose again to those that said yes."""
        if self._members() - self._accepts.keys() - self.declined:
            return []
        self._ballot += 1
        self.state = State.WAITING
        return self._evaluate(now)

    def _taken_elsewhere(self, peer: PeerId, message: Commit, now: float) -> Effects:
        """Someone we proposed to shows a group without us: they are taken for this round."""
        if self.me in message.members or self.state is State.FORMED or peer not in message.members:
            return []
        taken = set(message.members)
        for member in taken:
            self.ready.pop(member, None)
        self.expected -= taken
        if self.state is State.PROPOSING and taken & self._members() - self._accepts.keys():
            self.state = State.WAITING
            self._ballot += 1
        elif self.state is State.PROMISED and self._promised and self._promised[1] in taken:
            self.state, self._promised = State.WAITING, None
        return self._evaluate(now)

    def _evaluate(self, now: float) -> Effects:
        if self.state is not State.WAITING:
            return []
        candidates = self._candidates()
        awaited = self.expected - self.silent
        everyone = len(awaited & self.ready.keys()) >= self.config.share * len(awaited)
        self._met |= self.ready.keys()
        if len(candidates) < self.config.company:
            self._waiting_for = None
            return self._fire(INFINITY)
        enough = len(candidates) >= self.config.quorum and len(self._met) >= self.config.wait_for
        overdue = now >= self._go_at and enough
        if not ((everyone and enough) or overdue or now >= self._give_up_at):
            self._waiting_for = None
            return self._fire(self._go_at if enough and now < self._go_at else self._give_up_at)
        groups = deal(candidates, self.round, self.config.group_size)
        members = next(group for group in groups if self.me in group)
        able = [peer for peer in members if peer == self.me or peer not in self.mute]
        convener = min(able, key=self._turn)
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

    def _turn(self, peer: PeerId) -> tuple[int, bytes]:
        """Return when it is a peer's turn to convene: who reaches most first, since it leaves out nobody."""
        return self.ready[peer].unreached, rank(self.run, self.round, peer)

    def _candidates(self) -> list[PeerId]:
        known = self.ready.keys() - self.silent - self.declined
        return sorted(known, key=lambda peer: place(self.run, peer))

    def _propose(self, members: list[PeerId], now: float) -> Effects:
        self._ballot = max(self._ballot, self._promised[0] + 1 if self._promised else 0)
        shares = shares_by([self.ready[member].uplink for member in members])
        self._proposal = Propose(self.round, self.base, self._ballot, self._nonce, tuple(members), shares)
        self._accepts = {self.me: self._links_to(tuple(members))}
        self.state = State.PROPOSING
        self._asked_at = now
        self._waiting_for = None
        effects: Effects = [Send(peer, self._proposal) for peer in members if peer != self.me]
        return effects + self._fire(now + self.config.answer_wait) + self._commit_if_complete(now)

    def _commit_if_complete(self, now: float) -> Effects:
        if self._proposal is None or self._accepts.keys() != set(self._proposal.members):
            return []
        proposal = msgspec.structs.replace(self._proposal, shares=self._shares_by_links(self._proposal))
        commit = self._as_commit(proposal, self.me)
        # Those that are not in it are told too: its members are taken.
        told = dict.fromkeys((*commit.members, *sorted(self.ready.keys() - self.silent)))
        effects: Effects = [Send(peer, commit) for peer in told if peer != self.me]
        return effects + self._form(commit, now)

    def _links_to(self, members: tuple[PeerId, ...]) -> bytes:
        mask = sum(1 << i for i, peer in enumerate(members) if peer == self.me or peer in self._linked)
        return mask.to_bytes(8, "big")

    def _shares_by_links(self, proposal: Propose) -> tuple[int, ...]:
        """Return the shares, without those of members that lack a link to another."""
        everyone = (1 << len(proposal.members)) - 1
        masks = [int.from_bytes(self._accepts[peer], "big") for peer in proposal.members]
        reached = everyone
        for mask in masks:
            reached &= mask
        # The convener itself has heard from all.
        shares = tuple(
            share if peer == self.me or (reached >> i & 1 and mask & everyone == everyone) else 0
            for i, (peer, share, mask) in enumerate(
                zip(proposal.members, proposal.shares, masks, strict=True)
            )
        )
        # However slow its line is: if nobody had a share, all would count alike.
        return shares if any(shares) else tuple(int(peer == self.me) for peer in proposal.members)

    def _form(self, commit: Commit, now: float) -> Effects:
        if len(commit.members) > 1:
            self.answered_in = now - self._asked_at
        self.state = State.FORMED
        self._commit = commit
        self.group = self._group_of(commit)
        return self._fire(INFINITY)

    def _group_of(self, commit: Commit) -> Group:
        chunk_numel = self.config.max_chunk_numel >> commit.halvings
        return Group(group_id(self.run, commit), commit.round, commit.members, commit.shares, chunk_numel)

    def _as_commit(self, proposal: Propose, convener: PeerId) -> Commit:
        return Commit(
            proposal.round,
            proposal.base,
            proposal.ballot,
            proposal.nonce,
            convener,
            proposal.members,
            proposal.shares,
            proposal.halvings,
        )

    def _is_sound(self, convener: PeerId, members: tuple[PeerId, ...], shares: tuple[int, ...]) -> bool:
        return (
            self.me in members
            and convener in members
            and len(set(members)) == len(members) == len(shares)
            and len(members) <= self.config.group_size
        )

    def _is_better(self, key: tuple[int, PeerId], other: tuple[int, PeerId]) -> bool:
        if key[0] != other[0]:
            return key[0] > other[0]
        return rank(self.run, self.round, key[1]) <= rank(self.run, self.round, other[1])

    def _members(self) -> set[PeerId]:
        return set(self._proposal.members) if self._proposal is not None else set()

    def _fire(self, at: float) -> Effects:
        self._fire_at = at
        return [SetTimer(at, Timer.MATCHMAKING)]
