"""Lifecycle: what a node is doing, and every move from one phase to the next.

    helping                                        no trainer: serves records and states
    working  --search--> seeking --exchange--> exchanging --answer--> applying  --state--> working
       '---behind---> syncing --state--> working                         |
       '<-----------------abort (the ask failed)-------------------------'
    finished                                       the run is over: serves its last state

Rule: everything that may change a phase is in this file. The member calls `enter`, nobody assigns a phase,
and a move that the table does not know is a bug of ours.
"""

import logging
from enum import Enum
from typing import Final

from shoal.crypto.keys import PeerId, short
from shoal.gossip.errors import LocalViolation

log = logging.getLogger(__name__)


class Phase(Enum):
    """What the node is doing."""

    HELPING = "helping"
    WORKING = "working"
    SEEKING = "matchmaking"
    EXCHANGING = "exchanging"
    APPLYING = "applying"
    SYNCING = "syncing"
    FINISHED = "finished"


class Trigger(Enum):
    """What moves a node from one phase to another."""

    STATE_TAKEN = "the trainer holds a state"
    SEARCH_BEGUN = "a search for a group began"
    EXCHANGE_BEGUN = "an exchange began"
    ASK_ENDED = "the ask was answered, or failed"
    ROUND_ABORTED = "the round ended without a new state"
    FELL_BEHIND = "the swarm is at another state"
    FETCH_FAILED = "no donor gave the state"
    TRAINER_LEFT = "the trainer is gone"
    RUN_FINISHED = "the run is over"


_TABLE: Final[dict[tuple[Phase, Trigger], Phase]] = {
    **{(phase, Trigger.STATE_TAKEN): Phase.WORKING for phase in Phase},
    **{(phase, Trigger.TRAINER_LEFT): Phase.HELPING for phase in Phase},
    **{(phase, Trigger.RUN_FINISHED): Phase.FINISHED for phase in Phase},
    (Phase.WORKING, Trigger.SEARCH_BEGUN): Phase.SEEKING,
    (Phase.APPLYING, Trigger.SEARCH_BEGUN): Phase.SEEKING,
    # A further ask of the round goes on in the group of the last, and so does another engine's.
    (Phase.WORKING, Trigger.EXCHANGE_BEGUN): Phase.EXCHANGING,
    (Phase.APPLYING, Trigger.EXCHANGE_BEGUN): Phase.EXCHANGING,
    (Phase.EXCHANGING, Trigger.EXCHANGE_BEGUN): Phase.EXCHANGING,
    (Phase.SEEKING, Trigger.EXCHANGE_BEGUN): Phase.EXCHANGING,
    # In a search: the group has too few members.
    (Phase.SEEKING, Trigger.ASK_ENDED): Phase.APPLYING,
    (Phase.EXCHANGING, Trigger.ASK_ENDED): Phase.APPLYING,
    (Phase.HELPING, Trigger.ROUND_ABORTED): Phase.WORKING,
    (Phase.WORKING, Trigger.ROUND_ABORTED): Phase.WORKING,
    (Phase.SEEKING, Trigger.ROUND_ABORTED): Phase.WORKING,
    (Phase.EXCHANGING, Trigger.ROUND_ABORTED): Phase.WORKING,
    (Phase.APPLYING, Trigger.ROUND_ABORTED): Phase.WORKING,
    (Phase.WORKING, Trigger.FELL_BEHIND): Phase.SYNCING,
    (Phase.SEEKING, Trigger.FELL_BEHIND): Phase.SYNCING,
    (Phase.FINISHED, Trigger.FELL_BEHIND): Phase.SYNCING,
    **{(phase, Trigger.FETCH_FAILED): Phase.WORKING for phase in Phase if phase is not Phase.HELPING},
}


class Lifecycle:
    """The phase of one node. See the module's docstring."""

    def __init__(self, me: PeerId, phase: Phase = Phase.HELPING) -> None:
        """`me`: for the log."""
        self._me = me
        self.phase = phase
        """What the node is doing; for `enter` alone to change."""

    def enter(self, trigger: Trigger) -> None:
        """Go to the phase that follows.

        Raises:
            LocalViolation: nothing of the kind can happen in this phase.
        """
        former = self.phase
        following = _TABLE.get((former, trigger))
        if following is None:
            raise LocalViolation(f"while {former.value}: {trigger.value}")
        self.phase = following
        if following is not former:
            log.debug("%s: %s -> %s: %s", short(self._me), former.value, following.value, trigger.value)
