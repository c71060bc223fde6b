"""States that outsiders made up are held by no node, not even by those that have no colleagues yet.

Nodes that have some are attacked in test_liars.py.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from swarm import TRAIN, Node, Swarm

from shoal.node.status import Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LONG = (*TRAIN, "--rounds", "100000")


def has_come_to(round_: int, status: Status) -> bool:
    """Tell whether a node has."""
    return status.round >= round_


def attack(lie: str, victim: Node) -> dict[str, int]:
    """Return what an outsider with a fresh key did in some seconds, and what it achieved."""
    command = [
        sys.executable,
        "-m",
        "shoal.node.testnet.lies.outsider",
        lie,
        victim.address,
        "--seconds",
        "8",
    ]
    said = subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout
    found: dict[str, int] = json.loads(said.splitlines()[-1])
    return found


def test_no_state_of_nan_is_held_even_by_nodes_that_have_no_colleagues(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        first = swarm.start("one", *LONG, "--wait-for", "3")
        nodes = [first, *(swarm.start(name, *LONG, join=first) for name in ("two", "three"))]
        for node in nodes:
            node.wait("knows the others", lambda status: status.round >= 20)
        did = attack("nan-state", first)
        assert did["records told"] > 0
        assert did.get("nodes that held its state", 0) == 0
        for node in nodes:
            goal = node.status.round + 5
            node.wait("goes on", partial(has_come_to, goal))
