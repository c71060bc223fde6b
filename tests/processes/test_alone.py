"""Two nodes with unlike data are cut off from each other for twenty rounds, and lose nothing by it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from swarm import TRAIN, Swarm, averaged, wait_agreement
from testnet_fakes import wait_until

from shoal.node.status import Status
from shoal.node.testnet.watch import fetch_status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TESTNET = [sys.executable, "-m", "shoal.node", "testnet"]
MISSED = 20


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    net = tmp_path / "net"
    yield net
    for process in psutil.process_iter():
        try:
            if any(str(net) in word for word in process.cmdline()):
                process.kill()
        except psutil.Error:
            continue


def test_after_twenty_rounds_apart_two_are_as_good_as_before(directory: Path) -> None:
    def shoal(*words: str) -> str:
        command = [*TESTNET, *words, "--dir", str(directory)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def seen() -> list[Status]:
        found = [fetch_status(directory / f"node-{index}") for index in (1, 2)]
        return [status for status in found if status is not None]

    def accuracy() -> float:
        return min(status.metrics["accuracy"] for status in seen())

    shoal("up", "--nodes", "2", "--rounds", "100000", "--quorum", "1", "--detach")
    wait_until(lambda: len(seen()) == 2 and min(status.round for status in seen()) >= 15, 120)
    shoal("split", "2")
    wait_until(lambda: all(s.alone is not None and s.alone.missed >= MISSED for s in seen()), 120)
    apart, before = seen(), accuracy()
    # The last message of the round in which they were cut apart may have come to one of them alone.
    assert max(status.round for status in apart) - min(status.round for status in apart) <= 1, (
        "none has drifted"
    )
    for status in apart:
        assert any("--alone go-on" in line for line in status.problems), "it says what to type"
        assert status.alone is not None
        assert (status.alone.rounds, status.alone.waits) == (0, True)
    shoal("heal")
    wait_until(
        lambda: min(status.round for status in seen()) >= max(status.round for status in apart) + 3, 60
    )
    assert accuracy() >= before - 0.02
    assert all(status.alone is None and status.problems == [] for status in seen())
    shoal("down")


def test_who_is_left_waits_goes_on_where_it_is_told_to_and_says_how_long_it_was_alone(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *TRAIN, "--wait-for", "2")
        two = swarm.start("two", *TRAIN, "--wait-for", "2", join=one)
        wait_agreement([one, two], least=3)
        assert two.stop() == 0
        left = one.wait("says that it is alone", lambda status: status.alone)
        assert left.alone is not None
        assert left.alone.waits
        one.wait_log("--alone go-on")
        kept = (left.round, left.state_hash)
        one.kill()
        swarm.start("one", *TRAIN)
        again = one.wait("still waits after a restart", lambda status: status.alone)
        assert (again.round, again.state_hash) == kept
        assert one.stop() == 0
        swarm.start("one", *TRAIN, "--alone", "go-on")
        one.wait("goes on", lambda status: status.round >= kept[0] + 3)
        swarm.start("two", *TRAIN, join=one)
        two.wait("averages again", lambda status: averaged(status))
        one.wait_log("no longer alone")
