"""The network of a testnet: which nodes reach which, how well, and by what means that is done.

    bare        nodes talk over loopback; nothing can be shaped or cut
    proxy       a process in the path of every connection (proxy.py)
    namespaces  every node in a network namespace of its own, shaped by the kernel (namespaces.py)

`Wires` is the wish, one file in the testnet's folder: whoever changes it, the launcher or a command,
writes it whole. The proxy reads it again when it has changed; namespaces are changed by who writes.
"""

import hashlib
import os
import random
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from shoal.gossip.addresses import listen_at
from shoal.node.errors import UserError
from shoal.node.storage.files import write_whole
from shoal.node.testnet.faults import Link
from shoal.node.testnet.network import namespaces
from shoal.node.testnet.plan import BadPlan, Plan

Means: TypeAlias = Literal["bare", "proxy", "namespaces"]
Wish: TypeAlias = Literal["auto", "bare", "proxy", "namespaces"]

WIRES_NAME: Final = "wires.json"
PORTS: Final = range(12_000, 32_000)
"""Below what systems give to outgoing connections: one of those must not take a killed node's port."""


class Uncut(UserError):
    """The links of this testnet cannot be changed; the message says how to start one where they can."""


class Wires(msgspec.Struct, frozen=True, kw_only=True):
    """How the nodes are linked now."""

    means: Means
    why: str = ""
    """Why these means."""
    tag: str = ""
    """Of the namespaces, so that two testnets have none in common."""
    listen: tuple[int, ...] = ()
    """With proxy: the port of every node, in order."""
    announce: tuple[int, ...] = ()
    """With proxy: the port before each, which it tells others."""
    link: Link = Link()
    """How every node is linked."""
    slow: dict[int, Link] = {}
    """Those that are linked otherwise."""
    side: tuple[int, ...] = ()
    """These nodes and the rest do not reach each other; empty: all reach all."""

    def link_of(self, index: int) -> Link:
        """Return how a node is linked."""
        return self.slow.get(index, self.link)

    def reaches(self, one: int, other: int) -> bool:
        """Return whether two nodes are on the same side."""
        return not self.side or (one in self.side) == (other in self.side)


def choose(plan: Plan, directory: Path, wish: Wish, *, changeable: bool) -> Wires:
    """Decide by what means the nodes are linked. `changeable`: somebody may want to cut links later.

    Raises:
        BadPlan: the means that were asked for are not to be had here.
    """
    shaped = plan.link.is_shaped or any(fault.kind in ("split", "slow") for fault in plan.faults)
    if wish == "bare" and shaped:
        raise BadPlan("a bare network has no latency, loss, bandwidth or splits: leave out --network bare")
    if wish == "bare" or (wish == "auto" and not shaped and not changeable):
        return Wires(means="bare", why="nothing is shaped")
    missing = namespaces.missing() if wish in ("auto", "namespaces") else "it was asked for"
    if wish == "namespaces" and missing:
        raise BadPlan(f"no network namespaces here: {missing}; leave out --network, or say --network proxy")
    if missing:
        ports = tuple(_free_ports(2 * plan.nodes))
        why = missing if wish == "proxy" else f"no network namespaces: {missing}"
        wires = Wires(means="proxy", why=why, listen=ports[::2], announce=ports[1::2])
    else:
        tag = hashlib.blake2b(os.fsencode(directory.absolute()), digest_size=3).hexdigest()
        wires = Wires(means="namespaces", why="root, ip, tc and netem are here", tag=tag)
    return msgspec.structs.replace(wires, link=plan.link)


def _free_ports(count: int) -> Iterator[int]:
    """Find ports of loopback on which nobody listens now."""
    tried = random.Random(os.getpid()).sample(PORTS, len(PORTS))
    found = 0
    for port in tried:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
        found += 1
        if found == count:
            return
    raise BadPlan(f"fewer than {count} free ports from {PORTS[0]} to {PORTS[-1]}: lower --nodes")


def opening(wires: Wires) -> list[list[str]]:
    """Return the commands that make the network, before any node starts."""
    if wires.means != "namespaces":
        return []
    return namespaces.make_hub(wires.tag)


def joining(wires: Wires, index: int) -> list[list[str]]:
    """Return the commands that link a node, before it starts for the first time."""
    if wires.means != "namespaces":
        return []
    return namespaces.make_node(wires.tag, index, wires.link_of(index))


def closing(wires: Wires, n_nodes: int) -> list[list[str]]:
    """Return the commands that remove the network."""
    return namespaces.remove(wires.tag, n_nodes) if wires.means == "namespaces" else []


def changing(old: Wires, new: Wires, n_nodes: int) -> list[list[str]]:
    """Return the commands that lead from one network to another."""
    if new.means != "namespaces":
        return []
    commands: list[list[str]] = []
    for index in range(1, n_nodes + 1):
        if old.link_of(index) != new.link_of(index):
            commands.append(namespaces.shape(new.tag, index, new.link_of(index)))
        if (index in old.side) != (index in new.side):
            commands.append(namespaces.put_on_side(new.tag, index, apart=index in new.side))
    return commands


def network_flags(wires: Wires, index: int) -> list[str]:
    """Return where a node listens and what it announces, as flags of `shoal start`."""
    if wires.means == "namespaces":
        return ["--listen", listen_at(namespaces.address(index), 4710)]
    if wires.means == "proxy":
        listen, announce = wires.listen[index - 1], wires.announce[index - 1]
        return ["--listen", listen_at("127.0.0.1", listen), "--announce", listen_at("127.0.0.1", announce)]
    return ["--listen", listen_at("127.0.0.1", 0)]


def wrapped(wires: Wires, index: int, command: Sequence[str]) -> list[str]:
    """Return the command line that runs a node where it belongs."""
    if wires.means == "namespaces":
        return [*namespaces.inside(wires.tag, index), *command]
    return list(command)


def proxy_command(directory: Path) -> list[str]:
    """Return the command line of the proxy."""
    return [sys.executable, "-P", "-m", "shoal.node.testnet.network.proxy", str(directory)]


def save_wires(directory: Path, wires: Wires) -> None:
    """Write the wish, whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(wires))
    write_whole(directory / WIRES_NAME, text, is_durable=False)


def load_wires(directory: Path) -> Wires:
    """Read how the nodes are linked.

    Raises:
        Uncut: it is not known.
    """
    try:
        return msgspec.json.decode((directory / WIRES_NAME).read_bytes(), type=Wires)
    except (OSError, msgspec.MsgspecError) as error:
        raise Uncut(f"how the nodes of {directory} are linked is not known ({error})") from None


def changed(directory: Path, n_nodes: int, **changes: object) -> Wires:
    """Change how the nodes are linked, and return that.

    Raises:
        Uncut: this network cannot be changed.
    """
    old = load_wires(directory)
    if old.means == "bare":
        raise Uncut(
            "these nodes talk over bare loopback; start a testnet with --network proxy, or shape links"
        )
    new = msgspec.structs.replace(old, **changes)
    namespaces.run_all(changing(old, new, n_nodes))
    save_wires(directory, new)
    return new


def namespaces_left(wires: Wires) -> list[str]:
    """Return the namespaces of a testnet that are still there."""
    return namespaces.left(wires.tag) if wires.means == "namespaces" else []
