"""Lifecycle: the moves that exist, and what a move that does not exist means."""

import logging

import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.errors import LocalViolation
from shoal.gossip.lifecycle import Lifecycle, Phase, Trigger

ME = PeerId("me")
A_ROUND = (
    (Trigger.STATE_TAKEN, Phase.WORKING),
    (Trigger.SEARCH_BEGUN, Phase.SEEKING),
    (Trigger.EXCHANGE_BEGUN, Phase.EXCHANGING),
    (Trigger.ASK_ENDED, Phase.APPLYING),
    (Trigger.EXCHANGE_BEGUN, Phase.EXCHANGING),
    (Trigger.ASK_ENDED, Phase.APPLYING),
    (Trigger.STATE_TAKEN, Phase.WORKING),
    (Trigger.FELL_BEHIND, Phase.SYNCING),
    (Trigger.FETCH_FAILED, Phase.WORKING),
    (Trigger.RUN_FINISHED, Phase.FINISHED),
    (Trigger.TRAINER_LEFT, Phase.HELPING),
)


def test_a_run_goes_through_all_phases_and_the_log_tells_each_move(caplog: pytest.LogCaptureFixture) -> None:
    life = Lifecycle(ME)
    with caplog.at_level(logging.DEBUG):
        for trigger, phase in A_ROUND:
            life.enter(trigger)
            assert life.phase is phase
    assert len(caplog.messages) == len(A_ROUND)
    assert caplog.messages[1] == "me: working -> matchmaking: a search for a group began"


def test_what_changes_no_phase_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    life = Lifecycle(ME, Phase.WORKING)
    with caplog.at_level(logging.DEBUG):
        life.enter(Trigger.ROUND_ABORTED)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("phase", "trigger"),
    [
        (Phase.HELPING, Trigger.SEARCH_BEGUN),
        (Phase.SYNCING, Trigger.EXCHANGE_BEGUN),
        (Phase.SYNCING, Trigger.ROUND_ABORTED),
        (Phase.WORKING, Trigger.ASK_ENDED),
        (Phase.EXCHANGING, Trigger.FELL_BEHIND),
        (Phase.HELPING, Trigger.FETCH_FAILED),
    ],
)
def test_a_move_that_cannot_be_is_a_bug_of_ours(phase: Phase, trigger: Trigger) -> None:
    life = Lifecycle(ME, phase)
    with pytest.raises(LocalViolation):
        life.enter(trigger)
    assert life.phase is phase
