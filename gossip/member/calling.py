"""Calling: what a node's trainer asks about calls and roles, and the round of a node that only hosts.

Calls have no part in the phases of a round. The one thing that they share: a node that attends, since it only
hosts, contributes when all peers that train are ready.
"""

from shoal.gossip.calls.calls import Calls
from shoal.gossip.errors import LocalViolation
from shoal.gossip.events import Effects, Notify
from shoal.gossip.lifecycle import Phase
from shoal.gossip.member.commands import (
    AnswerCalls,
    AttendRound,
    CallCommand,
    CallPeer,
    FinishEarly,
    LeaveRole,
    LookForRole,
    OfferRoles,
    RoleFound,
    WantCalls,
)
from shoal.gossip.member.group_search import GroupSearch
from shoal.gossip.membership.swarm_view import SwarmView


class Calling:
    """See the module's docstring."""

    def __init__(self, view: SwarmView, group_search: GroupSearch, calls: Calls) -> None:
        """The parts of one member."""
        self._view, self._search, self._calls = view, group_search, calls
        self._attends = False

    def command(self, event: CallCommand, now: float) -> Effects:
        """Do what the node says."""
        calls = self._calls
        match event:
            case OfferRoles():
                terms = (event.forms, event.roles, event.ability, now)
                return calls.attach(self._view.run, *terms, is_willing=event.is_willing, takes=event.takes)
            case CallPeer():
                asked = (event.id, event.to, event.verb, event.step, event.shapes, event.data, now)
                return calls.call(*asked, is_last=event.is_last)
            case WantCalls():
                return calls.want(event.role, event.ask, now)
            case AnswerCalls():
                return calls.reply(event.answers, now)
            case LookForRole():
                return [Notify(RoleFound(event.id, calls.holders(event.role, now)))]
            case LeaveRole():
                return calls.leave(event.role, now)
            case AttendRound():
                self._attends = True
                return []
        raise LocalViolation(f"{type(event).__name__} is no command about calls")

    def settle(self, now: float) -> Effects:
        """Let a round that only attends go on, once all that train are ready for it."""
        if not self._attends or self._view.phase is not Phase.WORKING:
            return []
        training = self._search.expected(now) - self._calls.roles.only_host(now)
        if not training or not training <= self._search.ready_peers():
            return []
        self._attends = False
        return [Notify(FinishEarly())]

    def new_round(self) -> None:
        """Nobody attends the next round yet."""
        self._attends = False
