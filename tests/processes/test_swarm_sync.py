"""Nodes with a large state: who starts with it fetches none; who died in a fetch needs the rest only."""

import re
from pathlib import Path

import pytest
from swarm import TRAIN, Node, Swarm, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NUMEL = 8_000_000
CHUNKS = 31
LARGE = (*TRAIN, "--task-option", f"numel={NUMEL}", "--task-option", "pause=0.01", "--rounds", "2")
SLOWLY = {"SHOAL_GOSSIP_STATE_UPLOAD_MBIT": "40"}
"""A megabyte in 0.2 s from each donor."""


def start_finished(swarm: Swarm) -> tuple[Node, Node]:
    """Two nodes whose run is over, and who hand its last state out slowly."""
    one = swarm.start("one", *LARGE, "--wait-for", "2", environ=SLOWLY)
    two = swarm.start("two", *LARGE, "--wait-for", "2", join=one, environ=SLOWLY)
    for node in (one, two):
        node.wait("has finished", lambda status: status.phase == "finished")
    return one, two


def test_nodes_that_start_from_one_state_send_their_rounds_and_no_state(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *LARGE, "--wait-for", "2")
        # Its state is there long before the other's trainer is.
        one.wait("has a trainer", lambda status: status.run is not None)
        two = swarm.start("two", *LARGE, "--wait-for", "2", join=one)
        for node in (one, two):
            done = node.wait("has finished", lambda status: status.phase == "finished")
            # In an all-reduce of two each sends half a vector twice.
            assert done.bytes_sent < 1.05 * 2 * 4 * NUMEL


def test_a_node_that_was_killed_while_it_fetched_goes_on_from_its_verified_chunks(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one, two = start_finished(swarm)
        late = swarm.start("late", *LARGE, join=[one, two])
        folder = late.home / "state" / "fetching"
        wait_until("a third is here", lambda: size(folder) > NUMEL * 4 // 3 or None)
        late.kill()
        kept = size(folder) // (1 << 20)
        assert not list(late.home.glob("state/*.safetensors")) or "took over" not in late.log
        swarm.start("late", *LARGE, join=[one, two])
        done = late.wait("has the last state", lambda status: status.phase == "finished")
        assert done.state_hash == one.status.state_hash == two.status.state_hash
        taken = re.search(r"took over the swarm's state at round 2 \(chunks: (.*)\)", late.log)
        assert taken is not None
        counts = [int(part.rpartition(" ")[2]) for part in taken[1].split(", ")]
        print(f"kept {kept} of {CHUNKS} chunks: {taken[1]}")
        assert sum(counts) == CHUNKS
        # The end may be torn, and of each donor a chunk may be on its way before the disk has been read.
        assert counts[-1] >= kept - 3 >= CHUNKS // 4
        assert "known already" in taken[1]
        wait_until("the chunks make way for the state", lambda: not list(folder.iterdir()))


def test_a_node_whose_only_donor_dies_goes_on_with_another_from_where_it_was(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one, two = start_finished(swarm)
        late = swarm.start("late", *LARGE, join=[one, two])
        folder = late.home / "state" / "fetching"
        wait_until("a quarter is here", lambda: size(folder) > NUMEL or None)
        one.kill()
        done = late.wait("has the last state", lambda status: status.phase == "finished")
        assert done.state_hash == two.status.state_hash
        assert late.log.count("rounds: the swarm is at round 2, this node at 0: fetching its state") == 1


def size(folder: Path) -> int:
    """Return how many bytes lie in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.part"))
