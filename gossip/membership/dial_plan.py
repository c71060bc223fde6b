"""DialPlan: whom to dial and when, so that a node finds its swarm and never stops looking.

    known --due--> dialling --link--> connected
      ^               |                  |
      '---back-off----'<-----lost--------'

Addresses come from the command line, the peer book, mDNS, the DHT and the records of other peers.
Those a user gave and those that once led to a link are tried for ever, so that two halves of a swarm find
each other again however long they were apart; the rest until they have failed often. A bootstrap that
does not answer stops nothing: it stays in the list with the reason, and is tried again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from shoal.crypto.keys import PeerId
from shoal.gossip.addresses import endpoint
from shoal.gossip.events import (
    NO_PLACE,
    OWN_ADDRESS,
    SAME_IDENTITY,
    TOO_MANY,
    Dial,
    Effects,
    SetTimer,
    Timer,
)
from shoal.gossip.membership.tellers import Tellers
from shoal.gossip.scope import USER, Here, Scope, Source, Teller, may_dial

FIRST_RETRY: Final = 0.5
"""Seconds; doubled after every failure."""
MAX_RETRY: Final = 20.0
"""Seconds; a bootstrap that comes back is found within this."""
MAX_RETRY_LEARNED: Final = 60.0
"""Seconds, for addresses that nobody gave us but that have worked."""
MAX_ATTEMPTS: Final = 8
"""Failures in a row after which a learned address that never worked is forgotten."""
AT_ONCE: Final = 8
"""Dials under way at the same time."""
NEW_AT_ONCE: Final = 40
"""Addresses that have never worked, dialled without a pause."""
NEW_PER_SECOND: Final = 2.0
"""And after that."""
DIAL_PATIENCE: Final = 15.0
"""Seconds after which a dial that reported nothing counts as failed."""
ENOUGH: Final = 24
"""Links. Half of them dialled by each peer make 24 per peer: above ln(n), with which a random network of n is
in one piece (Erdős and Rényi, 1960), for any n, also after half of the peers have died at once."""
NEVER: Final = float("inf")
MAX_ADDRESSES: Final = 512
"""Learned addresses kept; a peer cannot fill our memory with made-up ones."""


ALIVE: Final = (NO_PLACE, TOO_MANY, OWN_ADDRESS, SAME_IDENTITY)
"""Why a dial failed though somebody was there, or though it was not tried."""
_SOURCES: Final[dict[str, Source]] = {"bootstrap": "user", "book": "book", "mdns": "mdns", "dht": "dht"}


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
    """known, dialling, connected, failed, or own: it leads to this node itself, and is not dialled."""
    reason: str = ""
    attempts: int = 0
    failures: int = 0
    """In a row."""
    due: float = 0.0
    peer: PeerId | None = None
    lot: float = 0.0
    """Drawn: among equals the lowest is dialled first, so that everyone has other neighbours."""
    has_worked: bool = False
    """Whether it ever led to a link."""
    teller: Teller = USER
    """On whose word it is dialled."""


def peer_in(address: str) -> PeerId | None:
    """Return the peer id at the end of a multiaddr, if it has one."""
    _, separator, peer = address.rpartition("/p2p/")
    return PeerId(peer) if separator and "/" not in peer else None


class DialPlan:
    """The dialling plan of one node."""

    def __init__(self, me: PeerId, dice: Dice, max_links: int = 64) -> None:
        """`max_links`: no further peers are dialled above this many links, however many would be enough."""
        self.me = me
        self.enough = ENOUGH
        """Links with which we dial no further peers; in a large swarm, half as many."""
        self._max_links = max_links
        self.targets: dict[str, Target] = {}
        self._dice = dice
        self._connected: set[PeerId] = set()
        self._budget, self._budget_at = float(NEW_AT_ONCE), 0.0
        self.here = Here()
        self._tellers = Tellers()

    def add(self, address: str, source: str, now: float) -> Effects:
        """Take note of an address."""
        return self.add_all((address,), source, now)

    def add_all(self, addresses: Iterable[str], source: str, now: float) -> Effects:
        """Take note of addresses."""
        return self._note_all(addresses, source, Teller(_SOURCES.get(source, "peer")), source, now)

    def hear(self, addresses: Iterable[str], teller: PeerId, host: str, now: float) -> Effects:
        """Take note of addresses that a linked peer named; `host`: its IP address, empty on a circuit."""
        return self._note_all(addresses, "peers", Teller("peer", host), teller, now)

    def _note_all(
        self, addresses: Iterable[str], source: str, teller: Teller, charged: str, now: float
    ) -> Effects:
        # A list, so that all are looked at.
        news = [self._note(address, source, teller, charged, now) for address in addresses]
        return self.plan(now) if any(news) and (self.seeks_links or source == "bootstrap") else []

    def known(self) -> frozenset[PeerId]:
        """Return the peers that the user named and those of the book: places are held for them."""
        given = (t.peer for t in self.targets.values() if t.source in ("bootstrap", "book"))
        return frozenset(peer for peer in given if peer is not None)

    @property
    def seeks_links(self) -> bool:
        """Whether there are fewer links than we want.

        A small swarm is fully linked. In a large one half as many are dialled, since others dial us as often.
        """
        return self._lacking() > 0

    @property
    def is_new_here(self) -> bool:
        """Whether we are dialling somebody whom we were told of at the start for the first time."""
        first = (t for t in self.targets.values() if t.state == "dialling" and t.attempts == 1)
        return any(target.source in ("bootstrap", "book") for target in first)

    def named(self) -> frozenset[PeerId]:
        """Return the peers that the user named: in an address, or by one at which they answered."""
        given = (target.peer for target in self.targets.values() if target.source == "bootstrap")
        return frozenset(peer for peer in given if peer is not None and peer != self.me)

    def _lacking(self) -> int:
        is_large = len(self.targets) > 2 * self.enough
        wanted = self.enough // 2 if is_large else self.enough
        return min(wanted, self._max_links) - len(self._connected)

    def _note(self, address: str, source: str, teller: Teller, charged: str, now: float) -> bool:
        peer = peer_in(address)
        known = self.targets.get(address)
        if known is not None:
            if source == "bootstrap":
                known.source, known.teller = source, teller
            return False
        if peer == self.me:
            if source == "bootstrap":  # kept to be shown; somebody typed it
                self.targets[address] = Target(address, source, "own", OWN_ADDRESS, due=NEVER, peer=peer)
            return False
        if source != "bootstrap" and not self._may_take(address, teller, peer, charged, now):
            return False
        target = Target(address, source, due=now, peer=peer, lot=self._dice.random(), teller=teller)
        if peer in self._connected:
            target.state = "connected"
        self.targets[address] = target
        return True

    def _may_take(self, address: str, teller: Teller, peer: PeerId | None, charged: str, now: float) -> bool:
        spot = endpoint(address)
        if spot is None or not may_dial(spot, teller, self.here):
            return False
        if len(self.targets) >= MAX_ADDRESSES and not self._make_room():
            return False
        if teller.source in ("book", "mdns") or peer in self._connected:
            return True
        is_public = self.here.scope(spot.host) is Scope.PUBLIC
        return self._tellers.charge(charged, address, spot.host, now, is_public=is_public)

    def _make_room(self) -> bool:
        """Forget the address that failed most, lest made-up ones keep the real ones out."""
        failed = [t for t in self.targets.values() if t.state == "failed" and t.source != "bootstrap"]
        if not failed:
            return False
        worst = max(failed, key=lambda target: (not target.has_worked, target.failures))
        self.remove(worst.address)
        return True

    def remove(self, address: str) -> None:
        """Forget an address."""
        self.targets.pop(address, None)
        self._tellers.forget(address)

    def found(self, peer: PeerId, address: str, now: float) -> Effects:
        """A link is up; `address` is the one we dialled, if we did."""
        self._connected.add(peer)
        for target in self.targets.values():
            if target.address == address and target.peer is None:
                target.peer = peer
            if target.peer == peer:
                target.state, target.reason, target.failures = "connected", "", 0
                target.has_worked = True
                self._tellers.worked(target.address)
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
        if target is not None:
            self._fail(target, reason, now)
        return self.plan(now)

    def _fail(self, target: Target, reason: str, now: float) -> None:
        is_given = target.source == "bootstrap"
        if reason in ALIVE:
            self._tellers.forget(target.address)
        else:
            self._tellers.failed(target.address, now)
        # A name may stand for many nodes, of which this one is one: it is tried again.
        if reason == OWN_ADDRESS and not target.address.startswith("/dns"):
            target.state, target.reason, target.due, target.peer = "own", reason, NEVER, self.me
            if not is_given:
                del self.targets[target.address]
            return
        target.state, target.reason = "failed", reason
        target.failures += 1
        if not is_given and not target.has_worked and target.failures >= MAX_ATTEMPTS:
            del self.targets[target.address]
            return
        longest = MAX_RETRY if is_given else MAX_RETRY_LEARNED
        target.due = now + self._jitter(min(longest, FIRST_RETRY * 2 ** min(target.failures, 10)))

    def plan(self, now: float) -> Effects:
        """Dial what is due, and say when to look again."""
        for target in [t for t in self.targets.values() if t.state == "dialling" and t.due <= now]:
            self._fail(target, "timeout", now)
        effects: Effects = []
        under_way = [t for t in self.targets.values() if t.state == "dialling"]
        busy = {target.peer for target in under_way if target.peer is not None} | self._connected
        due = [
            t
            for t in self.targets.values()
            if t.state not in ("dialling", "connected") and t.due <= now and t.peer not in busy
        ]
        # Anybody may write into the DHT: who is linked already has better words.
        last = "dht" if self._connected else ""
        due.sort(key=lambda t: (t.source != "bootstrap", not t.has_worked, t.source == last, t.lot))
        lacking = self._lacking()
        for target in due[: 4 * AT_ONCE]:
            if len(under_way) + len(effects) >= AT_ONCE:
                break
            is_given = target.source == "bootstrap"
            if target.peer in busy or (not is_given and len(under_way) + len(effects) >= lacking):
                continue
            if not is_given and not self._is_allowed(target):
                continue
            if not is_given and not target.has_worked and not self._spend(now):
                continue
            target.state, target.due = "dialling", now + DIAL_PATIENCE
            target.attempts += 1
            if target.peer is not None:
                busy.add(target.peer)
            effects.append(Dial(target.address, target.teller))
        waiting = [t.due for t in self.targets.values() if t.state != "connected" and t.due > now]
        has_room = len(under_way) + len(effects) < min(AT_ONCE, lacking)
        if has_room and any(t.state != "dialling" for t in due):
            waiting.append(now + 1 / NEW_PER_SECOND)
        return [*effects, SetTimer(min(waiting, default=float("inf")), Timer.DIALS)]

    def _is_allowed(self, target: Target) -> bool:
        """Whether an address may still be dialled: the node may have come into another network."""
        spot = endpoint(target.address)
        return spot is not None and may_dial(spot, target.teller, self.here)

    def _spend(self, now: float) -> bool:
        """Take one of the dials that unproved addresses may cost: somebody may have made them up."""
        self._budget = min(float(NEW_AT_ONCE), self._budget + NEW_PER_SECOND * (now - self._budget_at))
        self._budget_at = now
        if self._budget < 1:
            return False
        self._budget -= 1
        return True

    def _jitter(self, seconds: float) -> float:
        # Two halves of a swarm must not dial each other in step for ever.
        return seconds * (0.75 + 0.5 * self._dice.random())
