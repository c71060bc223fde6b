"""Real nodes that train anew without a peer, from a state that they kept."""

import subprocess
from pathlib import Path

import pytest
from swarm import NODE, TASKS, TRAIN, Node, Swarm, environment, wait_agreement

from shoal.node.retraining.start_file import read_start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
KEEPS = (*TRAIN, "--keep-states", "64", "--wait-for", "2", "--wait-seconds", "600")


def forget(node: Node, peer: str, out: Path) -> str:
    """Return what a user is told who types it; nothing where this node cannot tell."""
    command = [*NODE, "forget", "--retrain", peer, "--home", str(node.home), "--out", str(out)]
    return subprocess.run(
        command, cwd=TASKS, env=environment(), check=False, capture_output=True, text=True
    ).stdout


def test_two_go_on_without_a_third_from_before_its_first_round(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *KEEPS)
        two = swarm.start("two", *KEEPS, join=one)
        one.wait("three rounds of two", lambda status: status.round >= 3)
        third = swarm.start("third", *KEEPS, join=one)
        late = third.wait("has averaged", lambda s: any(each.contributors == 3 for each in s.history))
        first = min(each.round for each in late.history if each.contributors == 3)
        one.wait("has ended that round", lambda status: status.round > first + 1)
        third.stop()
        # A node that was late for a round and fetched the state cannot tell what is in it: the other can.
        told = forget(one, late.peer_id, tmp_path) or forget(two, late.peer_id, tmp_path)
        [file] = tmp_path.glob("*.safetensors")
        start = read_start(file)
        assert f"since round {start.origin.first_round}" in told
        assert "--run run-anew" in told
        assert start.checkpoint.round <= start.origin.first_round <= first
        assert set(start.origin.members) == {one.status.peer_id, two.status.peer_id}
        for node in (one, two):
            node.stop()
        anew = (*KEEPS, "--run", "run-anew", "--from", str(file))
        one.start(*anew)
        # Killed while it waits for the other, it has begun the run or not: it begins at one place.
        one.wait("has begun", lambda status: status.round == start.checkpoint.round)
        one.kill()
        one.start(*anew)
        two.start(*anew, "--join", one.address)
        wait_agreement([one, two], least=start.checkpoint.round + 1)
        begun = [each for each in one.status.history if each.outcome == "averaged"]
        assert begun[0].round == start.checkpoint.round
        assert all(each.contributors == 2 for each in begun)
