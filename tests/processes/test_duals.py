"""Private duals over real processes: a killed node goes on with those of the state it wakes up with."""

import re
import signal
from pathlib import Path

import pytest
from swarm import Node, Swarm, averaged, wait_agreement

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FLAGS = ("--task", "paced:Paced", "--method", "fedspeed", "--option", "steps=5")


def rounds_on_disk(node: Node) -> tuple[set[int], set[int]]:
    """Return the rounds of the shared states on a node's disk, and of the private ones."""
    folder = node.home / "state"
    private = set(folder.glob("private-*-round*.safetensors"))
    shared = set(folder.glob("*-round*.safetensors")) - private
    return rounds_of(shared), rounds_of(private)


def rounds_of(files: set[Path]) -> set[int]:
    return {int(found[1]) for file in files if (found := re.search(r"-round(\d+)", file.name))}


@pytest.mark.parametrize("phase", ["reduce-owner", "save"])
def test_a_killed_node_goes_on_with_the_duals_of_its_state(tmp_path: Path, phase: str) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *FLAGS, "--wait-for", "3")
        two = swarm.start("two", *FLAGS, "--wait-for", "3", join=one)
        victim = swarm.start(
            "victim", *FLAGS, "--wait-for", "3", join=one, environ={"SHOAL_TESTING_DIE_AT": f"{phase}:3"}
        )
        assert victim.wait_end() == -signal.SIGKILL
        shared, private = rounds_on_disk(victim)
        # What belongs to the state it wakes up with is there, and so is what it made last.
        assert max(shared) in private
        wait_agreement([one, two], least=5)
        swarm.start("victim", *FLAGS, join=two)
        victim.wait_log(f"going on from round {max(shared)}")
        wait_agreement([one, two, victim], least=max(averaged(one.status)) + 2)
        rounds = averaged(victim.status)
        assert {each.outcome for each in rounds.values()} == {"averaged"}
        assert all("dual_coverage" in each.metrics for each in rounds.values())
        assert "going on without it" not in victim.log
        for node in (one, two, victim):
            node.kill()
            shared, private = rounds_on_disk(node)
            assert max(shared) in private
