"""Search: what one node knows while it seeks a group, and how a group comes to stand.

    waiting, proposing, promised --> formed

What a convener does is in convening.py, and what the others do in matchmaking.py.
"""

from collections import Counter
from collections.abc import Container, Mapping
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
from shoal.gossip.matchmaking.offering import Offering
from shoal.gossip.matchmaking.proposals import (
    group_id,
    named_by,
)
from shoal.gossip.matchmaking.standing import Standing
from shoal.gossip.matchmaking.turns import Claim, Turns
from shoal.gossip.messages import (
    Commit,
    Propose,
    Ready,
    Shown,
    Signed,
)
from shoal.gossip.run_spec import CHUNK_NUMEL

INFINITY: Final = float("inf")
MAX_WAITS: Final = 2
"""Times that a search waits in vain before turns give way to ballots."""
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


class Search:
    """One round's search for a group, as far as it is known. See the module's docstring."""

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

    # --- who is ready -----------------------------------------------------------------------------

    def _known(self) -> AbstractSet[PeerId]:
        return self.ready.keys() - self.silent - self.declined

    def _candidates(self) -> list[PeerId]:
        return sorted(self._known(), key=lambda peer: place(self.run, peer))

    def _is_enough(self) -> bool:
        """Tell whether those that are ready are as many as we need to go on."""
        self._met |= self.ready.keys()
        return len(self._known()) >= self.config.quorum and len(self._met) >= self.config.wait_for

    @property
    def _is_several(self) -> bool:
        """Whether there are several groups: whom another leaves out may be in another group."""
        return self.config.several or len(self.ready) > self.config.group_size

    @property
    def _is_stalled(self) -> bool:
        """Whether turns do not tell: members saw different ones being silent, and would decline each other.

        Then any supporter may convene, and of two proposals the one with the higher ballot counts.
        """
        return self._n_waits >= MAX_WAITS

    def _tell_ready(self, peers: frozenset[PeerId], now: float) -> Effects:
        self._told |= peers
        wait = max(0.0, self._go_at - now)
        ready = msgspec.structs.replace(self.ready[self.me], wait=wait)
        sooner = msgspec.structs.replace(ready, wait=min(wait, self.config.newcomer_wait))
        newcomers = set(filter(self._standing.is_newcomer, peers))
        return [Send(peer, sooner if peer in newcomers else ready) for peer in sorted(peers)]

    # --- a group ----------------------------------------------------------------------------------

    def _links_to(self, members: tuple[PeerId, ...]) -> bytes:
        mask = sum(1 << i for i, peer in enumerate(members) if peer == self.me or peer in self._linked)
        return mask.to_bytes(8, "big")

    def _is_sound(self, convener: PeerId, members: tuple[PeerId, ...], shares: tuple[int, ...]) -> bool:
        return (
            self.me in members
            and convener in members
            and len(set(members)) == len(members) == len(shares)
            and len(members) <= self.config.group_size
        )

    def _tell_commit(self, peer: PeerId) -> Effects:
        """Tell a peer which group stands, and why some reduce nothing."""
        assert self._commit is not None
        proof: Effects = [Send(peer, Shown(self.round, self._proof))] if self._proof else []
        return [*proof, Send(peer, self._commit)]

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

    def _fire(self, at: float) -> Effects:
        self._fire_at = at
        return [SetTimer(at, Timer.MATCHMAKING)]
