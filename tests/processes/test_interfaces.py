"""Where a node says it is reached, on machines with other interfaces than this one: network namespaces."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarm import NODE, environment, wait_until

from shoal.node.status import Status
from shoal.node.web import client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def machine() -> Iterator[str]:
    """Make a machine without any interface but loopback; skip where that is not permitted."""
    name = f"shoal-test-{os.getpid()}"
    if shutil.which("ip") is None:
        pytest.skip("no network namespaces: ip is missing")
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"no network namespaces: {made.stderr.strip()}")
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def ip(machine: str, *words: str) -> None:
    subprocess.run(["ip", "-n", machine, *words], check=True)


def card(machine: str, name: str, address: str) -> None:
    """Give a machine a network card: one end of a cable, whose other end nobody has."""
    ip(machine, "link", "add", name, "type", "veth", "peer", "name", "far")
    for each in (name, "far", "lo"):
        ip(machine, "link", "set", each, "up")
    ip(machine, "address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))


def said(machine: str, home: Path) -> tuple[Status, str]:
    """Start a node as a newcomer does; return its status and what it printed, after its end."""
    command = ["ip", "netns", "exec", machine, *NODE, "start", "--home", str(home), "--no-mdns"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    ) as node:
        try:
            wait_until("it is up", lambda: (home / "run" / "control.sock").exists() or node.poll(), 60)
            status = client.fetch_status(home)
        finally:
            node.terminate()
        return status, node.communicate()[0]


def test_bridges_to_our_own_containers_are_not_announced(machine: str, tmp_path: Path) -> None:
    card(machine, "eth0", "192.0.2.7/24")
    for name, address in (
        ("docker0", "172.17.0.1/16"),
        ("virbr0", "192.168.122.1/24"),
        ("lab", "10.9.0.1/24"),
    ):
        ip(machine, "link", "add", name, "type", "bridge")
        ip(machine, "address", "add", address, "dev", name)
        ip(machine, "link", "set", name, "up")
    status, _ = said(machine, tmp_path / "home")
    hosts = {address.split("/")[2] for address in status.addresses}
    assert {host for host in hosts if not host.startswith(("fe80", "::1"))} == {"192.0.2.7", "127.0.0.1"}


def test_a_machine_with_ipv6_alone_prints_a_join_command_that_others_can_use(
    machine: str, tmp_path: Path
) -> None:
    card(machine, "eth0", "2001:db8::7/64")
    status, printed = said(machine, tmp_path / "home")
    assert "--join /ip6/2001:db8::7/tcp/4710/p2p/" in printed
    assert "--join /ip6/2001:db8::7/tcp/4710/p2p/" in status.join_command


def test_a_machine_without_ipv6_starts_all_the_same(machine: str, tmp_path: Path) -> None:
    card(machine, "eth0", "192.0.2.7/24")
    off = ["ip", "netns", "exec", machine, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]
    subprocess.run(off, check=True)
    status, _ = said(machine, tmp_path / "home")
    assert [address.split("/")[2] for address in status.addresses] == ["192.0.2.7", "127.0.0.1"]
