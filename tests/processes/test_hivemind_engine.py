"""Real nodes and a plain hivemind script in one run; skipped where hivemind is not installed."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import psutil
import pytest
from swarm import TRAIN, Node, Swarm, environment, wait_until

from shoal.node.storage.checkpoint import load_newest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("hivemind") is None, reason="hivemind is not installed: .[hivemind]"),
]
ROOT: Final = Path(__file__).parents[2]
SCRIPT: Final = ROOT / "examples" / "hivemind_script.py"
NUMEL: Final = 50_000
ENGINE: Final = (*TRAIN, "--engine", "hivemind", "--task-option", f"numel={NUMEL}", "--patience", "20")
LONG: Final = 180.0
"""Seconds: hivemind loads torch and starts three processes, per node and script."""


def engine_is_up(node: Node) -> str:
    """Return where a node's hivemind is reached."""
    status = node.wait("hivemind is up", lambda s: s.engine and s.engine.addresses, LONG)
    assert status.engine is not None
    return status.engine.addresses[0]


def vector_of(node: Node, numel: int = NUMEL) -> np.ndarray:
    """Return the model that a node has on disk."""
    run = node.status.run
    assert run is not None
    name = bytes.fromhex(run.run_id)
    found = wait_until(f"{node.name} has saved", lambda: load_newest(node.home / "state", name, numel=numel))
    return found.vector


def of_group(group: int) -> list[psutil.Process]:
    """Return what lives of a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def test_two_nodes_and_a_plain_script_end_with_the_same_vector(tmp_path: Path) -> None:
    saved = tmp_path / "script.npy"
    three = (*ENGINE, "--rounds", "1", "--quorum", "3", "--wait-for", "3")
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *three, "--task-option", "seed=1")
        two = swarm.start("two", *three, "--task-option", "seed=2", join=one)
        addresses = [engine_is_up(one), engine_is_up(two)]
        status = one.status.engine
        assert status is not None
        words = ["--peer", addresses[0], "--prefix", status.prefix, "--numel", str(NUMEL)]
        words += ["--fill", "1.5", "--weight", "64", "--save", str(saved), "--timeout", "120"]
        ran = subprocess.run(
            [sys.executable, str(SCRIPT), *words],
            capture_output=True,
            text=True,
            timeout=LONG,
            env=environment(),
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout.splitlines()[0])["members"] == 3, ran.stdout
        for node in (one, two):
            ended = node.wait("its round is over", lambda s: s.phase == "finished" and s.round == 1, LONG)
            last = [row for row in ended.history if row.outcome == "averaged"][-1]
            assert last.contributors == 3, ended.history
            assert ended.engine is not None
            assert ended.engine.strangers == 1
        vectors = [vector_of(one), vector_of(two), np.load(saved)]
        assert one.stop() == two.stop() == 0
    for vector in vectors[1:]:
        assert np.abs(vector - vectors[0]).max() <= 1e-5
    # All three weigh alike; most of what the nodes hold is 0, so most of the mean is a third of 1.5.
    assert np.median(vectors[0]) == pytest.approx(0.5, abs=1e-6)


def test_where_changes_travel_all_start_from_one_state(tmp_path: Path) -> None:
    flags = [*("--task", "digits", "--method", "diloco", "--option", "steps=20", "--engine", "hivemind")]
    flags += ["--rounds", "5", "--quorum", "2", "--wait-for", "2"]
    with Swarm(tmp_path) as swarm:
        nodes = [swarm.start("one", *flags, "--task-option", "share=1/2")]
        nodes.append(swarm.start("two", *flags, "--task-option", "share=2/2", join=nodes[0]))
        for node in nodes:
            ended = node.wait("its rounds are over", lambda s: s.phase == "finished" and s.round == 5, LONG)
            assert all(row.contributors == 2 for row in ended.history if row.outcome == "averaged")
        wait_until("they hold one state", lambda: len({node.status.state_hash for node in nodes}) == 1)
        assert [node.stop() for node in nodes] == [0, 0]


def test_a_killed_engine_is_started_again_and_rounds_go_on(tmp_path: Path) -> None:
    two_of_them = (*ENGINE, "--rounds", "0", "--quorum", "2", "--wait-for", "2")
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *two_of_them, "--task-option", "seed=1")
        two = swarm.start("two", *two_of_them, "--task-option", "seed=2", join=one)
        before = one.wait("rounds together", lambda s: s.round >= 2, LONG)
        assert before.engine is not None
        killed = before.engine.pid
        os.kill(killed, signal.SIGKILL)
        one.wait_log("the hivemind engine was killed by signal 9 (SIGKILL)")
        after = one.wait(
            "more rounds", lambda s: s.engine and s.engine.restarts == 1 and s.round >= before.round + 3, LONG
        )
        assert after.problems == [], "what was wrong is mended"
        two.wait("more rounds", lambda s: s.round >= before.round + 3, LONG)
        last = [row for row in after.history if row.outcome == "averaged"][-1]
        assert last.contributors == 2
        assert of_group(killed) == [], "what the killed engine had started ended with it"
        assert one.stop() == two.stop() == 0


def test_nothing_of_hivemind_outlives_a_killed_node(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        node = swarm.start("one", *ENGINE, "--rounds", "0")
        engine_is_up(node)
        status = node.status.engine
        assert status is not None
        assert any(process.name() == "p2pd" for process in of_group(status.pid))
        # Alone it goes on at once, without waiting for anybody.
        began, at = time.monotonic(), node.status.round
        node.wait("rounds alone", lambda s: s.round >= at + 3, LONG)
        assert time.monotonic() - began < 20, "nobody was waited for"
        node.kill()
        wait_until("its engine ends", lambda: not of_group(status.pid), 30)
