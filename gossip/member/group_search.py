"""GroupSearch: a node's search for a group, once in a round, and what it learns of how long others take.

    working --`begin`--> seeking --a group, or nobody comes--> exchanging
       |  others are ready, and most of the learned wait is over: the trainer is told to hurry
       '--`Ready` of others is kept until the node is in their round, or they in another

matchmaking.py agrees on the group; this is who it is asked to wait for, for how long, and what came of it:
who is silent is not counted on, and how long the last of a group needed is how long the next is waited for.
Slow peers so do fewer steps, not longer rounds.
"""

from collections.abc import Container
from collections.abc import Set as AbstractSet
from typing import Final

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.charter import parse
from shoal.gossip.deadlines import SHORTEST_TIMEOUT, Deadline
from shoal.gossip.events import Effects, ProbeLink, SetTimer, Timer
from shoal.gossip.group import Group
from shoal.gossip.lifecycle import Phase
from shoal.gossip.matchmaking.bandwidth import UplinkEstimate
from shoal.gossip.matchmaking.matchmaking import OTHER_GROUP, Matchmaking
from shoal.gossip.matchmaking.search import MatchmakingConfig
from shoal.gossip.matchmaking.standing import Standing
from shoal.gossip.membership.dial_plan import DialPlan, Dice
from shoal.gossip.membership.dissemination import Dissemination
from shoal.gossip.membership.nearby import Nearby
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.messages import Commit, Negotiation, Presence, Ready, Shown
from shoal.gossip.run_spec import least_of

INFINITY: Final = float("inf")
MAX_EARLY: Final = 128
"""Peers ahead of us that are remembered."""
MIXING_SHARE: Final = 0.75
"""Share of the expected with which those go on that average in one of many groups."""
MAX_ANSWER: Final = 4.0
"""Seconds within which a convener that we accepted says something, whatever it waits for."""
LATE: Final = 5
"""Times that a convener leaves us waiting until it convenes nothing for a while."""
NEWCOMERS_SHARE: Final = 0.25
"""Of the learned wait for others, which newcomers have once the others are ready."""
SILENT: Final = "offered a group and then said nothing"
HURRY_AFTER: Final = 0.5
"""Share of the others' learned wait after which unfinished local work is cut short."""


