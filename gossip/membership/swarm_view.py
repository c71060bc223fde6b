"""SwarmView: this node's view of the swarm, its own round and state, the peers' records, whom to wait for.

Its own round and state, the records of its peers (presence.py), whom of them it waits for, and whether it is
behind: when the state that the swarm goes by is not ours, and no exchange will get us there.

Two kinds of peers are left out. Who was missed in a round (`unresponsive`) is not waited for until something
comes from it, and the link to it is not counted on. Who did not give the state that it claims to have
(doubts.py) is not believed for a while, longer every time.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Final

from msgspec.structs import replace

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.admission import Admission
from shoal.gossip.admission.marks import MAX_MARKED
from shoal.gossip.lifecycle import Lifecycle, Phase
from shoal.gossip.membership.colleagues import Colleagues
from shoal.gossip.membership.company import Company, Policy
from shoal.gossip.membership.doubts import Doubts
from shoal.gossip.membership.lineages import Basis, SwarmState, Voters, swarm_state, voters_of
from shoal.gossip.membership.presence import Entry, PresenceTable
from shoal.gossip.messages import Presence, Ready
from shoal.gossip.patterns import PATTERNS, Pattern
from shoal.gossip.run_spec import NATIVE, RunSpec, least_of

NO_BASE: Final = bytes(32)
MAX_PAUSE: Final = 8
"""Rounds for which who was lost in exchanges in a row is not waited for; it takes part if it is there."""


CROWD: Final = 32
"""Peers that are known, from which on a swarm of many groups is taken for a crowd."""

_SHOWN: Final = {Phase.SEEKING: "working", Phase.EXCHANGING: "working", Phase.APPLYING: "working"}


class SwarmView:
    """One node among its peers. See the module's docstring."""

    def __init__(
        self,
        me: PeerId,
        lease: float,
        admission: Admission | None = None,
        alone: Policy = "wait",
        colleagues: Colleagues | None = None,
    ) -> None:
        """`lease`: seconds for which our own records hold; `alone`: see company.py."""
        self.admission = admission or Admission()
        self.colleagues = colleagues or Colleagues(me)
        self.me, self.lease = me, lease
        self.table = PresenceTable(me)
        self.addresses: tuple[str, ...] = ()
        self.engine: tuple[str, ...] = ()
        self.lifecycle = Lifecycle(me)
        self.run = b""
        self.spec: RunSpec | None = None
        self.mergeable = False
        """Whether means of different states make sense: groups need not have the same."""
        self.round = 0
        self.state = self.previous = b""
        self.has_finished_round = False
        """Whether we have finished a round since we were started."""
        self.is_unanchored = False
        """Whether our state was taken over from the most, and from nobody we knew."""
        self._followed: SwarmState | None = None
        """The state of others that was agreed last."""
        self.is_outsider = False
        """Whether the run has a roster on which this node does not stand: then it makes no round alone."""
        self.unresponsive: set[PeerId] = set()
        self.together = Company(alone)
        self.doubts = Doubts()
        self.last_group: frozenset[PeerId] = frozenset()
        """With whom we made our state: they have it too, or will in a moment."""
        self._missed: dict[PeerId, tuple[int, int]] = {}
        """How often in a row, and before which round we do not wait for them again."""

    @property
    def phase(self) -> Phase:
        """What the node is doing."""
        return self.lifecycle.phase

    # --- what changes -----------------------------------------------------------------------------

    def attach(self, run: bytes, spec: RunSpec, *, mergeable: bool) -> None:
        """A trainer of this run is there."""
        self.run, self.spec, self.mergeable = run, spec, mergeable

    def take_state(self, round_: int, state: bytes, previous: bytes) -> None:
        """Our trainer holds this state: fetched, made in a round, or what it began with."""
        if self.phase is Phase.SYNCING:
            self.last_group = frozenset()
            followed = self._followed
            self.is_unanchored = followed is not None and followed.basis is Basis.MOST
        else:
            self.has_finished_round = self.phase is not Phase.HELPING
        self.hold_state(round_, state, previous)

    def hold_state(self, round_: int, state: bytes, previous: bytes) -> None:
        """We hold this state, perhaps only for others."""
        self.round, self.state, self.previous = round_, state, previous

    def follow(self, target: SwarmState) -> None:
        """We give our state up for that of the others."""
        self.has_finished_round = self.has_finished_round and target.includes_us
        self._followed = target

    def rounds_apart(self, round_: int) -> int:
        """Return the rounds from where we and those that we follow parted to `round_`, or to ours."""
        followed = self._followed
        if followed is None or followed.includes_us:
            return max(0, round_ - self.round)
        common = self.colleagues.last_round_with(followed.voters)
        return max(round_, self.round) - min(common, self.round)

    def trainer_left(self) -> None:
        """Who trains no more counts no more than who comes back, but for what the whole run came to."""
        self.has_finished_round = self.has_finished_round and self.phase is Phase.FINISHED

    def set_addresses(self, addresses: tuple[str, ...]) -> None:
        """Others reach us here."""
        self.addresses = addresses[:8]

    def set_engine(self, addresses: tuple[str, ...]) -> bool:
        """Others reach our other engine here; tells whether that is news."""
        former, self.engine = self.engine, addresses[:4]
        return self.engine != former

    def link_up(self, peer: PeerId) -> None:
        """A link is up: what was lost of its peer may have been lost with the one before."""
        self.table.connected.add(peer)
        self._missed.pop(peer, None)

    def link_down(self, peer: PeerId, now: float) -> None:
        """The last link to a peer is gone."""
        self.table.connected.discard(peer)
        # Most links end with their peer. If it lives, others bring its next record within a beat.
        self.table.forget(peer, now)

    def heard_from(self, peer: PeerId, now: float) -> None:
        """A peer has just spoken to us itself."""
        self.unresponsive.discard(peer)
        self.table.touch(peer, now)

    def note_unresponsive(self, peers: AbstractSet[PeerId]) -> None:
        """Do not count on these peers until something comes from them."""
        self.unresponsive |= peers

    def presence(self) -> Presence:
        """Return what we say of ourselves."""
        phase = _SHOWN.get(self.phase, self.phase.value)
        name = self.spec.name if self.spec is not None else ""
        return Presence(
            self.run,
            name,
            self.round,
            self.state,
            self.previous,
            phase,
            self.lease,
            self.addresses,
            self.has_finished_round,
            self.engine,
            self.is_unanchored,
        )

    # --- whom to believe --------------------------------------------------------------------------

    def refuse(self, state: bytes, now: float) -> None:
        """Do not go by a state, nor for a while by the linked peers that hold it."""
        told = [(peer, entry.presence.state) for peer, entry in self.table.in_run(self.run)]
        holders = [peer for peer, its in told if its == state and peer in self.table.connected]
        self.doubts.refuse(state, holders, now)

    def reset_trust(self) -> None:
        """Begin anew with whom we know and what we refused."""
        self.colleagues.restore(())
        self.doubts = Doubts()

    def note_round(self, members: tuple[PeerId, ...], lost: set[PeerId]) -> None:
        """Take note of who was lost in an exchange, and wait less often for who is lost again and again."""
        self.last_group = frozenset(members) - lost - {self.me}
        for peer in members:
            count, _ = self._missed.pop(peer, (0, 0))
            if peer not in lost:
                continue
            if len(self._missed) >= MAX_MARKED:
                del self._missed[next(iter(self._missed))]
            pause = min(2**count, MAX_PAUSE) if count > 0 else 0
            self._missed[peer] = (count + 1, self.round + 1 + pause)

    def agreed_state(self, now: float) -> SwarmState | None:
        """Return the state that the swarm goes by, as far as those tell whom we do not doubt."""
        heeded = self._heeded(now)
        voters = voters_of(self.colleagues, heeded)
        differ = self.states_differ() and self.phase is not Phase.FINISHED
        linked = self.table.connected
        return swarm_state(heeded, self.me, self.presence(), linked, voters, states_differ=differ)

    def voters(self, now: float) -> Voters:
        """Return by whose word we go: see lineages.py."""
        return voters_of(self.colleagues, self._heeded(now))

    def follows_the_most(self, now: float) -> bool:
        """Whether there are others in our run, and none of them is a colleague or named by the user."""
        is_alone = not any(True for _ in self.table.in_run(self.run))
        return bool(self.run) and not is_alone and self.voters(now).basis is Basis.MOST

    def _heeded(self, now: float) -> list[tuple[PeerId, Presence]]:
        return [
            (peer, self._soon(peer, e.presence))
            for peer, e in self.table.in_run(self.run)
            if not self.doubts.are_about(peer, e.presence.state, now)
        ]

    def _soon(self, peer: PeerId, presence: Presence) -> Presence:
        """Return what a peer says, or is about to say: those who made our state with us have it too.

        Else the first of many to finish a round would think itself alone, and follow a few others.
        """
        if peer not in self.last_group or not self._is_on_its_way(presence):
            return presence
        return replace(
            presence, round=self.round, state=self.state, previous=self.previous, has_finished_round=True
        )

    # --- whom to wait for -------------------------------------------------------------------------

    def unreached(self, now: float) -> int:
        """Return how many peers that work on our run we do not reach; none where they are several groups."""
        others = {peer for peer, entry in self.table.in_run(self.run) if entry.presence.phase == "working"}
        # Of those whose link has just ended we cannot tell whether they live. If not, everyone counts them.
        others |= self.table.gone(now)
        is_one_group = self.spec is not None and len(others) < self.spec.group_size
        return len(others - self.reach) if is_one_group else 0

    @property
    def reach(self) -> set[PeerId]:
        """The peers to whom we have a link that works, as far as we know."""
        # A link can be dead for half a minute before anybody closes it.
        return self.table.connected - self.unresponsive

    def expected(self, now: float) -> set[PeerId]:
        """Return the peers worth waiting for: linked, working, and at our state or on their way to it."""
        mixing = self.states_differ()
        found: set[PeerId] = set()
        paused: set[PeerId] = set()
        for peer, entry in self._linked_workers(now):
            presence = entry.presence
            here = (presence.round, presence.state) == (self.round, self.state)
            near = mixing and presence.round == self.round
            is_paused = self.round < self._missed.get(peer, (0, 0))[1]
            awaited = here or near or self._is_on_its_way(presence) or self._may_lag(presence)
            if awaited:
                (paused if is_paused else found).add(peer)
        # A pause is counted in rounds, and without a quorum there is no next one: it would never end.
        lacks_quorum = self.spec is not None and 1 + len(found) < self.least
        return found | paused if lacks_quorum else found

    @property
    def least(self) -> int:
        """How many must contribute for a round to count: the quorum, or company."""
        assert self.spec is not None
        return max(least_of(self.spec), self.company)

    @property
    def company(self) -> int:
        """How many must be ready before we go on, however long it takes: 2 if this node waits for others."""
        assert self.spec is not None
        if self.is_outsider:
            return 2
        others = [entry.presence.phase for _, entry in self.table.in_run(self.run)]
        # One of several groups may be of one, and a pair's mass is added to the others' whenever they meet.
        is_left_out = self.pattern.has_own_states or len(others) >= self.spec.group_size
        is_free = not self.together.is_awaited or (is_left_out and self.linked_trainers())
        # Who is behind those that are done ends alone, where it cannot fetch what they came to.
        return 1 if is_free or "finished" in others else 2

    def linked_trainers(self) -> list[PeerId]:
        """Return who of our run is linked and has a trainer, ready or not."""
        return [peer for peer, phase in self._linked_in_run() if phase != "helping"]

    def linked_helpers(self) -> list[PeerId]:
        """Return who of our run is linked and trains no more: a trainer may end, and its node stay."""
        return [peer for peer, phase in self._linked_in_run() if phase == "helping"]

    def _linked_in_run(self) -> list[tuple[PeerId, str]]:
        linked = self.table.connected
        return [(peer, entry.presence.phase) for peer, entry in self.table.in_run(self.run) if peer in linked]

    def _may_lag(self, presence: Presence) -> bool:
        """Whether a peer of an earlier round is waited for."""
        behind = self.round - presence.round
        return self.pattern.waits_for(behind, is_last=self.is_last)

    def _linked_workers(self, now: float) -> Iterator[tuple[PeerId, Entry]]:
        for peer in self.table.connected:
            entry = self.table.get(peer)
            if entry is None or entry.presence.run != self.run:
                continue
            is_there = peer not in self.unresponsive and self.admission.may_group(peer, now)
            # Who fetches the state that we have will be there as soon as those who have just made it: over
            # links with latency it would else come too late in every round, and chase the swarm for ever.
            fetches = entry.presence.phase == "syncing" and self._is_on_its_way(entry.presence)
            if is_there and (entry.presence.phase == "working" or fetches):
                yield peer, entry

    def _is_on_its_way(self, presence: Presence) -> bool:
        """Whether a peer is in the round that we have just finished."""
        return presence.state == self.previous != b"" and presence.round == self.round - 1

    @property
    def pattern(self) -> Pattern:
        """How the peers of the run average."""
        return PATTERNS["group" if self.spec is None else self.spec.exchange]

    @property
    def is_last(self) -> bool:
        """Whether our round is the last of the run."""
        return self.spec is not None and self.round == self.spec.rounds - 1

    def takers(self, now: float) -> set[PeerId]:
        """Return the linked peers that train, as far as they answer, and have not closed their books."""
        last = self.spec.rounds - 1 if self.spec is not None else -1
        return {peer for peer, entry in self._linked_workers(now) if entry.presence.round != last}

    def states_differ(self) -> bool:
        """Whether states differ in one round: by groups, by pairs, or by another engine's rounding."""
        if not self.mergeable or self.spec is None:
            return False
        if self.pattern.has_own_states or self.spec.engine != NATIVE:
            return True
        if len(self.table) < self.spec.group_size:
            return False
        return any(True for _ in islice(self.table.in_run(self.run), self.spec.group_size - 1, None))

    def is_large_swarm(self) -> bool:
        """Whether there are so many groups that hardly two peers see the same others."""
        return self.states_differ() and len(self.table) > CROWD

    @property
    def base(self) -> bytes:
        """What everyone in our group must have started from."""
        # Not by whether there are several groups just now: views differ, and bases that differ with them
        # would keep peers apart that could average.
        return NO_BASE if self.mergeable else self.state

    def is_mine(self, ready: Ready) -> bool:
        """Whether a peer is ready for our round."""
        return ready.round == self.round and ready.base == self.base

    # --- whether we are behind --------------------------------------------------------------------

    def ahead(self, now: float) -> SwarmState | None:
        """Return the state that we must fetch before we can work on, if there is one."""
        idle = self.phase in (Phase.WORKING, Phase.SEEKING, Phase.FINISHED)
        if not idle or self.spec is None or not self.state:
            return None
        others = self.table.in_run(self.run)
        if all(e.presence.state == self.state and e.presence.round == self.round for _, e in others):
            return None
        target = self.agreed_state(now)
        return target if target is not None and target.holders and self._is_behind(target, now) else None

    def _others_change_over(self) -> bool:
        """Whether somebody whose word counts in our round gives its state up for that of others."""
        linked = (self.table.get(peer) for peer in self.table.connected - self.unresponsive)
        said = [entry.presence for entry in linked if entry is not None and entry.presence.run == self.run]
        return any(
            each.phase == "syncing" and each.has_finished_round and each.round == self.round for each in said
        )

    def _is_behind(self, target: SwarmState, now: float) -> bool:
        # Equal bytes alone do not tell: a model that has converged is the same round after round.
        if (target.round, target.state) == (self.round, self.state):
            return False
        if self.pattern.has_own_states and self.phase is not Phase.FINISHED:
            # There are as many states as peers, and none is wrong: only who lags far fetches one.
            lag = self.pattern.max_lag
            is_alone_ahead = target.round < self.round - lag and not target.includes_us
            return target.round > self.round + lag or is_alone_ahead
        if self.states_differ() and self.phase is not Phase.FINISHED:
            # States differ between groups and meet in means; only who lags or runs ahead must fetch.
            if target.round == self.round + 1:
                # After the last round the others wait for nobody, and are never two rounds ahead.
                least = self.spec.quorum if self.spec is not None and self.is_last else 2
                return 1 + len(self.expected(now)) < max(least, 2)
            return target.round > self.round or (target.round < self.round - 1 and not target.includes_us)
        if not target.includes_us:
            # Whoever is done waits until the others are: a trainer that has ended is not called back.
            return self.phase is not Phase.FINISHED or target.round >= self.round
        if target.round == self.round:
            # Two outcomes of one round: which of them more hold is told when everyone has one, and nobody is
            # about to have the other: else all change over at once, and back again.
            workers = (entry.presence for _, entry in self._linked_workers(now))
            return not (self._others_change_over() or any(map(self._is_on_its_way, workers)))
        return target.round > self.round
