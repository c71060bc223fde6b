"""A node that nobody can dial trains with those that it is not told of, through the one that it dialled."""

from pathlib import Path

import pytest
from swarm import TRAIN, Node, Swarm, averaged, wait_agreement

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LONG = 120.0


def links_of(node: Node) -> dict[str, str]:
    """Return the class of each of a node's links."""
    return {peer.peer: peer.link for peer in node.status.peers if peer.link != "none"}


def test_hidden_nodes_average_through_a_helper(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        helper = swarm.start("helper")
        flags = (*TRAIN, "--hidden", "--quorum", "2", "--wait-for", "2")
        one = swarm.start("one", *flags, "--task-option", "seed=1", join=helper)
        two = swarm.start("two", *flags, "--task-option", "seed=2", join=helper)
        for node in (one, two):
            node.wait("rounds together", lambda s: len(averaged(s)) >= 3, LONG)
        wait_agreement([one, two], least=2, seconds=LONG)
        there = two.status
        assert all("/p2p-circuit/" in address for address in there.addresses)
        assert links_of(one)[there.peer_id] == "relayed"
        assert links_of(one)[helper.status.peer_id] == "direct"
        # Without its helper a hidden node is alone, and says so rather than wait for ever.
        helper.kill()
        one.wait("the relayed link is gone", lambda s: there.peer_id not in links_of(one), LONG)
        assert one.stop() == two.stop() == 0
