"""The round of this node: what its trainer asks, what the parts make of it, and when the swarm is ahead.

    attach --> new state --> contribute --> search --> exchange --> answer --> new state ...
                   '-- behind: the swarm's state (presence.py) is not ours --> fetch --> synced

Parts do not call each other. They come to something, and `_settle` acts on it, in one order.
"""

import logging
from typing import Final

import numpy as np

from shoal.crypto.keys import short
from shoal.gossip.averaging.announcing import is_sane
from shoal.gossip.events import (
    Effects,
    Notify,
    SetTimer,
    Timer,
    Vector,
)
from shoal.gossip.group import Group
from shoal.gossip.lifecycle import Phase, Trigger
from shoal.gossip.member.commands import (
    Acquainted,
    Attach,
    Contribute,
    Contribution,
    Failed,
    NewState,
    RefuseState,
    Synced,
)
from shoal.gossip.member.parts import Parts
from shoal.gossip.membership.dial_plan import ENOUGH
from shoal.gossip.run_spec import NATIVE, least_of
from shoal.gossip.state.fetch import Fetching

log = logging.getLogger(__name__)

EMPTY: Final[Vector] = np.empty(0, dtype=np.float32)
INFINITY: Final = float("inf")


class OwnRound(Parts):
    """What a member does about its own round and state. See the module's docstring."""

    # --- the trainer ------------------------------------------------------------------------------

    def _attach(self, event: Attach, now: float) -> Effects:
        self.view.attach(event.run, event.spec, mergeable=event.mergeable)
        self.view.together.attach(had_company=event.had_company)
        effects = self.roster_sync.attach(event.spec.charter, now)
        self.view.colleagues.restore(event.known)
        self.view.is_unanchored = event.is_unanchored
        self.pairwise.attach(now)
        self.asks.attach(event.spec)
        # Whoever lacks a link to a member of its group reduces no part of the vector.
        self.dial_plan.enough = max(ENOUGH, event.spec.group_size * 3 // 2)
        return effects

    def _detach(self, now: float) -> Effects:
        effects = self.asks.abandon()
        self._end_round()
        self.state_sync.stop()
        self.view.trainer_left()
        self._enter(Trigger.TRAINER_LEFT)
        effects += self.calls.detach(now)
        return [*effects, *self.dissemination.push(now)]

    def _new_state(self, event: NewState, now: float) -> Effects:
        is_fetched = self.phase is Phase.SYNCING
        made_with = self.view.linked_trainers() if is_fetched else event.contributors
        self.view.together.note_state(made_with, self.me, is_fetched=is_fetched)
        self.view.take_state(event.round, event.state, event.previous)
        self.serving.hold(event.round, event.state, event.previous, event.data, event.leaves)
        self.pairwise.note_state(event.data)
        self.asks.note_state(event.data, is_fetched=is_fetched)
        self._enter(Trigger.STATE_TAKEN)
        # The trainer writes its next contribution where this exchange has its mean.
        self._end_round(finished=True)
        self.state_sync.has_state()
        effects = self._note_colleagues(event, now, is_fetched=is_fetched)
        effects += self.group_search.new_round(now, is_fetched=is_fetched) + self._look_for_company(now)
        return [*effects, *self.dissemination.push(now), *self._check_behind(now)]

    def _note_colleagues(self, event: NewState, now: float, *, is_fetched: bool) -> Effects:
        """Take note of with whom a round was finished, or of who gave us our state."""
        view = self.view
        if is_fetched:
            for peer in self.state_sync.take_served():
                view.doubts.trust(peer)
        elif set(event.contributors) <= {self.me}:
            return []
        else:
            view.colleagues.note_round(event.contributors, now, event.round)
            view.is_unanchored = view.is_unanchored and not view.colleagues.colleagues()
        return [Notify(Acquainted(view.colleagues.known(), view.is_unanchored))]

    def _refuse_state(self, event: RefuseState, now: float) -> Effects:
        served = self.state_sync.take_served()
        for peer in served if event.fault else ():
            self.admission.named_faults.add(peer, event.fault, now)
        self.view.refuse(event.state, now)
        if self.phase is not Phase.SYNCING:
            return []
        self._enter(Trigger.FETCH_FAILED)
        return [*self.dissemination.push(now), *self._check_behind(now)]

    # --- a round ----------------------------------------------------------------------------------

    def _contribute(self, event: Contribution, now: float) -> Effects:
        if self.phase not in (Phase.WORKING, Phase.APPLYING):
            return [Notify(Failed("LeftOut", "the swarm went on without this node"))]
        if isinstance(event, Contribute) and not is_sane(event.vector):
            text = "this node's own contribution is not finite: lower the learning rate"
            return [Notify(Failed("NotFinite", text))]
        effects: Effects = [SetTimer(INFINITY, Timer.FINISH_EARLY)]
        self.asks.ask(event, now)
        if self.asks.can_go_on(event.index):
            self._enter(Trigger.EXCHANGE_BEGUN)
            return effects + self.asks.go_on(now)
        self.asks.drop_last()
        self._enter(Trigger.SEARCH_BEGUN)
        return effects + self.group_search.begin(self.asks.past, now)

    def _begin_external_exchange(self) -> Effects:
        if self.phase not in (Phase.WORKING, Phase.EXCHANGING):
            return [Notify(Failed("LeftOut", "the swarm went on without this node"))]
        self._enter(Trigger.EXCHANGE_BEGUN)
        return [SetTimer(INFINITY, Timer.FINISH_EARLY)]

    def _abort_round(self, now: float) -> Effects:
        if self.phase in (Phase.SYNCING, Phase.FINISHED):
            return []
        if self.view.spec is not None and self.view.spec.engine != NATIVE:
            self.view.together.note_failure()
        effects = self.asks.abandon()
        self._end_round()
        self._enter(Trigger.ROUND_ABORTED)
        return effects + self._check_behind(now)

    def _end_round(self, *, finished: bool = False) -> None:
        self.asks.end(finished=finished)
        self.pairwise.end()
        self.group_search.end()
        self.calling.new_round()

    def _enter(self, trigger: Trigger) -> None:
        self.view.lifecycle.enter(trigger)

    # --- what the parts came to -------------------------------------------------------------------

    def _settle(self, now: float) -> Effects:
        """Act on what came about: in a search, then in the trainer's ask, then in a fetch."""
        effects: Effects = []
        if self.group_search.is_stale:
            self.asks.asked_at = now
            effects += self.group_search.begin(self.asks.past, now)
        # After nearly every event there is nothing: a node asks first what costs least.
        if self.view.phase is Phase.SEEKING and (group := self.group_search.formed) is not None:
            effects += self._group_formed(group, now)
        if self.view.phase is Phase.EXCHANGING and self.asks.is_answered:
            self._enter(Trigger.ASK_ENDED)
            effects += self.asks.answer(now)
        if self.pairwise.is_answered:
            self._enter(Trigger.ASK_ENDED)
            effects += self.pairwise.answer(now)
        if self.state_sync.is_over:
            effects += self._fetch_ended(now)
        effects += self.calling.settle(now)
        return effects

    def _group_formed(self, group: Group, now: float) -> Effects:
        """Begin the exchange."""
        log.debug("%s: round %d: a group of %d", short(self.me), group.round, len(group.members))
        asks, spec = self.asks, self.view.spec
        effects = self.group_search.learn(asks.asked_at, now)
        if self.view.pattern.has_own_states and isinstance(asks.pending, Contribute):
            if not self.view.pattern.is_in_group(is_last=self.view.is_last):
                self._enter(Trigger.EXCHANGE_BEGUN)
                return effects + self.pairwise.begin(asks.pending, asks.asked_at, now)
            asks.ask(self.pairwise.close(asks.pending), asks.asked_at)
        if spec is not None and len(group.members) < (least := least_of(spec)):
            self._enter(Trigger.ASK_ENDED)
            text = f"{len(group.members)} of at least {least} peers were ready"
            return [*effects, Notify(Failed("TooFew", text))]
        self._enter(Trigger.EXCHANGE_BEGUN)
        return effects + asks.begin(group, now)

    def _fetch_ended(self, now: float) -> Effects:
        """Hand a state on to the trainer, or keep it for others, or look whether we still need one."""
        fetched, effects = self.state_sync.take_result(now)
        if self.phase is Phase.HELPING:
            return [*effects, *(self._hold(fetched, now) if fetched.is_done else [])]
        if fetched.is_done:
            got = (fetched.round, fetched.state, fetched.previous, fetched.vector)
            apart = self.view.rounds_apart(fetched.round)
            found = Synced(*got, fetched.served, fetched.reused, fetched.leaves, apart)
            return [*effects, Notify(found)]
        self._enter(Trigger.FETCH_FAILED)
        ours = Synced(self.round, self.state, self.previous, EMPTY)
        return [*effects, *(self._check_behind(now) or [Notify(ours)])]

    def _hold(self, fetched: Fetching, now: float) -> Effects:
        kept = (fetched.round, fetched.state, fetched.previous)
        self.view.hold_state(*kept)
        self.serving.hold(*kept, fetched.vector.data, fetched.leaves, keeps_former=False)
        return self.dissemination.push(now)

    # --- the swarm's state ------------------------------------------------------------------------

    def _check_behind(self, now: float) -> Effects:
        if self.view.phase is Phase.HELPING and not self.view.run:
            return [] if self.config.awaits_trainer else self.state_sync.hold_for_others(now)
        target = self.view.ahead(now)
        if target is None:
            return []
        effects: Effects = [SetTimer(INFINITY, Timer.MATCHMAKING)]
        if self.phase is Phase.SEEKING:
            effects.append(Notify(Failed("LeftOut", "the swarm is at another state")))
        self._end_round()
        self.view.follow(target)
        self._enter(Trigger.FELL_BEHIND)
        return effects + self.state_sync.begin(target, now)

    def _look_for_company(self, now: float) -> Effects:
        if not self.view.run or self.phase in (Phase.HELPING, Phase.FINISHED):
            return []
        together, others = self.view.together, len(self.view.linked_trainers())
        together.stopped(self.view.linked_helpers())
        if self.view.spec is not None and self.view.spec.engine != NATIVE:
            # Those of another engine that are no nodes are linked with nobody here.
            others += together.n_others
        said = together.look(others, self.round, now)
        self.group_search.look_again(now)
        return said + self._settle(now)