class GroupSearch:
    """The searches of one node. See the module's docstring."""

    def __init__(
        self,
        view: SwarmView,
        dice: Dice,
        dial_plan: DialPlan,
        dissemination: Dissemination,
        nearby: Nearby,
        *,
        patience: float,
        wait_for: int,
        wait_seconds: float,
    ) -> None:
        """The last three are of `MemberConfig`."""
        self._view, self._dice, self._dial_plan = view, dice, dial_plan
        self._dissemination, self._nearby = dissemination, nearby
        self._patience, self._wait_for, self._wait_seconds = patience, wait_for, wait_seconds
        self.search: Matchmaking | None = None
        """The search of this round, also when it is over."""
        self.is_stale = False
        """Whether to search anew: links, deadlines and whom we wait for are of when we were left alone."""
        self.early: dict[PeerId, tuple[Ready, float]] = {}
        """Who is ready for our round or the next, and until when they wait."""
        self._sealed: dict[PeerId, bytes] = {}
        """Their words, as they came."""
        self._linked_before: frozenset[PeerId] = frozenset()
        self._in_a_row = 0
        """Rounds that we made one after the other."""
        self._owing: dict[PeerId, float] = {}
        """Conveners that had our word in a round that is over, and said nothing; since when."""
        self.ready_wait = Deadline(patience, floor=SHORTEST_TIMEOUT)
        self.answer_wait = Deadline(min(2.0, patience), floor=0.5)
        self.uplink = UplinkEstimate()
        self._hurry_at = INFINITY
        self._arrived: dict[PeerId, float] = {}

    @property
    def under_way(self) -> Matchmaking | None:
        """The search, while there is no group."""
        search = self.search
        is_on = search is not None and search.group is None and self._view.phase is Phase.SEEKING
        return search if is_on else None

    @property
    def formed(self) -> Group | None:
        """The group that was found, until its exchange begins."""
        search = self.search
        return search.group if search is not None and self._view.phase is Phase.SEEKING else None

    # --- the round --------------------------------------------------------------------------------

    def new_round(self, now: float, *, is_fetched: bool = False) -> Effects:
        """A round has begun: forget who was ready before; `is_fetched`: we did not make the last one."""
        self._in_a_row = 0 if is_fetched else self._in_a_row + 1
        self._name_faults(now)
        self.early = {peer: early for peer, early in self.early.items() if early[0].round >= self._view.round}
        self._sealed = {peer: sealed for peer, sealed in self._sealed.items() if peer in self.early}
        self._hurry_at = INFINITY
        self._linked_before = frozenset(self._view.table.connected)
        effects: Effects = [SetTimer(INFINITY, Timer.FINISH_EARLY)]
        for ready, until in self.early.values():
            effects += self._hurry(ready, until, now)
        return effects

    def begin(self, past: Container[bytes], now: float) -> Effects:
        """Seek a group for what the trainer gives; `past`: groups that we have been in."""
        self.end()
        view = self._view
        early = [
            (peer, ready)
            for peer, (ready, _) in self.early.items()
            if view.is_mine(ready) and view.admission.may_group(peer, now)
        ]
        self._arrived = {peer: now for peer, _ in early}
        self.search = Matchmaking(
            view.me,
            view.run,
            view.round,
            view.base,
            self._config(),
            int(self._dice.random() * (1 << 53)),
            view.reach,
            self.uplink.rate,
            view.unreached(now),
            past,
            self._standing(now),
            self._sealed,
        )
        return self.search.begin(self.expected(now), early, now)

    def end(self) -> None:
        """The round is over, or given up."""
        if self.search is not None:
            # From the first silence on: rounds may be shorter than an answer may take.
            self._owing = self.search.owing | self._owing
        self.search, self.is_stale = None, False

    # --- events -----------------------------------------------------------------------------------

    def ready(self, peer: PeerId, message: Ready, now: float, head: bytes = b"") -> Effects:
        """A peer is ready, for our round or another; `head`: as it came."""
        view = self._view
        if message.round < view.round or view.phase is Phase.FINISHED:
            # It is behind, and seeks a round that is over: our record says so.
            return self._dissemination.tell(peer) if view.run else []
        is_far = message.round > view.round + 1
        if is_far or not view.admission.may_group(peer, now) or len(self.early) > MAX_EARLY:
            return []
        self.early[peer] = (message, now + message.wait)
        self._sealed[peer] = head[1:]
        if not view.is_mine(message):
            return []
        if view.phase is Phase.WORKING:
            return self._hurry(message, now + message.wait, now)
        if view.phase is Phase.EXCHANGING and self.search is not None:
            return self.search.handle_ready(peer, message, now)
        if (search := self.under_way) is not None:
            if search.lacks_company and not search.expected:
                self.is_stale = True
                return []
            self._arrived.setdefault(peer, now)
            return search.handle_ready(peer, message, now)
        return []

    def handle(self, peer: PeerId, message: Negotiation, now: float, head: bytes = b"") -> Effects:
        """Take another message of matchmaking; `head`: as it came."""
        search = self.search
        if isinstance(message, Commit) and message.convener == peer:
            # Late, and of an earlier round perhaps.
            for owing in (self._owing, search.owing if search is not None else {}):
                owing.pop(peer, None)
        if search is None or message.round != self._view.round:
            return []
        if not self._view.admission.may_group(peer, now):
            return []
        if isinstance(message, Shown):
            # Whom this node does not group with is in no group of it, whoever shows its words.
            may_be_grouped = self._view.admission.may_be_grouped
            words = tuple(each for each in message.words if may_be_grouped(each.author, now))
            message = Shown(message.round, words)
        effects = search.handle(peer, message, now, head[1:])
        self._name_faults(now)
        return effects

    def moved(self, peer: PeerId, presence: Presence, now: float) -> Effects:
        """Do not count on a peer that was ready for a round in which it is no more."""
        early = self.early.get(peer)
        if early is None or (presence.phase == "working" and presence.round == early[0].round):
            return []
        del self.early[peer]
        self._sealed.pop(peer, None)
        search = self.under_way
        return search.withdraw(peer, now) if search is not None else []

    def lost(self, peer: PeerId, now: float) -> Effects:
        """A link is gone."""
        self.early.pop(peer, None)
        self._sealed.pop(peer, None)
        self._owing.pop(peer, None)
        if self.search is not None:
            self.search.owing.pop(peer, None)
        self._view.admission.mutes.excuse(peer)
        search = self.under_way
        return search.lost(peer, now) if search is not None else []

    def view_changed(self, now: float) -> Effects:
        """Other peers are there, or elsewhere than before."""
        search = self.under_way
        if search is None:
            return []
        expected = self.expected(now)
        if search.lacks_company and (
            expected - search.expected or self._view.company < search.config.company
        ):
            self.is_stale = True
            return []
        return search.expect(expected, now)

    def look_again(self, now: float) -> None:
        """Ask anew who is there, for a node that waits for company: what was lost is not said twice."""
        search = self.under_way
        if search is not None and search.lacks_company:
            self.is_stale = self._view.company < search.config.company or bool(self.expected(now))

    def timer(self, now: float) -> Effects:
        """Something that was waited for did not come."""
        search = self.under_way
        return search.timer(now) if search is not None else []

    def wait_for_no_more(self, now: float) -> Effects:
        """Once those whom we knew of at the start have answered or not, wait for no others."""
        search, table = self.under_way, self._view.table
        if search is None or search.config.wait_for == 1:
            return []
        unheard = any(table.get(peer) is None for peer in table.connected)
        if self._view.round == 0 or self._dial_plan.is_new_here or unheard:
            return []
        return search.wait_for_no_more(now)

    # --- what came of it --------------------------------------------------------------------------

    def learn(self, asked_at: float, now: float) -> Effects:
        """Take note, once a group is formed, of who was silent, and of how long the others took."""
        search = self.search
        assert search is not None
        assert search.group is not None
        view, members = self._view, set(search.group.members)
        has_own = view.pattern.has_own_states
        # Who was silent as a convener, and is not in the group that another convened, answered nobody.
        silent = (search.silent | search.mute - members) & view.table.connected
        # Newcomers are waited for less than others, and make nobody wait longer for these.
        newcomers = self._newcomers()
        if silent - newcomers:
            self.answer_wait.miss()
        elif search.answered_in is not None and (view.states_differ() or search.ready.keys() <= members):
            # Where somebody was left out, how fast the others were is no measure.
            self.answer_wait.observe(search.answered_in)
        # Whoever is in the group all the same answered somebody: that it lives is known.
        view.note_unresponsive(silent - members)
        missed = self.expected(now) - search.ready.keys() - members
        view.note_unresponsive(missed)
        self._note_tardy(((silent | search.tardy) - members) & newcomers, missed & newcomers, now)
        if missed - newcomers and not view.is_large_swarm():
            self.ready_wait.miss()
        elif len(waited_for := (set(search.ready) if has_own else members) - newcomers) > 1:
            lags = [max(0.0, self._arrived.get(peer, now) - asked_at) for peer in waited_for]
            self.ready_wait.observe(max(lags))
        return [ProbeLink(peer) for peer in sorted(silent)]

    def expected(self, now: float) -> set[PeerId]:
        """Return the peers worth waiting for, without newcomers that are not waited for now."""
        return self._view.expected(now) - self._ignored(now)

    def ready_peers(self) -> set[PeerId]:
        """Return who is ready for our round."""
        return {peer for peer, (ready, _) in self.early.items() if self._view.is_mine(ready)}

    # --- inside -----------------------------------------------------------------------------------

    def _newcomers(self) -> frozenset[PeerId]:
        """Return the linked peers that are no colleagues, where there are some, and one group."""
        view, known = self._view, self._view.colleagues
        colleagues, spec = known.colleagues(), view.spec
        # Of many groups nobody knows most of the others, and the same are not waited for twice.
        if not colleagues or spec is None or len(view.linked_trainers()) >= spec.group_size:
            return frozenset()
        return frozenset(view.table.connected) - colleagues - known.nearly()

    def _ignored(self, now: float) -> frozenset[PeerId]:
        """Return the newcomers that left us waiting; all of them where too much time was lost so."""
        newcomers, admission = self._newcomers(), self._view.admission
        if not newcomers or not admission.newcomer_waits.may_wait(now):
            return newcomers
        return newcomers & admission.mutes.at(self._view.round)

    def _note_tardy(self, silent: AbstractSet[PeerId], missed: AbstractSet[PeerId], now: float) -> None:
        """Take note of newcomers that did not answer an offer, or were not ready while all others were."""
        admission = self._view.admission
        for peer in sorted(silent | missed):
            admission.note_tardy(peer, self._view.round, now)
        search = self.search
        if search is None or not search.has_convened:
            return
        seconds = search.newcomers_took + (self._newcomer_wait if missed else 0.0)
        seconds += self.answer_wait.seconds() / 2 if silent else 0.0
        # Each of us convenes in turn, and each has an account.
        admission.newcomer_waits.charge(seconds * (1 + len(self._view.colleagues.colleagues())), now)

    @property
    def _newcomer_wait(self) -> float:
        """Seconds that newcomers have, once all others are ready."""
        return NEWCOMERS_SHARE * self.ready_wait.seconds()

    def _standing(self, now: float) -> Standing:
        """Return what we know of our peers."""
        # In the first round of a node nobody was linked before it.
        view = self._view
        colleagues, nearly = view.colleagues.colleagues(), view.colleagues.nearly()
        newcomers = frozenset(view.table.connected) - colleagues - nearly if colleagues else frozenset()
        return Standing(
            colleagues=colleagues,
            nearly=nearly,
            halfway=view.colleagues.halfway(),
            named=view.colleagues.named,
            linked_before=self._linked_before or frozenset(view.table.connected),
            muted=view.admission.mutes.at(view.round) | self._ignored(now),
            has_watched=view.colleagues.has_watched(self._in_a_row),
            is_run_older=self._in_a_row < view.round and view.colleagues.may_have_made_some(view.round),
            prefixes={peer: prefix for peer in newcomers if (prefix := self._nearby.prefix_of(peer))},
        )

    def _name_faults(self, now: float) -> None:
        """Count what was refused, and let who does not keep to its offers convene nothing for a while."""
        admission, search = self._view.admission, self.search
        if not self._owing and (search is None or not (search.refused or search.faults)):
            return
        for reason in search.refused.elements() if search is not None else ():
            admission.count(reason)
        faults = list(search.faults) if search is not None else []
        overdue = [peer for peer, since in self._owing.items() if now >= since + MAX_ANSWER]
        for peer in overdue:
            del self._owing[peer]
        faults += [(peer, SILENT) for peer in overdue]
        for peer, reason in faults:
            count = admission.named_faults.add(peer, reason, now)
            # A slow line alone can make a convener late.
            if reason == OTHER_GROUP or (reason == SILENT and count >= LATE):
                admission.mutes.add(peer, self._view.round)
        if search is not None:
            search.refused.clear()
            search.faults.clear()

    def _config(self) -> MatchmakingConfig:
        view, spec = self._view, self._view.spec
        assert spec is not None
        has_own_states = view.pattern.has_own_states
        first = view.round == 0
        patience = (self._wait_seconds or 2 * self._patience) if first else self._patience
        return MatchmakingConfig(
            group_size=view.pattern.group_size(spec.group_size, is_last=view.is_last),
            quorum=least_of(spec),
            company=view.company,
            share=MIXING_SHARE if view.is_large_swarm() and not has_own_states else 1.0,
            # Who has just been started does not go on alone while it looks for those it knew.
            wait_for=self._wait_for if first else 1 + self._dial_plan.is_new_here,
            # Whom the last round of such a run does not wait for is not in the mean that ends it.
            ready_wait=patience if has_own_states and view.is_last else self.ready_wait.seconds(),
            answer_wait=self.answer_wait.seconds(),
            newcomer_wait=self._newcomer_wait if self._newcomers() else INFINITY,
            patience=patience,
            max_chunk_numel=spec.max_chunk_numel,
            mode=parse(spec.charter).mode,
            several=view.states_differ() or len(view.linked_trainers()) >= spec.group_size,
        )

    def _hurry(self, ready: Ready, until: float, now: float) -> Effects:
        """Be done before the most hurried of those that wait goes on without us."""
        at = max(now, until - (1 - HURRY_AFTER) * ready.wait)
        if not self._view.is_mine(ready) or at >= self._hurry_at:
            return []
        self._hurry_at = at
        return [SetTimer(at, Timer.FINISH_EARLY)]
