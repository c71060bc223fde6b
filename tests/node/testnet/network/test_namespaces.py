"""Namespaces are made, shaped, cut and removed by the commands that say so, and leave nothing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from testnet_fakes import wait_until

from shoal.node.testnet.faults import Link
from shoal.node.testnet.network import namespaces
from shoal.node.testnet.network.namespaces import NoNamespace, run_all, run_each

LINK = Link(latency=0.08, jitter=0.02, loss=0.01, bandwidth_mbit=20)


def test_a_link_becomes_the_words_of_netem() -> None:
    assert namespaces.shape("ab", 3, LINK) == [
        *("tc", "-n", "shoal-ab-3", "qdisc", "replace", "dev", "n0", "root", "netem"),
        *("limit", "20000", "delay", "80ms", "20ms", "loss", "1%", "rate", "20mbit"),
    ]
    assert "rate" not in namespaces.shape("ab", 3, Link(latency=0.08))


def test_only_namespaces_made_here_are_touched() -> None:
    commands = [*namespaces.make_hub("ab"), *namespaces.make_node("ab", 1, LINK), *namespaces.remove("ab", 1)]
    commands.append(namespaces.put_on_side("ab", 1, apart=True))
    for command in commands:
        named = command[3] if command[1] == "netns" else command[2]
        assert named.startswith("shoal-ab-"), command
        assert command[1] in ("netns", "-n")


def test_every_node_has_an_address_of_its_own() -> None:
    assert len({namespaces.address(index) for index in range(1, 257)}) == 256
    assert namespaces.address(256) == "10.213.1.0"


def test_a_command_that_fails_is_quoted_with_a_way_out() -> None:
    with pytest.raises(NoNamespace, match="try --network proxy") as caught:
        run_all([["ip", "netns", "del", "shoal-none"]] if shutil.which("ip") else [["false"]])
    assert "\n" not in str(caught.value)


def test_what_is_to_be_removed_may_be_gone() -> None:
    run_each([["false"], ["true"]])


@pytest.mark.parametrize(
    ("platform", "programs", "user", "reason"),
    [
        ("darwin", ["ip", "tc"], 0, "darwin has none"),
        ("linux", ["ip"], 0, "the program tc is not installed"),
        ("linux", ["ip", "tc"], 1000, "that takes root"),
    ],
)
def test_what_is_missing_is_told(
    monkeypatch: pytest.MonkeyPatch, platform: str, programs: Sequence[str], user: int, reason: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(shutil, "which", lambda name: name if name in programs else None)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert namespaces.missing() == reason


@pytest.mark.parametrize(
    ("allowed", "reason"),
    [((), "does not let us"), (("ip",), "no netem"), (("ip", "tc"), "")],
)
def test_a_kernel_without_netem_is_told_apart_from_one_without_permission(
    monkeypatch: pytest.MonkeyPatch, allowed: Sequence[str], reason: str
) -> None:
    tried: list[list[str]] = []

    def works(command: list[str]) -> bool:
        tried.append(command)
        return command[0] in allowed

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(namespaces, "_works", works)
    assert reason in namespaces.missing()
    assert not allowed or tried[-1][:3] == ["ip", "netns", "del"]


def permitted() -> bool:
    """Return whether this machine lets us make namespaces; netem is another matter."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"shoal-test-{os.getpid()}"
    commands = [["ip", "netns", verb, name] for verb in ("add", "del")]
    return all(subprocess.run(each, capture_output=True, check=False).returncode == 0 for each in commands)


@pytest.fixture
def tag() -> Iterator[str]:
    if not permitted():
        pytest.skip("this machine lets nobody make network namespaces")
    tag = f"t{os.getpid()}"
    yield tag
    run_each(namespaces.remove(tag, 3))
    assert namespaces.left(tag) == []


@pytest.mark.slow
def test_nodes_in_namespaces_reach_each_other_but_not_across_a_split(tag: str, tmp_path: Path) -> None:
    devices = psutil.net_if_addrs().keys()
    run_all(namespaces.make_hub(tag))
    for index in (1, 2, 3):
        run_all(namespaces.make_node(tag, index, Link()))
    assert len(namespaces.left(tag)) == 4
    serve = (
        "import socket, time; s = socket.create_server(('', 4710)); open('up', 'w').close(); time.sleep(9)"
    )
    command = [*namespaces.inside(tag, 1), sys.executable, "-c", serve]
    with subprocess.Popen(command, cwd=tmp_path) as server:
        try:
            wait_until((tmp_path / "up").exists)
            assert reaches(tag, 2, 1)
            run_all([namespaces.put_on_side(tag, 2, apart=True)])
            assert not reaches(tag, 2, 1)
            run_all([namespaces.put_on_side(tag, 2, apart=False)])
            assert reaches(tag, 2, 1)
        finally:
            server.kill()
    assert psutil.net_if_addrs().keys() == devices


def reaches(tag: str, one: int, other: int) -> bool:
    script = f"import socket; socket.create_connection(('{namespaces.address(other)}', 4710), timeout=2)"
    command = [*namespaces.inside(tag, one), sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
