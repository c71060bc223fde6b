"""Scope: how far an address reaches, whom it is told to, and from whom it is believed.

    public     everyone; dialled whoever names it
    shared     100.64.0.0/10, behind a provider's router: peers that the internet sees at our own address
    private    the local network: peers in the same one, and those that the internet sees at our address
    link       one wire: what mDNS finds there
    loopback   this machine: peers that are linked by it
    never      documentation, benchmarks, multicast, tunnels: nobody

So a stranger makes no node knock at its own router, nor at a service of its own machine, and no record that
is handed on says how somebody's local network is numbered. What the user names is dialled as it is given.

The registries: https://www.iana.org/assignments/iana-ipv4-special-registry and
https://www.iana.org/assignments/iana-ipv6-special-registry
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final, Literal

from shoal.gossip.addresses import Endpoint

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Source = Literal["user", "book", "mdns", "dht", "peer"]
DialPrivate = Literal["near", "always", "never"]

LOWEST_PORT: Final = 1024
"""Ports below belong to a machine's own services, and are not dialled on a stranger's word."""
WEB_PORTS: Final = (80, 443)
"""But for these, on public addresses: many networks let nothing else out."""


class Scope(Enum):
    """How far an address reaches."""

    PUBLIC = "public"
    SHARED = "shared"
    PRIVATE = "private"
    LINK = "link"
    LOOPBACK = "loopback"
    NEVER = "never"
    NAME = "name"
    """A name, which may stand for addresses of any scope: each is looked at when it is known."""


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


_ROWS: Final[tuple[tuple[Scope, tuple[Network, ...]], ...]] = (
    (Scope.LOOPBACK, _networks("127.0.0.0/8", "::1/128")),
    (Scope.LINK, _networks("169.254.0.0/16", "fe80::/10")),
    (Scope.SHARED, _networks("100.64.0.0/10")),
    (Scope.PRIVATE, _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")),
    (
        Scope.NEVER,
        _networks(
            *("0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
            *("192.88.99.0/24", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
            *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
        ),
    ),
    (Scope.PUBLIC, _networks("0.0.0.0/0", "2000::/3")),
)
"""The first row that holds an address has its scope; what is in none is never told or dialled."""


def scope_of(host: str, internet: Iterable[Network] = ()) -> Scope:
    """Return how far an address, or a name, reaches.

    `internet`: networks that count as public, of a laboratory.
    """
    if not internet:
        return _scope_of(host)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return Scope.NAME
    return Scope.PUBLIC if any(address in each for each in internet) else _scope_of(host)


@lru_cache(1024)
def _scope_of(host: str) -> Scope:
    """Return the same by the table alone; peers name the same few addresses again and again."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return Scope.NAME
    return next((scope for scope, row in _ROWS if any(address in each for each in row)), Scope.NEVER)


def wide_block_of(host: str) -> str:
    """Return the /16 of an address, or the /32 for IPv6: what one owner may have; empty for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    return str(ipaddress.ip_network((address, 16 if address.version == 4 else 32), strict=False))


@dataclass(frozen=True, slots=True)
class Here:
    """Where a node is."""

    networks: tuple[Network, ...] = ()
    """Those that its interfaces are in, but for public ones."""
    observed: frozenset[str] = frozenset()
    """The addresses at which the internet sees it."""
    internet: tuple[Network, ...] = ()
    """Networks that count as public, of a laboratory."""
    own: frozenset[str] = frozenset()
    """The addresses of its interfaces."""
    dial_private: DialPrivate = "near"
    """Whose word is enough to dial a private address: that of peers near, everyone's, or only the user's."""

    def are_near(self, one: str, other: str) -> bool:
        """Tell whether two addresses are in one network of ours."""
        try:
            pair = ipaddress.ip_address(one), ipaddress.ip_address(other)
        except ValueError:
            return False
        return any(pair[0] in each and pair[1] in each for each in self.networks)

    def is_own_machine(self, host: str) -> bool:
        """Tell whether the other end of a link with this address is on this machine."""
        return host in self.own or self.scope(host) is Scope.LOOPBACK

    def scope(self, host: str) -> Scope:
        """See `scope_of`."""
        return scope_of(host, self.internet)


@dataclass(frozen=True, slots=True)
class Teller:
    """Who named an address."""

    source: Source
    host: str = ""
    """The other end's IP address on the link by which a peer named it; empty on a circuit."""


CIRCUITS: Final = "circuits"
"""The prefix of all peers that are linked by a circuit: where they are nobody has seen."""
USER: Final = Teller("user")
NOWHERE: Final = Here()
"""A node that has not looked at its interfaces."""


def may_dial(address: Endpoint, teller: Teller, here: Here) -> bool:
    """Tell whether an address may be dialled on this word; each address of a name is asked about."""
    if teller.source == "user":
        return True
    scope = here.scope(address.host)
    if not _is_fit(address.port, scope, teller):
        return False
    match scope:
        case Scope.PUBLIC | Scope.NAME:
            return True
        case Scope.SHARED:
            return here.dial_private != "never" and teller.host in here.observed
        case Scope.PRIVATE:
            return here.dial_private == "always" or (
                here.dial_private == "near" and _may_dial_private(address.host, teller, here)
            )
        case Scope.LINK:
            return teller.source == "mdns"
        case Scope.LOOPBACK:
            # What is in the book has led to a link, which nothing but the user or this machine began.
            return teller.source == "book" or here.is_own_machine(teller.host)
    return False


def _may_dial_private(host: str, teller: Teller, here: Here) -> bool:
    if teller.source == "mdns":
        return True
    if teller.source == "book" or here.is_own_machine(teller.host):
        return here.are_near(host, host)
    return teller.host in here.observed or here.are_near(host, teller.host)


def _is_fit(port: int, scope: Scope, teller: Teller) -> bool:
    if teller.source in ("book", "mdns"):
        return port > 0
    return port >= LOWEST_PORT or (port in WEB_PORTS and scope in (Scope.PUBLIC, Scope.NAME))


def may_tell(address: Endpoint, listener: str, here: Here) -> bool:
    """Tell whether an address of ours, or one that a peer here told us of itself, is for a peer to know.

    `listener`: the other end's IP address on the link to the peer; empty on a circuit.
    """
    match here.scope(address.host):
        case Scope.PUBLIC | Scope.NAME:
            return True
        case Scope.SHARED:
            return listener in here.observed
        case Scope.PRIVATE:
            if here.is_own_machine(listener) or listener in here.observed:
                return True
            return here.are_near(address.host, listener)
        case Scope.LOOPBACK:
            return here.is_own_machine(listener)
    return False


def for_everyone(address: Endpoint, here: Here) -> bool:
    """Tell whether an address may stand in a record, which is handed on to anybody."""
    return here.scope(address.host) in (Scope.PUBLIC, Scope.NAME)
