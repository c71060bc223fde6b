"""Seeking: a node's search for a group, once in a round, and what it learns of how long others take.

    working --`begin`--> seeking --a group, or nobody comes--> exchanging
       |  others are ready, and most of the learned wait is over: the trainer is told to hurry
       '--`Ready` of others is kept until the node is in their round, or they in another

matchmaking.py agrees on the group; this is who it is asked to wait for, for how long, and what came of it:
who is silent is not counted on, and how long the last of a group needed is how long the next is waited for.
Slow peers so do fewer steps, not longer rounds.
"""

from collections.abc import Callable
from typing import Any, Final

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.all_reduce import SHORTEST_STALL
from shoal.gossip.deadlines import Deadline
from shoal.gossip.events import Doubt, Effects, Notify, Received, SetTimer
from shoal.gossip.matchmaking.bandwidth import Uplink
from shoal.gossip.matchmaking.matchmaking import Matchmaking, MatchmakingConfig
from shoal.gossip.member.asks import Exchanges
from shoal.gossip.member.commands import Contribute, Failed
from shoal.gossip.member.pairwise_rounds import Mixing
from shoal.gossip.membership.dial_plan import Dice, Discovery
from shoal.gossip.membership.swarm_view import Phase, Standing
from shoal.gossip.messages import Presence, Ready

HURRY: Final = "hurry"
INFINITY: Final = float("inf")
MAX_EARLY: Final = 128
"""Peers ahead of us that are remembered."""
MIXING_SHARE: Final = 0.75
"""Share of the expected with which those go on that average in one of many groups."""
HURRY_AFTER: Final = 0.5
"""Share of the others' learned wait after which unfinished local work is cut short."""


