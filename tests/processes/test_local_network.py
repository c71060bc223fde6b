"""Nodes of one local network, each in a network namespace of its own with a private address."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
NODES = 3
TAG = f"sc{os.getpid() % 10000}"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    """Make so many machines of one network: 10.77.0.1 and so on, on a hub that answers for all of them."""
    names = [f"{TAG}n{number}" for number in range(1, NODES + 1)]
    hub = f"{TAG}hub"
    try:
        ip("netns", "add", hub)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces take root and the ip command")
    try:
        for number, name in enumerate(names, 1):
            port = f"p{number}"
            ip("netns", "add", name)
            ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", hub, "link", "set", port, "up")
            ip("-n", hub, "addr", "add", "10.77.0.254/32", "dev", port)
            ip("-n", hub, "route", "add", f"10.77.0.{number}/32", "dev", port)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        for file in ("ip_forward", *(f"conf/p{number}/proxy_arp" for number in range(1, NODES + 1))):
            ip("netns", "exec", hub, "sh", "-c", f"echo 1 > /proc/sys/net/ipv4/{file}")
        yield names
    finally:
        for name in (*names, hub):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_they_find_each_other_through_any_and_dial_from_the_port_they_listen_on(
    namespaces: list[str], tmp_path: Path
) -> None:
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        first = ""
        for name in namespaces:
            home = tmp_path / name
            command = [sys.executable, "-P", "-m", "shoal.node", "start", "--home", str(home), "--no-mdns"]
            command += ["--no-http", "--listen", "/ip4/0.0.0.0/tcp/4710", "--log-format", "json"]
            command += ["--join", first] if first else []
            node = subprocess.Popen(
                ["ip", "netns", "exec", name, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            nodes.append(node)
            assert node.stdout is not None
            first = first or json.loads(node.stdout.readline())["addresses"].split()[0]
        assert first.startswith("/ip4/10.77.0.1/tcp/4710/")
        deadline = time.monotonic() + 60
        while True:
            statuses = [status(tmp_path / name) for name in namespaces]
            linked = [sum(peer["link"] == "direct" for peer in each.get("peers", ())) for each in statuses]
            if linked == [NODES - 1] * NODES:
                break
            assert time.monotonic() < deadline, linked
            time.sleep(0.5)
        addresses = [peer["address"] for each in statuses for peer in each["peers"]]
        assert all("/tcp/4710/" in address and "/10.77.0." in address for address in addresses)
        sockets = subprocess.run(
            ["ip", "netns", "exec", namespaces[0], "ss", "-tnH"], capture_output=True, check=False, text=True
        ).stdout
        if sockets:  # both ends of every link are ports that somebody listens on
            assert all(line.split()[-1].endswith(":4710") for line in sockets.splitlines())
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait(20)
            if node.stdout is not None:
                node.stdout.close()


def status(home: Path) -> dict[str, list[dict[str, str]]]:
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "shoal.node", "status", "--home", str(home), "--json"],
        capture_output=True,
        check=False,
    )
    return dict(json.loads(ran.stdout)) if ran.returncode == 0 else {}
