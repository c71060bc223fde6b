"""Hosts in memory: a network of one process, for drivers under a clock that jumps.

    net = MemoryNet()
    one, two = net.host(key_one), net.host(key_two)
    one.dial_nowait(two.addresses()[0])

Frames arrive after `latency`, in order within a lane. A cut ends a link on both sides; a host that is
closed loses all of its links.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Data, DialFailed, Loan, PeerFound, PeerLost
from shoal.gossip.host import Announced, FrameReceived, HostEvent, HostStatistics
from shoal.gossip.scope import USER, Here, Teller

if TYPE_CHECKING:
    from trio_typing import TaskStatus


class MemoryNet:
    """All hosts, and who is linked with whom."""

    def __init__(self, latency: float = 0.01) -> None:
        """`latency`: seconds from sending to receiving."""
        self.latency = latency
        self.hosts: dict[PeerId, MemoryHost] = {}
        self._links: set[frozenset[PeerId]] = set()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Carry what is under way, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def host(self, me: PeerId) -> "MemoryHost":
        """Add a host."""
        self.hosts[me] = MemoryHost(self, me)
        return self.hosts[me]

    def is_linked(self, one: PeerId, other: PeerId) -> bool:
        """Tell whether there is a link."""
        return frozenset((one, other)) in self._links

    def neighbours(self, me: PeerId) -> list[PeerId]:
        """Return who is linked with a host."""
        return sorted(peer for peer in self.hosts if peer != me and self.is_linked(me, peer))

    def link(self, one: PeerId, other: PeerId, address: str = "") -> None:
        """Link two hosts, of which the first has dialled."""
        if not self.is_linked(one, other):
            self._links.add(frozenset((one, other)))
            self.later(self.hosts[other], PeerFound(one))
        self.later(self.hosts[one], PeerFound(other, address))

    def cut(self, one: PeerId, other: PeerId) -> None:
        """End a link."""
        if self.is_linked(one, other):
            self._links.discard(frozenset((one, other)))
            self.later(self.hosts[one], PeerLost(other))
            self.later(self.hosts[other], PeerLost(one))

    def later(self, host: "MemoryHost", event: HostEvent) -> None:
        """Let a host see an event after the latency."""
        assert self._nursery is not None
        # Tasks of one instant run in any order; the queue keeps the order of sending.
        host.under_way.append(event)
        self._nursery.start_soon(self._deliver, host, trio.current_time() + self.latency)

    async def _deliver(self, host: "MemoryHost", at: float) -> None:
        await trio.sleep_until(at)
        event = host.under_way.popleft()
        if not host.is_closed:
            host.arrived.send_nowait(event)


@dataclass(eq=False)
class MemoryHost:
    """See `shoal.gossip.host.Host`."""

    net: MemoryNet
    me: PeerId
    dropped: Counter[str] = field(default_factory=Counter)
    """What `drop_nowait` was told, by reason."""
    is_closed: bool = False
    under_way: deque[HostEvent] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Open the channel of events."""
        self.arrived, self._take = trio.open_memory_channel[HostEvent](100_000)

    def close(self) -> None:
        """Vanish, as by a kill."""
        self.is_closed = True
        for peer in self.net.neighbours(self.me):
            self.net.cut(self.me, peer)

    def addresses(self) -> list[str]:
        """See `Host`."""
        return [f"/ip4/20.0.0.1/tcp/4710/p2p/{self.me}"]

    def send_nowait(self, peer: PeerId, head: bytes, data: Data | Loan = b"") -> None:
        """See `Host`."""
        if self.is_closed or not self.net.is_linked(self.me, peer):
            self.dropped["no link"] += 1
            return
        if isinstance(data, Loan) and data.is_over:
            return
        # A copy, as on every network: what the sender does with its memory later is not seen here.
        self.net.later(self.net.hosts[peer], FrameReceived(self.me, head, bytes(data)))

    def announce_nowait(self, sealed: bytes) -> None:
        """See `Host`. Here only neighbours hear it."""
        for peer in self.net.neighbours(self.me):
            self.net.later(self.net.hosts[peer], Announced(self.me, sealed))

    def here(self) -> Here:
        """See `Host`."""
        return Here()

    def dial_nowait(self, address: str, teller: Teller = USER) -> None:
        """See `Host`."""
        peer = PeerId(address.rpartition("/p2p/")[2])
        target = self.net.hosts.get(peer)
        if target is None or target.is_closed:
            self.net.later(self, DialFailed(address, "refused"))
        else:
            self.net.link(self.me, peer, address)

    def probe_nowait(self, peer: PeerId) -> None:
        """See `Host`; links in memory never go silent."""

    def drop_nowait(self, peer: PeerId, reason: str) -> None:
        """See `Host`."""
        self.dropped[reason] += 1
        self.net.cut(self.me, peer)

    async def flush(self) -> None:
        """See `Host`."""
        await trio.lowlevel.checkpoint()

    async def next_event(self) -> HostEvent:
        """See `Host`."""
        return await self._take.receive()

    def statistics(self) -> HostStatistics:
        """See `Host`."""
        links = {
            peer: (self.net.hosts[peer].addresses()[0], "direct") for peer in self.net.neighbours(self.me)
        }
        return HostStatistics(links=links)
