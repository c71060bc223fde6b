"""Host: the seam between the protocol and a network.

The real one is gossip/net/libp2p_host.py; tests and the simulator bring others. A host moves frames
between peers whose identity it has proved, reports links that come and go, and carries rare
announcements to everyone. It promises no delivery. It does promise order between two peers within a lane.
"""

from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Arriving, Data, DialFailed, Learned, Loan, PeerFound, PeerLost
from shoal.gossip.reachability.port_mapping import OFF, PortMapping
from shoal.gossip.scope import USER, Here, Teller


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """A frame came over a link: `head` small, `data` the bulk beside it (may be empty)."""

    peer: PeerId
    head: bytes
    data: Data = b""


@dataclass(frozen=True, slots=True)
class Announced:
    """A sealed announcement came by GossipSub; its author is inside, `via` handed it on."""

    via: PeerId
    sealed: bytes


HostEvent: TypeAlias = FrameReceived | Arriving | Announced | PeerFound | PeerLost | DialFailed | Learned


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """Counters since the start; bytes are counted at the socket, ciphertext and all."""

    bytes_sent: int = 0
    bytes_received: int = 0
    peer_bytes: dict[PeerId, tuple[int, int]] = field(default_factory=dict)
    """Per connected peer: payload bytes sent and received on our streams."""
    links: dict[PeerId, tuple[str, str]] = field(default_factory=dict)
    """Per connected peer: address and link class."""
    inbound: frozenset[PeerId] = frozenset()
    """Of these, the ones that dialled us: the port in such an address is none that they listen on."""
    port_mapping: PortMapping = OFF
    """What the router of this network does for us."""
    bulk: tuple[int, float] = (0, 0.0)
    """Bytes sent in bulk, and the seconds in which some of them were being written."""


class Host(Protocol):
    """A place in a network. All methods are for the trio thread; `*_nowait` never block."""

    me: PeerId

    def addresses(self) -> list[str]:
        """Return the multiaddrs under which others reach this node, each ending in /p2p/ID."""
        ...

    def send_nowait(self, peer: PeerId, head: bytes, data: Data | Loan = b"") -> None:
        """Queue a frame. Without a link it is dialled if an address is known, else dropped.

        Frames with `data` go in a bulk lane of their own, so that they never hold up control
        frames. `data` must stay unchanged until sent, or until a loan ends. A peer whose queue of
        control frames overflows is dropped.
        """
        ...

    def announce_nowait(self, sealed: bytes) -> None:
        """Hand a sealed announcement to GossipSub."""
        ...

    def here(self) -> Here:
        """Return which networks this node is in, and where the internet sees it."""
        ...

    def dial_nowait(self, address: str, teller: Teller = USER) -> None:
        """Start a dial; ends in a `PeerFound` or `DialFailed` event. `teller`: who named the address."""
        ...

    def drop_nowait(self, peer: PeerId, reason: str) -> None:
        """Close the links to a peer."""
        ...

    def probe_nowait(self, peer: PeerId) -> None:
        """Look soon whether the links to a peer still live, and close those that do not."""
        ...

    async def flush(self) -> None:
        """Wait until the queues are empty."""
        ...

    async def next_event(self) -> HostEvent:
        """Wait for what happens next."""
        ...

    def statistics(self) -> HostStatistics:
        """Return the counters."""
        ...
