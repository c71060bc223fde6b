"""Discovery: whom to dial and when, so that a node finds its swarm and never stops looking.

    known --due--> dialling --link--> connected
      ^               |                  |
      '---back-off----'<-----lost--------'

Addresses come from the command line, the peer book, mDNS, the DHT and the records of other peers.
Those a user gave are tried for ever; the rest until their source forgets them. A bootstrap that
does not answer stops nothing: it stays in the list with the reason, and is tried again.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from crypto.keys import PeerId
from gossip.core import Dial, Effects, SetTimer

TIMER: Final = "discovery"
FIRST_RETRY: Final = 0.5
"""Seconds; doubled after every failure."""
MAX_RETRY: Final = 20.0
"""Seconds; a bootstrap that comes back is found within this."""
MAX_ATTEMPTS: Final = 8
"""Failures in a row after which a learned address is forgotten."""
AT_ONCE: Final = 8
"""Dials under way at the same time."""
DIAL_PATIENCE: Final = 15.0
"""Seconds after which a dial that reported nothing counts as failed."""
MAX_ADDRESSES: Final = 512
"""Learned addresses kept; a peer cannot fill our memory with made-up ones."""


class Dice(Protocol):
    """Randomness that is handed in, so that a run can be repeated."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...


@dataclass(slots=True)
class Target:
    """An address to dial."""

    address: str
    source: str
    """bootstrap, book, mdns, dht or peers."""
    state: str = "known"
    """known, dialling, connected or failed."""
    reason: str = ""
    attempts: int = 0
    failures: int = 0
    """In a row."""
    due: float = 0.0
    peer: PeerId | None = None


def peer_in(address: str) -> PeerId | None:
    """Return the peer id at the end of a multiaddr, if it has one."""
    _, separator, peer = address.rpartition("/p2p/")
    return PeerId(peer) if separator and "/" not in peer else None


class Discovery:
    """The dialling plan of one node."""

    def __init__(self, me: PeerId, dice: Dice, max_links: int = 64) -> None:
        """`max_links`: no further peers are dialled above this many links."""
        self.me = me
        self.targets: dict[str, Target] = {}
        self._dice = dice
        self._connected: set[PeerId] = set()
        self._max_links = max_links

    def add(self, address: str, source: str, now: float) -> Effects:
        """Take note of an address."""
        peer = peer_in(address)
        known = self.targets.get(address)
        if known is not None:
            if source == "bootstrap":
                known.source = source
            return []
        if peer == self.me or (source != "bootstrap" and len(self.targets) >= MAX_ADDRESSES):
            return []
        target = Target(address, source, due=now, peer=peer)
        if peer in self._connected:
            target.state = "connected"
        self.targets[address] = target
        return self.plan(now)

    def remove(self, address: str) -> None:
        """Forget an address."""
        self.targets.pop(address, None)

    def found(self, peer: PeerId, address: str, now: float) -> Effects:
        """A link is up; `address` is the one we dialled, if we did."""
        self._connected.add(peer)
        for target in self.targets.values():
            if target.address == address and target.peer is None:
                target.peer = peer
            if target.peer == peer:
                target.state, target.reason, target.failures = "connected", "", 0
        return self.plan(now)

    def lost(self, peer: PeerId, now: float) -> Effects:
        """The last link to a peer is gone."""
        self._connected.discard(peer)
        for target in self.targets.values():
            if target.peer == peer:
                target.state, target.due = "known", now + self._jitter(FIRST_RETRY)
        return self.plan(now)

    def failed(self, address: str, reason: str, now: float) -> Effects:
        """A dial failed."""
        target = self.targets.get(address)
        if target is None:
            return self.plan(now)
        target.state, target.reason = "failed", reason
        target.failures += 1
        if target.source != "bootstrap" and target.failures >= MAX_ATTEMPTS:
            del self.targets[address]
        else:
            target.due = now + self._jitter(min(MAX_RETRY, FIRST_RETRY * 2 ** min(target.failures, 10)))
        return self.plan(now)

    def plan(self, now: float) -> Effects:
        """Dial what is due, and say when to look again."""
        effects: Effects = []
        dialling = 0
        for target in self.targets.values():
            if target.state == "dialling":
                if now < target.due:
                    dialling += 1
                    continue
                target.state, target.reason = "failed", "timeout"
        under_way = {t.peer for t in self.targets.values() if t.state == "dialling" and t.peer}
        for target in sorted(self.targets.values(), key=lambda t: (t.source != "bootstrap", t.due)):
            if target.state in ("dialling", "connected") or now < target.due or dialling >= AT_ONCE:
                continue
            if target.peer in under_way or (target.peer is not None and target.peer in self._connected):
                continue
            if target.source != "bootstrap" and len(self._connected) >= self._max_links:
                continue
            target.state, target.due = "dialling", now + DIAL_PATIENCE
            target.attempts += 1
            dialling += 1
            if target.peer is not None:
                under_way.add(target.peer)
            effects.append(Dial(target.address))
        waiting = [t.due for t in self.targets.values() if t.state != "connected" and t.due > now]
        return [*effects, SetTimer(min(waiting, default=float("inf")), TIMER)]

    def _jitter(self, seconds: float) -> float:
        # Two halves of a swarm must not dial each other in step for ever.
        return seconds * (0.75 + 0.5 * self._dice.random())
