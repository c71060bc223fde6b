"""Network interfaces: which addresses this machine has, and which networks it is in."""

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil

from shoal.gossip.addresses import Address
from shoal.gossip.scope import Network, Scope, scope_of

_INWARD: Final = re.compile(
    "(docker|virbr|veth|vnet|vmnet|vboxnet|lxcbr|lxdbr|incusbr|podman|cni|cali|flannel|kube|nerdctl|waydroid)"
    r"|br-[0-9a-f]{12}$|bridge1\d\d$"
)
"""Names of what Docker, libvirt, VirtualBox, VMware, LXC, Podman and Kubernetes make; macOS has bridge100."""
_OUTWARD: Final = re.compile("(bond|team|eth|en|wl|vxlan|gre|wg)")
"""Names of ports that may lead out though they are no devices of their own."""


def expand(address: Address) -> list[Address]:
    """Return the addresses that 0.0.0.0 or :: stands for, loopback last; others as they are.

    Left out are those of this machine's own containers and virtual machines, which others do not reach, or
    reach other machines by.
    """
    if not address.is_any:
        return [address]
    family = socket.AF_INET if address.kind == "ip4" else socket.AF_INET6
    found = [
        replace(address, host=entry.address)
        for name, entries in psutil.net_if_addrs().items()
        if not is_inward(name)
        for entry in entries
        if entry.family == family and "%" not in entry.address and not entry.address.startswith("fe80")
    ]
    return _outside_first(found)


def expand_all(addresses: Iterable[Address]) -> list[Address]:
    """Return every concrete address once: IPv4, IPv6, then loopback."""
    return _outside_first(each for address in addresses for each in expand(address))


def _outside_first(found: Iterable[Address]) -> list[Address]:
    return sorted(dict.fromkeys(found), key=lambda each: (each.is_loopback, each.kind == "ip6"))


def is_inward(interface: str, devices: Path = Path("/sys/class/net")) -> bool:
    """Tell whether an interface leads to this machine's own containers and virtual machines only.

    Such as docker0 and virbr0: by its name, or as a bridge none of whose ports is a device of its own. What
    leads through a tunnel to other machines is not meant, nor a bridge that the network card is a port of.
    """
    if _INWARD.match(interface):
        return True
    device = devices / interface
    if not (device / "bridge").is_dir():
        return False
    try:
        ports = [port.name for port in (device / "brif").iterdir()]
    except OSError:
        return False
    return not any((devices / port / "device").exists() or _OUTWARD.match(port) for port in ports)


def networks_here() -> tuple[Network, ...]:
    """Return the networks that are not public and that an interface of this machine is in, loopback left out.

    Those of containers and virtual machines are among them: what lives there is near, though nobody is told.
    """
    return tuple(dict.fromkeys(_networks()))


def hosts_here() -> frozenset[str]:
    """Return the addresses of the interfaces of this machine."""
    entries = (entry for each in psutil.net_if_addrs().values() for entry in each)
    families = (socket.AF_INET, socket.AF_INET6)
    return frozenset(entry.address.split("%")[0] for entry in entries if entry.family in families)


def _networks() -> Iterator[Network]:
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6) or not entry.netmask:
                continue
            host = entry.address.split("%")[0]
            if scope_of(host) in (Scope.PRIVATE, Scope.SHARED):
                yield ipaddress.ip_network((host, _prefix(entry.netmask)), strict=False)


def _prefix(netmask: str) -> int:
    return int(ipaddress.ip_address(netmask)).bit_count()
