"""Addresses: where a node can be reached, read from what people type and printed as multiaddrs.

    /ip4/192.0.2.7/tcp/4710/p2p/12D3KooW…    the full form; also /ip6, /dns, /dns4, /dns6
    /ip4/192.0.2.7/tcp/4710                  whoever answers there; its identity is learned
    /ip4/192.0.2.7/tcp/4710/p2p/RELAY/p2p-circuit/p2p/PEER    who cannot be dialled, through who can
    node.example:4710   192.0.2.7:4710   [2001:db8::7]:4710

A multiaddr is a path of (protocol, value) pairs, https://multiformats.io/multiaddr/. Only TCP is
spoken here; anything else is refused with what would be right. Such a text is made and read here alone, so
another transport begins here.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from shoal.crypto.errors import BadKey
from shoal.crypto.keys import PeerId, public_key_of

MAX_TEXT: Final = 512
"""Longer than any host name and peer id together."""
_ENDPOINT: Final = re.compile(r"/(?:ip4|ip6|dns|dns4|dns6)/([^/]+)/tcp/(\d{1,5})(?:/|$)")
_ADVICE: Final = "write /ip4/192.0.2.7/tcp/4710, /ip4/192.0.2.7/tcp/4710/p2p/PEER_ID or host:port"


class BadAddress(ValueError):
    """Not an address of a node; the message says what one looks like."""


def is_loopback(host: str) -> bool:
    """Tell whether an address is one of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP endpoint, and whose it is if that is known."""

    kind: str
    """ip4, ip6, dns, dns4 or dns6."""
    host: str
    port: int
    peer: PeerId | None = None
    via: PeerId | None = None
    """The peer that listens there and carries a circuit to `peer`, if that is not `peer` itself."""

    def __str__(self) -> str:
        """Print as a multiaddr."""
        circuit = f"/p2p/{self.via}/p2p-circuit" if self.via else ""
        owner = f"/p2p/{self.peer}" if self.peer else ""
        return f"/{self.kind}/{self.host}/tcp/{self.port}{circuit}{owner}"

    def of(self, peer: PeerId) -> "Address":
        """Return the address with its owner."""
        return replace(self, peer=peer)

    @property
    def is_any(self) -> bool:
        """Whether it stands for every interface: 0.0.0.0 or ::."""
        return self.kind in ("ip4", "ip6") and ipaddress.ip_address(self.host).is_unspecified

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.kind in ("ip4", "ip6") and is_loopback(self.host)


def parse(text: str) -> Address:
    """Read an address in any of the forms above.

    Raises:
        BadAddress: none of them.
    """
    text = text.strip()
    if len(text) > MAX_TEXT:
        raise BadAddress(f"{text[:40]}… is longer than any address")
    return _parse_multiaddr(text) if text.startswith("/") else _parse_host_port(text)


def parse_listen(text: str) -> Address:
    """Read an address to listen on: an IP address of this machine and a port.

    Raises:
        BadAddress: not of the form /ip4/ADDRESS/tcp/PORT or /ip6/ADDRESS/tcp/PORT.
    """
    try:
        address = parse(text)
    except BadAddress:
        address = None
    if address is None or address.kind not in ("ip4", "ip6") or address.peer is not None:
        raise BadAddress(f"cannot listen on {text!r}: write /ip4/0.0.0.0/tcp/4710 or /ip6/::/tcp/4710")
    return address


def from_socket(host: str, port: int) -> Address:
    """Return the address of one end of a connection."""
    return Address("ip6" if ":" in host else "ip4", host.split("%")[0], port)


def with_advice(error: BadAddress) -> str:
    """Return what is wrong with an address, and what a right one looks like."""
    text = str(error)
    return text if "write" in text else f"{text}; write host:port or /ip4/192.0.2.7/tcp/4710/p2p/PEER_ID"


def listen_at(host: str, port: int) -> str:
    """Return the multiaddr of an IP address of this machine and a port; 0: a free one."""
    return str(from_socket(host, port))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What of an address the network sees: of a circuit, where the relay is."""

    host: str
    port: int


def endpoint(text: str) -> Endpoint | None:
    """Return where a multiaddr leads; nothing where it is not of TCP."""
    found = _ENDPOINT.match(text)
    return Endpoint(found[1], int(found[2])) if found else None


def beyond_this_machine(addresses: Sequence[str]) -> list[str]:
    """Return the multiaddrs that are not of the loopback, or all where there are no others."""
    outside = [each for each in addresses if (at := endpoint(each)) is None or not is_loopback(at.host)]
    return outside or list(addresses)


def _parse_multiaddr(text: str) -> Address:
    parts = text.split("/")[1:]
    via: PeerId | None = None
    if len(parts) == 9 and parts[4] == "p2p" and parts[6:8] == ["p2p-circuit", "p2p"]:
        via = _peer(parts[5], text)
        del parts[4:7]
    if len(parts) == 6 and parts[4] == "p2p":
        peer: PeerId | None = _peer(parts.pop(), text)
        parts.pop()
    else:
        peer = None
    if len(parts) != 4 or parts[2] != "tcp" or parts[0] not in ("ip4", "ip6", "dns", "dns4", "dns6"):
        raise BadAddress(f"{text!r} is not an address of a node: {_ADVICE}")
    kind, host = parts[0], parts[1]
    if kind in ("ip4", "ip6"):
        host = _ip(host, 4 if kind == "ip4" else 6, text)
    else:
        _check_name(host, text)
    return Address(kind, host, _port(parts[3], text), peer, via)


def _parse_host_port(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise BadAddress(f"{text!r} is not an address of a node: {_ADVICE}")
    if host.startswith("[") and host.endswith("]"):
        return Address("ip6", _ip(host[1:-1], 6, text), _port(port, text))
    if host.replace(".", "").isdigit():
        return Address("ip4", _ip(host, 4, text), _port(port, text))
    _check_name(host, text)
    return Address("dns", host, _port(port, text))


def _ip(host: str, version: int, text: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise BadAddress(f"{text!r}: {host!r} is no IP address") from error
    if address.version != version:
        raise BadAddress(f"{text!r}: {host!r} is no IPv{version} address")
    return str(address)


def _check_name(host: str, text: str) -> None:
    labels = host.rstrip(".").split(".")
    fine = all(0 < len(each) < 64 and each.replace("-", "").replace("_", "").isalnum() for each in labels)
    if not fine or len(host) > 253 or not host.isascii():
        raise BadAddress(f"{text!r}: {host!r} is no host name")


def _port(port: str, text: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise BadAddress(f"{text!r}: {port!r} is no port")
    return int(port)


def _peer(peer: str, text: str) -> PeerId:
    try:
        public_key_of(PeerId(peer))
    except BadKey as error:
        raise BadAddress(f"{text!r}: {peer!r} is no peer id of a node; those begin with 12D3KooW") from error
    return PeerId(peer)
