"""Calls and roles between real processes: the toy of split learning (tests/tasks/split.py)."""

from pathlib import Path

import pytest
from swarm import Node, Swarm

from shoal.node.status import Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SPLIT = ("--task", "split:Split", "--patience", "4")
ENVIRON = {"SHOAL_TESTING_TRAINER": "split"}


def start(swarm: Swarm, name: str, *flags: str, join: Node | None = None) -> Node:
    return swarm.start(name, *SPLIT, *flags, join=[join] if join else (), environ=ENVIRON)


def answered(status: Status) -> int:
    """Return how many rounds of late averaged with others and left no call unanswered."""
    rounds = [each for each in status.history if each.outcome == "averaged"]
    return sum(each.metrics.get("unanswered") == 0 for each in rounds[-3:])


def test_a_host_serves_and_is_replaced_by_a_peer_that_trains(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        host = start(swarm, "host", "--role", "host")
        one = start(swarm, "one", "--task-option", "x=1.0", join=host)
        two = start(swarm, "two", "--task-option", "x=2.0", "--role", "client", join=host)
        one.wait("three rounds without a call unanswered", lambda status: answered(status) == 3)
        assert max(each.contributors for each in one.status.history) == 3
        host.kill()
        before = one.status.round
        two.wait("three more, served by the other", lambda s: s.round > before + 3 and answered(s) == 3)
        assert "holds the role host" in one.log
