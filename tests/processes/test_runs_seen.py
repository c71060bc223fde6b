"""A newcomer without a node asks what there is to join: shoal runs --join."""

import json
import subprocess
from pathlib import Path

import pytest
from swarm import NODE, TRAIN, Swarm, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_who_has_no_node_sees_what_there_is_to_join(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *TRAIN, "--run", "first")
        status = one.wait("its run", lambda status: status.run is not None)
        command = (*NODE, "runs", "--join", one.address, "--seconds", "60", "--json")
        ran = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        [seen] = json.loads(ran.stdout)
    assert status.run is not None
    assert (seen["name"], seen["method"], seen["task"]) == ("first", status.run.method, status.run.task)
    assert (seen["peers"], seen["linked"], seen["mode"], seen["ours"]) == (1, 1, "open", False)
