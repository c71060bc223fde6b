"""Roles: what trainer, member and status say to each other about calls, each in the other's words."""

from typing import Any

from shoal.crypto.keys import PeerId
from shoal.gossip.calls.answering import HandedOut
from shoal.gossip.calls.asking import Ended
from shoal.gossip.calls.asks import Count, Everyone, Next
from shoal.gossip.calls.calls import Calls, RoleTaken
from shoal.gossip.member import commands
from shoal.node.status import CallPartStatus, CallsStatus, HandoverStatus
from shoal.node.trainer import ipc


def offer_of(message: ipc.Attach, role: str) -> commands.OfferRoles:
    """Return what a node makes of the roles of a method. `role`: as `RunConfig.role` has it."""
    takes = frozenset(message.roles if role == "host" else (each for each in message.roles if each == role))
    return commands.OfferRoles(message.forms, message.roles, message.ability, role == "auto", takes)


def command_of(message: Any) -> commands.CallCommand | None:
    """Return what the trainer asks of the member, if it is about calls."""
    match message:
        case ipc.CallPeer():
            to = message.peers or message.name
            given = (message.verb, message.step, message.shapes, message.data, message.is_last)
            return commands.CallPeer(message.id, to, *given)
        case ipc.WantCalls():
            until = Count(message.count) if message.count else Everyone(message.among)
            return commands.WantCalls(message.role, Next(message.verbs, until))
        case ipc.AnswerCalls():
            return commands.AnswerCalls(
                tuple(
                    ((PeerId(peer), verb, step), shapes, data, refusal)
                    for peer, verb, step, shapes, data, refusal in message.answers
                )
            )
        case ipc.LookForRole():
            return commands.LookForRole(message.id, message.role)
        case ipc.LeaveRole():
            return commands.LeaveRole(message.role)
        case ipc.AttendRound():
            return commands.AttendRound()
    return None


def message_of(notice: HandedOut | Ended | RoleTaken | commands.RoleFound) -> ipc.ForRoles:
    """Return what the trainer is told."""
    match notice:
        case HandedOut():
            calls = tuple((c.peer, c.verb, c.step, c.shapes, bytes(c.data)) for c in notice.calls)
            return ipc.HandedOut(role=notice.role, calls=calls, is_complete=notice.is_complete)
        case Ended():
            return ipc.CallEnded(
                id=notice.id,
                peer=notice.peer or "",
                shapes=notice.shapes,
                data=bytes(notice.data),
                failure=notice.failure,
            )
        case RoleTaken():
            return ipc.RoleTaken(role=notice.role)
        case commands.RoleFound():
            return ipc.RoleFound(id=notice.id, holders=notice.holders)


def status_of(calls: Calls, now: float) -> CallsStatus | None:
    """Return who hosts what, and how calls go; None: the method has no roles."""
    if not calls.is_on:
        return None
    return CallsStatus(
        hosts={role: [each.peer for each in calls.holders(role, now)] for role in calls.roles.of_run},
        per_second=calls.tally.per_second(now),
        waiting=calls.answering.n_queued,
        unanswered=calls.asking.n_open,
        parts=[CallPartStatus(*each) for each in calls.tally.medians()],
        handovers=[
            HandoverStatus(each.verb, each.left, each.to, each.why[:100], each.seconds, now - each.at)
            for each in calls.tally.handovers
        ],
    )
