"""Real nodes of which one has a slow line: its part of the vector shrinks once it has measured that."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from statistics import median

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TASKS = Path(__file__).parents[1] / "tasks"
SCENARIO = """
nodes = 4
rounds = 7
quorum = 2
seeds = 0
task = "paced:Paced"
task_options = { pause = 0.0, hidden = 40000 }
options = { steps = 2 }

[link]
bandwidth_mbit = 4

[[faults]]
kind = "slow"
nodes = [1, 2, 3]
at = 0
seconds = 0
link = { bandwidth_mbit = 100 }
"""
"""A vector of 2 MB. All begin with a slow line, and three get a fast one, so that nobody is cut before it is
known what lines there are. While all reduce a quarter, the fourth sends one and a half of it; then one."""


def test_a_node_with_a_slow_line_comes_to_reduce_less_and_rounds_to_take_less(tmp_path: Path) -> None:
    (tmp_path / "slow.toml").write_text(SCENARIO)
    command = [
        sys.executable,
        "-P",
        "-m",
        "shoal.node",
        "testnet",
        "up",
        "--scenario",
        str(tmp_path / "slow.toml"),
    ]
    command += ["--dir", str(tmp_path / "net"), "--keep", "--no-calm", "--json", "--network", "proxy"]
    environment = os.environ | {"PYTHONPATH": str(TASKS.parents[1] / "src")}
    ended = subprocess.run(command, cwd=TASKS, env=environment, text=True, capture_output=True, check=False)
    assert ended.stdout, ended.stderr
    assert json.loads(ended.stdout)["same_state_hash"]
    rounds = "SELECT round, exchange_seconds FROM rounds WHERE contributors = 4"
    with closing(sqlite3.connect(tmp_path / "net" / "node-1" / "shoal.db")) as database:
        seconds = dict(database.execute(rounds).fetchall())
    print({round_: round(taken, 2) for round_, taken in sorted(seconds.items())})
    # In the first one a node may still be loading.
    assert set(range(1, 7)) <= seconds.keys()
    assert median(seconds[at] for at in (4, 5, 6)) < 0.8 * seconds[1]
