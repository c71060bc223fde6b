"""Network namespaces for the nodes of a testnet: each a machine of its own to the kernel, on one wire.

    shoal-TAG-1 [n0]----.                          .----[n0] shoal-TAG-3, put on the other side
                         [ bridge ] hub [ apart ]--'
    shoal-TAG-2 [n0]----'

All of it, bridges included, lies in namespaces made here; those of the machine are not touched, and to
delete the namespaces removes everything. ``tc netem`` delays, loses and slows what a node sends. A split
moves nodes to a second bridge: packets vanish without a word, as when a cable is cut.

Only builds command lines, but for `missing`, which probes, and `run_all`, which runs them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from shoal.node.errors import UserError
from shoal.node.testnet.faults import Link

QUEUE_PACKETS: Final = 20_000
"""What netem holds: a fast link's delay is many packets, and an overflow would be loss nobody asked for."""
DEVICE: Final = "n0"


class NoNamespace(UserError):
    """A command that makes or changes network namespaces failed; the message quotes it."""


def missing() -> str:
    """Return what stands in the way of namespaces with netem here, or an empty text."""
    if sys.platform != "linux":
        return f"{sys.platform} has none"
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"the program {program} is not installed"
    if os.geteuid() != 0:
        return "that takes root"
    name = f"shoal-probe-{os.getpid()}"
    if not _works(["ip", "netns", "add", name]):
        return "the system does not let us make one"
    try:
        if not _works(["tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]):
            return "the kernel has no netem (tc's module sch_netem)"
    finally:
        _works(["ip", "netns", "del", name])
    return ""


def _works(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run_all(commands: Sequence[Sequence[str]]) -> None:
    """Run commands in order.

    Raises:
        NoNamespace: one failed; those before it have been carried out.
    """
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            why = done.stderr.strip().splitlines()
            raise NoNamespace(f"{' '.join(command)}: {why[-1] if why else 'failed'}; try --network proxy")


def run_each(commands: Sequence[Sequence[str]]) -> None:
    """Run commands in order, whether or not they work: what is to be removed may be gone."""
    for command in commands:
        _works(command)


def address(index: int) -> str:
    """Return a node's address on the wire."""
    return f"10.213.{index >> 8}.{index & 255}"


def inside(tag: str, index: int) -> list[str]:
    """Return what, put before a command, runs it in a node's namespace, under the same pid."""
    return ["ip", "netns", "exec", _name(tag, index)]


def make_hub(tag: str) -> list[list[str]]:
    """Return the commands for the wire."""
    hub = _hub(tag)
    commands = [["ip", "netns", "add", hub]]
    for bridge in ("bridge", "apart"):
        commands += [
            ["ip", "-n", hub, "link", "add", bridge, "type", "bridge"],
            ["ip", "-n", hub, "link", "set", bridge, "up"],
        ]
    return commands


def make_node(tag: str, index: int, link: Link) -> list[list[str]]:
    """Return the commands that make a node's namespace and put it on the wire."""
    name, hub, port = _name(tag, index), _hub(tag), f"p{index}"
    return [
        ["ip", "netns", "add", name],
        ["ip", "-n", hub, "link", "add", port, "type", "veth", "peer", "name", DEVICE, "netns", name],
        ["ip", "-n", hub, "link", "set", port, "master", "bridge", "up"],
        ["ip", "-n", name, "address", "add", f"{address(index)}/16", "dev", DEVICE],
        ["ip", "-n", name, "link", "set", "lo", "up"],
        ["ip", "-n", name, "link", "set", DEVICE, "up"],
        *([shape(tag, index, link)] if link.is_shaped else []),
    ]


def shape(tag: str, index: int, link: Link) -> list[str]:
    """Return the command that shapes what a node sends."""
    words = ["limit", str(QUEUE_PACKETS), "delay", f"{1000 * link.latency:g}ms", f"{1000 * link.jitter:g}ms"]
    words += ["loss", f"{100 * link.loss:g}%"]
    if link.bandwidth_mbit:
        words += ["rate", f"{link.bandwidth_mbit:g}mbit"]
    return ["tc", "-n", _name(tag, index), "qdisc", "replace", "dev", DEVICE, "root", "netem", *words]


def put_on_side(tag: str, index: int, *, apart: bool) -> list[str]:
    """Return the command that moves a node to the other side of a split, or back."""
    return ["ip", "-n", _hub(tag), "link", "set", f"p{index}", "master", "apart" if apart else "bridge"]


def remove(tag: str, n_nodes: int) -> list[list[str]]:
    """Return the commands that remove all namespaces of a testnet, with all that is in them."""
    names = [*(_name(tag, index) for index in range(1, n_nodes + 1)), _hub(tag)]
    return [["ip", "netns", "del", name] for name in names]


def left(tag: str) -> list[str]:
    """Return the namespaces of a testnet that are still there."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    names = [line.split()[0] for line in listed.splitlines() if line.strip()]
    return [name for name in names if name.startswith(f"shoal-{tag}-")]


def _name(tag: str, index: int) -> str:
    return f"shoal-{tag}-{index}"


def _hub(tag: str) -> str:
    return f"shoal-{tag}-hub"
