"""A newcomer without the frozen base fetches it by blocks, though a giver and itself are killed meanwhile."""

import re
from pathlib import Path

import pytest
from swarm import Node, Swarm, wait_agreement

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FLAGS = ("--task", "paced:OnWideBase", "--option", "steps=3")
SLOW = {"SHOAL_GOSSIP_STATE_UPLOAD_MBIT": "16"}
BLOCKS = 69


def blocks_here(node: Node) -> int:
    """Return how many blocks a newcomer says that it has."""
    status = node.ask()
    said = re.search(r"(\d+) of 69 blocks", " ".join(status.problems)) if status is not None else None
    return int(said[1]) if said else 0


def test_a_base_comes_from_three_givers_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *FLAGS, environ=SLOW)
        givers = [one, *(swarm.start(name, *FLAGS, join=one, environ=SLOW) for name in ("two", "three"))]
        run = one.wait("has a run", lambda status: status.run is not None).run
        assert run is not None
        lacking = (*FLAGS, "--task-option", "lacks=true", "--base", run.base)
        new = swarm.start("new", *lacking, join=one)
        new.wait("some blocks from three givers", lambda status: "from 3 peers" in str(status.problems))
        new.kill()
        givers[2].kill()
        new.start(*lacking, "--join", one.address)
        new.wait("goes on with what lay on its disk", lambda status: blocks_here(new) > BLOCKS // 4)
        wait_agreement([*givers[:2], new], least=2)
        (data,) = new.home.glob("state/base-*.data")
        assert data.read_bytes() == next(one.home.glob("state/base-*.data")).read_bytes()
        assert not list(new.home.glob("state/base-*.part"))
