"""A real node is killed, frozen or cut off in the middle of its step: the others go on, and agree.

tests/sim/test_fault_pairs.py plays all roles with all faults in virtual time; here are those that a
process can meet, over real links. Three nodes stay for all of them; a fourth comes for each, and ends badly.
The three tell nobody where they are, so that who is to be cut off has no links but those through its proxy.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
import pytest
from swarm import LOOPBACK, TRAIN, Node, Swarm, averaged, wait_until

from shoal.node.errors import NotRunning
from shoal.node.web import client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# Parts of several chunks, so that a step has a middle.
LARGE: Final = (*TRAIN, "--task-option", "numel=1600000")
STEPS: Final = {"sender": "reduce-sender", "owner": "reduce-owner", "convener": "convene", "joiner": "sync"}
PROXY: Final = Path(__file__).parents[2] / "scripts" / "slow_link.py"
LONGEST: Final = 9.0
"""Seconds that a round may wait on a busy machine: a learned deadline of two, the convener's as well, the
next round's, and half as much again. The simulator knows it exactly."""


NOWHERE: Final = "127.0.0.1:9"
PORTS: Final[dict[str, int]] = {}


def addresses() -> list[str]:
    return [f"127.0.0.1:{port}" for port in PORTS.values()]


def start(swarm: Swarm, name: str, port: int) -> None:
    flags = ("--wait-for", "3", "--listen", LOOPBACK.format(port), "--announce", NOWHERE)
    swarm.start(name, *LARGE, *flags, join=addresses())


def all_up(swarm: Swarm) -> list[Node]:
    """Return the three; one that an earlier test has lost is started again: it fails that test alone."""
    for name, port in PORTS.items():
        node = swarm.nodes[name]
        if node.ask() is None:
            node.wait_end()
            start(swarm, name, port)
            node.wait("has learned", lambda status: len(averaged(status)) >= 4)
    return [swarm.nodes[name] for name in PORTS]


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with Swarm(tmp_path_factory.mktemp("swarm")) as swarm:
        for name in ("one", "two", "three"):
            port = free_port()
            start(swarm, name, port)
            PORTS[name] = port
        for node in swarm.nodes.values():
            # Until then deadlines are not learned.
            node.wait("has learned", lambda status: len(averaged(status)) >= 4)
        yield swarm


@contextmanager
def proxied(port: int) -> Iterator[tuple[psutil.Process, int]]:
    """Run a proxy before a port; returns it, and where it listens."""
    command = [sys.executable, str(PROXY), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        try:
            yield psutil.Process(proxy.pid), int(proxy.stdout.readline())
        finally:
            proxy.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def is_stopped(process: psutil.Process) -> bool:
    return process.status() == psutil.STATUS_STOPPED


def end_badly(swarm: Swarm, others: list[Node], name: str, fault: str, at: str) -> None:
    """Let a fourth node come, and meet its fault."""
    environ = {"SHOAL_TESTING_DIE_AT": at}
    if fault == "is killed":
        victim = swarm.start(name, *LARGE, join=addresses(), environ=environ)
        assert victim.wait_end() == -signal.SIGKILL
    elif fault == "is frozen":
        environ |= {"SHOAL_TESTING_FREEZES": "true"}
        victim = swarm.start(name, *LARGE, join=addresses(), environ=environ)
        assert victim.process is not None
        process = psutil.Process(victim.process.pid)
        wait_until(f"{name} is frozen", lambda: is_stopped(process))
    else:
        port = free_port()
        with proxied(port) as (proxy, front):
            # It dials nobody, so all of its links lead through the proxy.
            environ |= {"SHOAL_TESTING_FREEZES": "true", "SHOAL_TESTING_PID": str(proxy.pid)}
            address = f"127.0.0.1:{front}"
            flags = ("--listen", LOOPBACK.format(port), "--announce", address)
            victim = swarm.start(name, *LARGE, *flags, environ=environ)
            wait_until("it listens", lambda: "reached at" in victim.log)
            for other in others:
                tell(client.add_bootstrap, other, address)
            wait_until(f"{name} is cut off", lambda: is_stopped(proxy))
            watch(others)
            victim.end()
        for other in others:
            tell(client.remove_bootstrap, other, address)
        return
    watch(others)
    victim.end()


def tell(command: Callable[[Path, str], None], node: Node, address: str) -> None:
    """Tell a node about an address; one that has just ended says why."""
    try:
        command(node.home, address)
    except NotRunning:
        raise AssertionError(f"{node.name} was gone, and is here now: {node.status}") from None


def watch(others: list[Node]) -> None:
    """Wait until all have finished some rounds more."""
    now = max(node.status.round for node in others)
    for node in others:
        node.wait("goes on", lambda status: status.round >= now + 4)


@pytest.mark.parametrize("fault", ["is killed", "is frozen", "is cut off"])
@pytest.mark.parametrize("role", STEPS)
def test_the_others_lose_no_round_and_agree(swarm: Swarm, role: str, fault: str) -> None:
    others = all_up(swarm)
    before = min(node.status.round for node in others)
    # A convener has its turn by the round's hash, a joiner comes at any time.
    at = f"{STEPS[role]}:{0 if role == 'joiner' else before + 5}"
    end_badly(swarm, others, f"{role}-{fault.replace(' ', '-')}", fault, at)
    rounds = [{done.round: done for done in node.status.history if done.round >= before} for node in others]
    last = min(max(each) for each in rounds)
    for each in rounds:
        assert sorted(each) == list(range(before, max(each) + 1)), "none is missing, none came twice"
        assert {done.outcome for done in each.values()} == {"averaged"}
    for round_ in range(before, last + 1):
        assert len({each[round_].state_hash for each in rounds}) == 1, round_
    waits = [done.matchmaking_seconds + done.exchange_seconds for each in rounds for done in each.values()]
    load = os.getloadavg()[0]
    print(f"{role} {fault}: {last - before} rounds, waited {max(waits):.2f} s at most, load {load:.0f}")
    assert max(waits) < LONGEST
