"""Port mapping: what became of asking a router for a port, in words for its owner, and what is asked. Pure.

    off ── not needed ── ready ── looking ──> mapped | refused | silent | garbled | in vain

A mapped address is one that the router names. It is believed no further than this: it has to be public, and
where at least two peers far apart see this node elsewhere, it is not told to anybody.
"""

from dataclasses import dataclass
from typing import Final, Literal

from shoal.gossip.addresses import Address, listen_at
from shoal.gossip.reachability import nat_pmp, upnp
from shoal.gossip.reachability.steps import Grant, NoMapping, Steps, T, Wanted
from shoal.gossip.scope import Here, Scope

State = Literal["off", "not needed", "ready", "looking", "mapped", "refused", "silent", "garbled", "in vain"]
UNREACHABLE: Final[tuple[State, ...]] = ("refused", "silent", "garbled", "in vain")
"""Where others outside the local network cannot dial this node, as far as its router tells."""
LEAST_PAUSE: Final = 60.0
MOST_PAUSE: Final = 900.0
"""Seconds between two looks at a mapping: so old at most is a router's address that has changed."""


@dataclass(frozen=True, slots=True)
class PortMapping:
    """The outcome."""

    state: State
    text: str
    """In one line."""
    fix: str = ""
    """What its owner may do; empty where there is nothing."""
    address: Address | None = None
    """Where others reach this node, if it is mapped."""

    @property
    def is_unreachable(self) -> bool:
        """Whether this node cannot be dialled from outside, as far as its router tells."""
        return self.state in UNREACHABLE


OFF: Final = PortMapping(
    "off", "the router is not asked for a port: network.port_mapping, --announce or --hidden"
)
LOOKING: Final = PortMapping("looking", "the router is being asked for a port")
LOOPBACK: Final = PortMapping("not needed", "this node listens for its own machine only")
NO_ROUTER: Final = PortMapping("not needed", "no router is known: there is no default route over one")
PUBLIC: Final = PortMapping("not needed", "this machine has a public address of its own")


def judge(host: str, here: Here) -> None:
    """Look at the outer address of a router.

    Raises:
        NoMapping: nobody outside can dial it.
    """
    scope = here.scope(host)
    if scope in (Scope.PRIVATE, Scope.SHARED):
        raise NoMapping("in vain", host)
    seen = sorted(each for each in here.observed if ":" not in each)
    if scope is not Scope.PUBLIC:
        raise NoMapping("garbled")
    if seen and host not in seen:
        raise NoMapping("in vain", f"{host} {seen[0]}")


def map_port(wanted: Wanted, gateway: str, before: Grant | None = None) -> Steps[Grant]:
    """Open a port by what the router speaks, or renew the one that it opened.

    Raises:
        NoMapping: it opens none; what it said by the protocol that came furthest.
    """
    if before is not None and before.control is not None:
        return (yield from upnp.map_port(wanted, gateway, before.control))
    if before is not None:
        return (yield from nat_pmp.map_port(wanted))
    return (yield from _first_of(nat_pmp.map_port(wanted), upnp.map_port(wanted, gateway)))


def look_at(wanted: Wanted, gateway: str) -> Steps[PortMapping]:
    """Return what the router would do for a node; nothing is changed."""
    first, second = nat_pmp.outer_address(wanted), upnp.outer_address(wanted, gateway)
    try:
        host = yield from _first_of(first, second)
    except NoMapping as error:
        return not_mapped(error, wanted)
    return PortMapping("ready", f"the router answers, at {host}: a node that starts asks it for a port")


def _first_of(by_nat_pmp: Steps[T], by_upnp: Steps[T]) -> Steps[T]:
    """Ask by UPnP where NAT-PMP gives nothing, unless that would be in vain too.

    Raises:
        NoMapping: as the one that came furthest says.
    """
    try:
        return (yield from by_nat_pmp)
    except NoMapping as first:
        if first.why == "in vain":
            raise
        try:
            return (yield from by_upnp)
        except NoMapping as second:
            raise (first if second.why == "silent" else second) from None


def close_port(grant: Grant) -> Steps[None]:
    """Close a port that a router opened.

    Raises:
        NoMapping: it does not say that it did.
    """
    return nat_pmp.close_port(grant) if grant.control is None else upnp.close_port(grant)


def mapped(grant: Grant) -> PortMapping:
    """Return the outcome where the router opened a port."""
    ends = (
        "" if grant.lease else ", which it opens for ever: closed when the node ends, not when it is killed"
    )
    return PortMapping(
        "mapped",
        f"the router leads {grant.host}:{grant.port} here, by {grant.by}{ends}",
        address=Address("ip4", grant.host, grant.port),
    )


def not_mapped(error: NoMapping, wanted: Wanted) -> PortMapping:
    """Return the outcome where it did not."""
    announce = listen_at("YOUR_ADDRESS", wanted.internal)
    forward = (
        f"forward TCP {wanted.internal} to {wanted.local} on it, then: shoal start --announce {announce}"
    )
    match error.why:
        case "refused":
            said = f": {error.words}" if error.words else ""
            text, fix = (
                f"the router opens no port{said}",
                f"switch on UPnP or NAT-PMP in the router, or {forward}",
            )
        case "silent":
            text = "the router answers neither NAT-PMP nor UPnP"
            fix = f"switch one of them on in the router, or {forward}"
        case "garbled":
            text, fix = "the router answers what cannot be read or used", forward
        case "in vain":
            return _in_vain(error.words)
    return PortMapping(error.why, text, fix)


def _in_vain(words: str) -> PortMapping:
    host, _, seen = words.partition(" ")
    if seen:
        text = f"the router calls its address {host}, and peers see {seen}: another router stands before it"
    else:
        text = f"the router's own address is {host}, which is not public: another router stands before it"
    fix = "ask your provider for a public address, or use IPv6; else nothing: relays carry links"
    return PortMapping("in vain", text, fix)


def pause_of(grant: Grant | None, failures: int) -> float:
    """Return for how many seconds to leave the router alone.

    `failures`: looks in a row that ended without a port.
    """
    if grant is not None:
        half = grant.lease / 2 if grant.lease else MOST_PAUSE
        return min(MOST_PAUSE, max(LEAST_PAUSE, half))
    return float(min(MOST_PAUSE, LEAST_PAUSE * 2 ** min(failures, 10)))
