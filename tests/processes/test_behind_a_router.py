"""A node behind a router, in network namespaces: it asks for a port, and a stranger dials it there."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarm import NODE, environment, wait_until

from shoal.node.errors import NotRunning, Refused
from shoal.node.status import Status
from shoal.node.web import client

pytestmark = pytest.mark.slow
TAG = f"sr{os.getpid() % 10000}"
NODE_AT, GATEWAY, OUTER, STRANGER_AT = "192.168.77.2", "192.168.77.1", "203.0.113.1", "203.0.113.9"
ROUTER = Path(__file__).parents[1] / "fake_router.py"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[tuple[str, str, str]]:
    """Make a node's machine, its router, and a stranger's on the other side of it."""
    names = home, router, stranger = (f"{TAG}home", f"{TAG}router", f"{TAG}far")
    try:
        ip("netns", "add", router)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces take root and the ip command")
    try:
        sides = ((home, "lan", NODE_AT, GATEWAY), (stranger, "wan", STRANGER_AT, OUTER))
        for name, port, address, gateway in sides:
            ip("netns", "add", name)
            ip("-n", router, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", router, "addr", "add", f"{gateway}/24", "dev", port)
            ip("-n", router, "link", "set", port, "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
        ip("-n", home, "route", "add", "default", "via", GATEWAY)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_a_stranger_dials_it_at_the_port_that_the_router_opened(
    machines: tuple[str, str, str], tmp_path: Path
) -> None:
    home, router, far = machines
    ports = tmp_path / "ports.json"
    started: list[subprocess.Popen[bytes]] = []

    def start(machine: str, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", machine, *command],
                env=environment(SHOAL_NETWORK_INTERNET="203.0.113.0/24"),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process

    def node(machine: str, name: str, *flags: str) -> subprocess.Popen[bytes]:
        words = ("--home", str(tmp_path / name), "--no-mdns", "--no-http", "--port", "4710")
        return start(machine, name, *NODE, "start", *words, *flags)

    def status(name: str) -> Status | None:
        try:
            return client.fetch_status(tmp_path / name)
        except (NotRunning, Refused):
            return None

    try:
        start(router, "router", sys.executable, str(ROUTER), OUTER, GATEWAY, str(ports))
        wait_until("the router is there", ports.exists)
        inside = node(home, "inside")
        wait_until(
            "the node has a port",
            lambda: (seen := status("inside")) is not None and f"/{OUTER}/" in seen.join_command,
        )
        assert json.loads(ports.read_text()) == {"4710": [NODE_AT, 4710]}
        told = f"the router leads {OUTER}:4710 here, by NAT-PMP"
        found = status("inside")
        assert found is not None
        assert found.port_mapping is not None
        assert found.port_mapping.text == told
        wait_until("it is told", lambda: told in (tmp_path / "inside.log").read_text())
        node(far, "far", *found.join_command.split()[2:])
        wait_until("they are linked", lambda: (seen := status("far")) is not None and bool(seen.peers))
        there = status("far")
        assert there is not None
        assert [peer.link for peer in there.peers] == ["direct"]
        assert there.peers[0].address.startswith(f"/ip4/{OUTER}/tcp/4710/")
        inside.send_signal(signal.SIGTERM)
        assert inside.wait(60) == 0
        wait_until("the port is closed", lambda: json.loads(ports.read_text()) == {})
    except AssertionError:
        for log in tmp_path.glob("*.log"):
            print(f"--- {log.name}\n{log.read_text()[-3000:]}")
        raise
    finally:
        for process in started:
            process.kill()
            process.wait()
