"""Real nodes that sum under masks: they learn the same, and go on when one of them is killed."""

from pathlib import Path

import pytest
from swarm import TRAIN, Swarm, averaged, wait_agreement

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SECURE = (*TRAIN, "--secure", "--accept-unseen-updates", "--wait-for", "4")


def test_three_of_four_go_on_with_one_state_when_the_fourth_is_killed(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *SECURE)
        nodes = [one, *(swarm.start(name, *SECURE, join=one) for name in ("two", "three", "four"))]
        for node in nodes:
            node.wait("has averaged", lambda status: len(averaged(status)) >= 2)
        assert max(each.contributors for each in averaged(one.status).values()) == 4
        nodes.pop().kill()
        wait_agreement(nodes, least=max(averaged(one.status)) + 2)
