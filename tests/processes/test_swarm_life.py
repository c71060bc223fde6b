"""The life of single nodes, as processes: what they weigh, and how they leave."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from swarm import NODE, TASKS, TORCH, TRAIN, Node, Swarm, averaged, environment, wait_agreement, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MAX_IDLE_BYTES = 150_000_000


def shoal(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*NODE, *arguments], cwd=TASKS, env=environment(), capture_output=True, text=True, timeout=60
    )


def assert_nothing_left(node: Node) -> None:
    wait_until(f"no process of {node.name} is left", lambda: not node.processes(), 20)


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C", "the terminal closes", "shoal stop"])
def test_a_node_that_leaves_is_waited_for_by_nobody(tmp_path: Path, how: str) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *TRAIN, "--wait-for", "3")
        two, leaver = (swarm.start(name, *TRAIN, "--wait-for", "3", join=one) for name in ("two", "leaver"))
        wait_agreement([one, two, leaver], least=1)
        name = leaver.status.peer_id
        began = time.monotonic()
        if how == "shoal stop":
            done = shoal("stop", "--home", str(leaver.home))
            assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")
        elif how == "Ctrl-C":
            # A terminal sends it to the trainer as well.
            assert leaver.process is not None
            os.killpg(leaver.process.pid, signal.SIGINT)
        elif how == "the terminal closes":
            assert leaver.process is not None
            for _ in range(2):
                os.killpg(leaver.process.pid, signal.SIGHUP)
        else:
            leaver.signal(signal.SIGTERM)
        assert leaver.wait_end() == 0
        print(f"{how}: ended after {time.monotonic() - began:.2f} s")
        assert_nothing_left(leaver)
        assert "Traceback" not in leaver.log
        now = one.status
        assert name not in {peer.peer for peer in now.peers}
        wait_agreement([one, two], least=now.round + 2)
        for node in (one, two):
            rounds = averaged(node.status)
            assert sorted(rounds) == list(range(len(rounds)))
            waited = max(
                each.matchmaking_seconds + each.exchange_seconds for each in list(rounds.values())[1:]
            )
            print(f"{node.name} waited {waited:.2f} s at most")
            assert waited < 5.0
            assert rounds[now.round + 1].contributors == 2


def test_a_second_signal_ends_a_node_at_once(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        node = swarm.start("node", *TORCH)
        node.wait("trains", lambda status: status.round >= 1)
        node.signal(signal.SIGTERM)
        node.signal(signal.SIGINT)
        assert node.wait_end(5) == 130
        assert_nothing_left(node)


def test_a_node_weighs_little_and_has_no_torch_though_its_trainer_has(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        helper = swarm.start("helper")
        node = swarm.start("node", *TORCH, join=helper)
        node.wait("trains", lambda status: status.round >= 2)
        trainer = node.trainer
        assert trainer is not None
        assert any("libtorch" in each.path for each in trainer.memory_maps())
        for each in (helper, node):
            process = next(process for process in each.processes() if process.pid == each.status.pid)
            assert not any("libtorch" in part.path for part in process.memory_maps())
            print(f"{each.name}: {process.memory_info().rss / 1e6:.0f} MB")
            assert each.status.rss_bytes < MAX_IDLE_BYTES
            assert process.memory_info().rss < MAX_IDLE_BYTES


def test_a_second_node_of_an_identity_is_refused_by_peers_and_says_so(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        # A runtime folder of its own, as on another machine: there the lock on the identity is not seen.
        elsewhere = tempfile.mkdtemp(dir="/tmp")
        third = swarm.start("third")
        one = swarm.start("one", join=third)
        one.wait("is linked", lambda status: status.peers)
        (tmp_path / "two").mkdir()
        shutil.copy2(one.home / "identity.key", tmp_path / "two" / "identity.key")
        two = swarm.start("two", join=third, environ={"XDG_RUNTIME_DIR": elsewhere})
        status = two.wait("says so", lambda status: status.problems)
        assert [each.reason for each in status.bootstrap] == ["same identity"]
        assert status.problems == [
            f"{third.status.peer_id[-8:]} is linked with another node of this identity; give this one its own"
            f" with: shoal init --force --home {two.home}"
        ]
        assert [peer.link for peer in one.status.peers] == ["direct"]
        assert one.status.problems == []
        assert third.is_running
    shutil.rmtree(elsewhere)


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_FSIZE"), reason="the limit is set from outside on Linux only")
def test_a_node_whose_disk_takes_no_more_says_so_keeps_the_old_state_and_goes_on(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        node = swarm.start("node", *TRAIN, "--task-option", "numel=200000")
        node.wait("has saved states", lambda status: status.round >= 4)
        process = psutil.Process(node.status.pid)
        limits = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (20_000, limits[1]))
        status = node.wait("says both", lambda status: len(status.problems) == 2)
        assert any("no space left for 0.8 MB" in each and "--home" in each for each in status.problems)
        assert any("shoal.db" in each and "--home" in each for each in status.problems)
        newest = max(node.home.glob("state/*.safetensors"))
        node.wait("goes on", lambda later: later.round >= status.round + 3)
        assert max(node.home.glob("state/*.safetensors")) == newest
        assert not list(node.home.glob("state/*.tmp"))
        process.rlimit(psutil.RLIMIT_FSIZE, limits)
        node.wait("has room again", lambda status: not status.problems)
        node.kill()
        kept = max(node.home.glob("state/*.safetensors"))
        assert kept > newest
        swarm.start("node", *TRAIN, "--task-option", "numel=200000")
        saved = int(kept.stem.rpartition("round")[2])
        node.wait_log(f"going on from round {saved}, found on disk")
        assert "Traceback" not in node.log
