"""What a killed process leaves behind: its node is adopted, its trainer ends; and a reader may go."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from swarm import LOOPBACK, NODE, QUIET, TASKS, TORCH, Swarm, environment, wait_until

from shoal.node.storage.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCRIPT = f"""
import sys
from pathlib import Path
from shoal.node.optimizer.background_node import Node
node = Node(Path(sys.argv[1]), options={[*QUIET, "--listen", LOOPBACK.format(0)]!r})
line = node.connect()
print("up", flush=True)
sys.stdin.read()
line.close()
node.stop()
"""


def script(home: Path) -> "subprocess.Popen[str]":
    """Start a training script, and wait until it is connected with its node."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def ended(process: "subprocess.Popen[str]") -> int:
    process.communicate("")
    return process.returncode


def test_the_node_of_a_killed_script_is_adopted_by_the_next_and_ends_with_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    first = script(home.path)
    try:
        node = home.running_pid()
        first.kill()
        first.communicate()
        assert home.is_running()
        second = script(home.path)
        assert home.running_pid() == node
        assert ended(second) == 0
        wait_until("the node is gone", lambda: not home.is_running(), 20)
    finally:
        if home.is_running():
            psutil.Process(home.running_pid()).kill()


def test_a_node_that_was_started_by_hand_or_has_an_owner_is_left_alone(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", "--external-trainer")
        one.wait("is up", lambda status: status)
        assert ended(script(one.home)) == 0
        assert one.is_running
    home = Home(tmp_path / "home")
    first = script(home.path)
    try:
        assert ended(script(home.path)) == 0
        assert home.is_running(), "it belongs to the first, which lives"
    finally:
        assert ended(first) == 0
    assert not home.is_running()


def test_the_trainer_of_a_killed_node_ends_in_seconds_though_its_step_takes_minutes(
    tmp_path: Path,
) -> None:
    with Swarm(tmp_path) as swarm:
        node = swarm.start("node", *TORCH, "--task-option", "pause=600")
        node.wait("trains", lambda status: status.trainer == "running" and status.phase == "working")
        trainer = wait_until("its trainer", lambda: node.trainer)
        node.kill()
        began = time.monotonic()
        trainer.wait(60.0)
        print(f"ended after {time.monotonic() - began:.1f} s")


def test_a_node_outlives_whoever_read_its_first_line(tmp_path: Path) -> None:
    command = [*NODE, "start", "--home", str(tmp_path / "home"), *QUIET, "--listen", LOOPBACK.format(0)]
    with subprocess.Popen(
        command, cwd=TASKS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as node:
        assert node.stdout is not None
        assert node.stderr is not None
        node.stdout.close()
        node.stderr.close()
        home = Home(tmp_path / "home")
        wait_until("it is up", lambda: home.find_socket("control").exists(), 30)
        stopped = subprocess.run([*NODE, "stop", "--home", str(home.path)], env=environment(), check=False)
        assert stopped.returncode == 0
        assert node.wait(20) == 0