class Seeking:
    """The searches of one node. See the module's docstring."""

    def __init__(
        self,
        at: Standing,
        dice: Dice,
        discovery: Discovery,
        exchanges: Exchanges,
        mixing: Mixing,
        tell: Callable[[PeerId], Effects],
        *,
        patience: float,
        wait_for: int,
        wait_seconds: float,
    ) -> None:
        """`tell(peer)`: sends a peer our record; the rest is of `MemberConfig`."""
        self._at, self._dice, self._discovery = at, dice, discovery
        self._exchanges, self._mixing, self._tell = exchanges, mixing, tell
        self._patience, self._wait_for, self._wait_seconds = patience, wait_for, wait_seconds
        self.search: Matchmaking | None = None
        """The search of this round, also when it is over."""
        self.early: dict[PeerId, tuple[Ready, float]] = {}
        """Who is ready for our round or the next, and until when they wait."""
        self.ready_wait = Deadline(patience, floor=SHORTEST_STALL)
        self.answer_wait = Deadline(min(2.0, patience), floor=0.5)
        self.uplink = Uplink()
        self._hurry_at = INFINITY
        self._arrived: dict[PeerId, float] = {}

    @property
    def _under_way(self) -> Matchmaking | None:
        return self.search if self._at.phase is Phase.SEEKING else None

    # --- the round --------------------------------------------------------------------------------

    def new_round(self, now: float) -> Effects:
        """A round has begun: forget who was ready for an earlier one."""
        self.early = {peer: early for peer, early in self.early.items() if early[0].round >= self._at.round}
        self._hurry_at = INFINITY
        effects: Effects = [SetTimer(INFINITY, HURRY)]
        for ready, until in self.early.values():
            effects += self._hurry(ready, until, now)
        return effects

    def begin(self, now: float) -> Effects:
        """Seek a group for what the trainer gives."""
        at = self._at
        at.phase = Phase.SEEKING
        early = [
            (peer, ready)
            for peer, (ready, _) in self.early.items()
            if at.is_mine(ready) and not at.is_banned(peer, now)
        ]
        self._arrived = {peer: now for peer, _ in early}
        self.search = Matchmaking(
            at.me,
            at.run,
            at.round,
            at.base,
            self._config(),
            int(self._dice.random() * (1 << 53)),
            at.reach,
            self.uplink.rate,
            at.unreached(now),
            self._exchanges.past,
        )
        return self._after(self.search.begin(at.expected(now), early, now), now)

    def end(self) -> None:
        """The round is over, or given up."""
        self.search = None

    # --- events -----------------------------------------------------------------------------------

    def ready(self, peer: PeerId, message: Ready, now: float) -> Effects:
        """A peer is ready, for our round or another."""
        at = self._at
        if message.round < at.round or at.phase is Phase.FINISHED:
            # It is behind, and seeks a round that is over: our record says so.
            return self._tell(peer) if at.run else []
        is_far = message.round > at.round + 1
        if is_far or at.is_banned(peer, now) or len(self.early) > MAX_EARLY:
            return []
        self.early[peer] = (message, now + message.wait)
        if not at.is_mine(message):
            return []
        if at.phase is Phase.WORKING:
            return self._hurry(message, now + message.wait, now)
        if at.phase is Phase.EXCHANGING and self.search is not None:
            return self.search.handle_ready(peer, message, now)
        if (search := self._under_way) is not None:
            if search.lacks_company and not search.expected:
                return self._begin_again(now)
            self._arrived.setdefault(peer, now)
            return self._after(search.handle_ready(peer, message, now), now)
        return []

    def handle(self, handler: str, peer: PeerId, message: Any, now: float) -> Effects:
        """Take another message of matchmaking; `handler`: the name of its method there."""
        search = self.search
        if search is None or message.round != self._at.round or self._at.is_banned(peer, now):
            return []
        return self._after(getattr(search, handler)(peer, message, now), now)

    def overtaken(self, event: Received, now: float) -> tuple[Effects, bool]:
        """Take note of a message of an exchange; True if it is kept, since its group may yet be ours."""
        search = self._under_way
        if search is None:
            return [], False
        if not search.matches(event.message.group):
            # Its commit may be on its way to us, in the other lane or from another peer.
            self._exchanges.keep(event)
            return search.ask_about_group(event.peer, now), True
        return self._after(search.form_promised(now), now), False

    def moved(self, peer: PeerId, presence: Presence, now: float) -> Effects:
        """Do not count on a peer that was ready for a round in which it is no more."""
        early = self.early.get(peer)
        if early is None or (presence.phase == "working" and presence.round == early[0].round):
            return []
        del self.early[peer]
        search = self._under_way
        return self._after(search.withdraw(peer, now), now) if search is not None else []

    def lost(self, peer: PeerId, now: float) -> Effects:
        """A link is gone."""
        self.early.pop(peer, None)
        search = self._under_way
        return self._after(search.lost(peer, now), now) if search is not None else []

    def view_changed(self, now: float) -> Effects:
        """Other peers are there, or elsewhere than before."""
        search = self._under_way
        if search is None:
            return []
        expected = self._at.expected(now)
        if search.lacks_company and (expected - search.expected or self._at.least < search.config.least):
            return self._begin_again(now)
        return self._after(search.expect(expected, now), now)

    def look_again(self, now: float) -> Effects:
        """Ask anew who is there, for a node that waits for company: what was lost is not said twice."""
        search = self._under_way
        if search is None or not search.lacks_company:
            return []
        is_over = self._at.least < search.config.least
        return self._begin_again(now) if is_over or self._at.expected(now) else []

    def _begin_again(self, now: float) -> Effects:
        """Search anew: links, deadlines and whom we wait for are of now, not of when we were left alone."""
        self._exchanges.asked_at = now
        return self.begin(now)

    def timer(self, now: float) -> Effects:
        """Something that was waited for did not come."""
        search = self._under_way
        return self._after(search.timer(now), now) if search is not None else []

    def wait_for_no_more(self, now: float) -> Effects:
        """Once those whom we knew of at the start have answered or not, wait for no others."""
        search, table = self._under_way, self._at.table
        if search is None or search.config.wait_for == 1:
            return []
        unheard = any(table.get(peer) is None for peer in table.connected)
        if self._at.round == 0 or self._discovery.is_new_here or unheard:
            return []
        return self._after(search.wait_for_no_more(now), now)

    # --- inside -----------------------------------------------------------------------------------

    def _after(self, effects: Effects, now: float) -> Effects:
        """Begin the exchange once there is a group."""
        search = self._under_way
        if search is None or search.group is None:
            return effects
        group = search.group
        effects = effects + self._learn(search, now)
        pending = self._exchanges.pending
        if self._mixing.is_on and isinstance(pending, Contribute):
            if not self._at.is_last:
                return effects + self._mixing.begin(pending, self._exchanges.asked_at, now)
            self._exchanges.ask(self._mixing.close(pending), self._exchanges.asked_at)
        spec = self._at.spec
        if spec is not None and len(group.members) < spec.quorum:
            self._at.phase = Phase.APPLYING
            text = f"{len(group.members)} of at least {spec.quorum} peers were ready"
            return [*effects, Notify(Failed("TooFew", text))]
        return effects + self._exchanges.begin(group, now)

    def _learn(self, search: Matchmaking, now: float) -> Effects:
        """Take note of who was silent, and of how long the others took."""
        assert search.group is not None
        at, members = self._at, set(search.group.members)
        # Who was silent as a convener, and is not in the group that another convened, answered nobody.
        silent = (search.silent | search.mute - members) & at.table.connected
        if silent:
            self.answer_wait.miss()
        elif search.answered_in is not None and (at.is_mixing() or search.ready.keys() <= members):
            # Where somebody was left out, how fast the others were is no measure.
            self.answer_wait.observe(search.answered_in)
        # Whoever is in the group all the same answered somebody: that it lives is known.
        at.late |= silent - members
        missed = at.expected(now) - search.ready.keys() - members
        at.late |= missed
        if missed and not at.is_crowd():
            self.ready_wait.miss()
        elif len(waited_for := set(search.ready) if self._mixing.is_on else members) > 1:
            lags = [max(0.0, self._arrived.get(peer, now) - self._exchanges.asked_at) for peer in waited_for]
            self.ready_wait.observe(max(lags))
        return [Doubt(peer) for peer in sorted(silent)]

    def _config(self) -> MatchmakingConfig:
        spec, is_mixing = self._at.spec, self._mixing.is_on
        assert spec is not None
        first = self._at.round == 0
        patience = (self._wait_seconds or 2 * self._patience) if first else self._patience
        return MatchmakingConfig(
            # Where all average pairwise, all that is wanted of a group is that its peers are ready.
            group_size=1 if is_mixing and not self._at.is_last else spec.group_size,
            quorum=spec.quorum,
            least=self._at.least,
            share=MIXING_SHARE if self._at.is_crowd() and not is_mixing else 1.0,
            # Who has just been started does not go on alone while it looks for those it knew.
            wait_for=self._wait_for if first else 1 + self._discovery.is_new_here,
            # Whom the last round of such a run does not wait for is not in the mean that ends it.
            ready_wait=patience if is_mixing and self._at.is_last else self.ready_wait.seconds(),
            answer_wait=self.answer_wait.seconds(),
            patience=patience,
            max_chunk_numel=spec.max_chunk_numel,
        )

    def _hurry(self, ready: Ready, until: float, now: float) -> Effects:
        """Be done before the most hurried of those that wait goes on without us."""
        at = max(now, until - (1 - HURRY_AFTER) * ready.wait)
        if not self._at.is_mine(ready) or at >= self._hurry_at:
            return []
        self._hurry_at = at
        return [SetTimer(at, HURRY)]
