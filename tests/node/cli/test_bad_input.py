"""What a person can get wrong, on real nodes: one line that names the fix, no traceback, and no harm."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from swarm import TORCH, TRAIN, Node, Swarm

pytestmark = pytest.mark.slow


def assert_ends_with_one_line(node: Node, *words: str, code: int = 1) -> None:
    assert node.wait_end() == code
    errors = [line for line in node.log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, node.log
    assert node.log.splitlines()[-1] == errors[0]
    assert "Traceback" not in node.log
    for word in words:
        assert word in errors[0]
    assert node.log.count(errors[0].removeprefix("error: ")) == 1, "said twice"


def test_two_nodes_with_one_identity_are_not_run(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one")
        one.wait("is up", lambda status: status.addresses)
        (tmp_path / "two").mkdir()
        shutil.copy2(one.home / "identity.key", tmp_path / "two" / "identity.key")
        two = swarm.start("two", join=one)
        assert_ends_with_one_line(two, f"in use by the node in {one.home}", "shoal init --force")
        again = Node("again", one.home)
        again.start()
        assert_ends_with_one_line(again, f"a node runs in {one.home} already", "shoal stop")
        assert one.is_running


def test_a_port_that_another_node_has_is_named_with_the_flag(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one")
        port = one.address.split("/")[4]
        two = swarm.start("two", "--listen", f"/ip4/127.0.0.1/tcp/{port}")
        assert_ends_with_one_line(two, f"port {port} on 127.0.0.1 is in use", "--port", code=2)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("paced:Missing", ("paced has no task Missing", "it has: ", "Paced")),
        ("json:JSONDecoder", ("json has no task JSONDecoder",)),
    ],
)
def test_a_task_that_is_not_in_its_module_ends_the_node(
    tmp_path: Path, task: str, words: tuple[str, ...]
) -> None:
    with Swarm(tmp_path) as swarm:
        assert_ends_with_one_line(swarm.start("one", "--task", task), *words)


def test_peers_with_another_model_say_so_on_both_sides_and_train_on(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *TORCH, "--task-option", "hidden=16")
        two = swarm.start("two", *TORCH, "--task-option", "hidden=32", join=one)
        for node, other in ((one, two), (two, one)):
            here, there = ("16", "32") if node is one else ("32", "16")
            status = node.wait("says why", lambda status: any("tensor" in line for line in status.refusals))
            line = next(line for line in status.refusals if "tensor" in line)
            assert f"float32[{here}, 8] here" in line
            assert f"float32[{there}, 8] there" in line
            assert other.status.peer_id[-8:] in line
            later = node.wait("trains on alone", lambda status: status.round >= 2)
            assert {each.contributors for each in later.history} == {1}


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a file system of a few pages, where we may."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_is_said_and_stops_no_round(tmp_path: Path) -> None:
    state = tmp_path / "one" / "state"
    with small_disk(state), Swarm(tmp_path) as swarm:
        one = swarm.start("one", *TRAIN, "--task-option", "numel=50000")
        status = one.wait("says that the disk is full", lambda status: status.problems)
        assert "no space left" in status.problems[0]
        assert "--home" in status.problems[0]
        one.wait("goes on", lambda later: later.round >= status.round + 2)
        assert "Traceback" not in one.log
        assert one.log.count("no space left") == 1
        subprocess.run(["mount", "-o", "remount,size=8m", str(state)], check=True)
        one.wait("has room again", lambda status: not status.problems)
        one.signal(signal.SIGTERM)
        assert one.wait_end() == 0
        assert any(state.iterdir())
