"""Doors: which links a node keeps when more come than it has places.

    connection --> half open --handshake--> silent --hello--> stranger
                                  `--identity is kept--> kept

Kept are the peers for whom the node holds places: colleagues, bootstraps, the book, and who shows a valid
invite in its hello. What a peer says of the run it is in keeps nothing. Strangers never take the places of
the kept. Where places lack, the youngest link of the fullest prefix goes, so that many keys of one network
push out each other and not those of another.

Who finds no place may still say hello from the waiting room, since an invite stands there; without one it is
shown out.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from shoal.crypto.keys import PeerId

KEPT_PART: Final = 4
"""One of so many places is held for the kept."""
SILENT_PART: Final = 2
"""One of so many places may be taken by links without a hello."""
SILENT_PER_ADDRESS: Final = 8
"""Links without a hello from one address; this machine's own addresses have no such bound."""
HELLO_DUE: Final = 10.0
"""Seconds after which a link without a hello is the first to go."""
WAITING: Final = 16
"""Links beyond the places that may still say hello."""
WAITING_SECONDS: Final = 1.0
"""How long a link in the waiting room is safe from the next one."""

K = TypeVar("K", bound=Hashable)


def block_of(host: str) -> str:
    """Return the prefix that an address counts to: its /24, or /48 for IPv6; circuits are of one prefix."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))


def _is_own_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def youngest_of_the_fullest(crowd: Iterable[tuple[K, str, float]]) -> K | None:
    """Return who goes of a crowd of (key, prefix, since): the youngest of the prefix that has the most."""
    members = list(crowd)
    if not members:
        return None
    sizes = Counter(block for _, block, _ in members)
    return max(members, key=lambda each: (sizes[each[1]], each[2]))[0]


@dataclass(slots=True)
class Place:
    """A link and what is known of its other end."""

    peer: PeerId
    host: str
    since: float
    has_said_hello: bool = False
    is_invited: bool = False
    is_waiting: bool = False

    def is_overdue(self, now: float) -> bool:
        """Whether its hello should have come."""
        return not self.has_said_hello and now - self.since >= HELLO_DUE


class Doors(Generic[K]):
    """The links of one node."""

    def __init__(self, max_links: int, kept: Container[PeerId]) -> None:
        """`max_links`: places; `kept`: the peers for whom one is held, asked each time."""
        self._max = max_links
        self._kept = kept
        self._places: dict[K, Place] = {}

    def __len__(self) -> int:
        """Return how many links there are."""
        return len(self._places)

    def may_dial(self, peer: PeerId | None) -> bool:
        """Tell whether there is a place for a peer that we would dial."""
        if len(self._places) < self._max:
            return True
        return peer is not None and peer in self._kept and any(self._loose())

    def enter(self, key: K, peer: PeerId, host: str, now: float, *, dialled: bool) -> list[K]:
        """Take a link in; return those that are to be closed for it, itself where it finds no place.

        `host`: the other end's IP address, empty on a circuit. `dialled`: by us, so it was wanted.
        """
        place = Place(peer, host, now)
        self._places[key] = place
        if self._holds(place):
            return self._make_room(key, now, of=lambda _: True) if self._is_over() else []
        if not dialled and not _is_own_machine(host) and host:
            same = [each for each in self._silent() if self._places[each].host == host]
            if len(same) > SILENT_PER_ADDRESS:
                return self._show_out(key, [each for each in same if each != key], now)
        n_silent = sum(1 for _ in self._silent())
        if n_silent > max(1, self._max // SILENT_PART) and not dialled:
            return self._make_room(key, now, of=lambda each: not each.has_said_hello)
        if self._is_over() or (not dialled and self._loose_count() > self._for_strangers()):
            return self._make_room(key, now, of=lambda _: True)
        return []

    def hello(self, key: K, now: float, *, is_invited: bool = False) -> list[K]:
        """Take note of a good hello; return the links to be closed, itself where it has no place."""
        place = self._places.get(key)
        if place is None:
            return []
        place.has_said_hello, place.is_invited = True, is_invited
        if not place.is_waiting:
            return []
        if not self._holds(place):
            return [key]
        place.is_waiting = False
        return self._make_room(key, now, of=lambda _: True) if self._is_over() else []

    def leave(self, key: K) -> None:
        """A link has ended."""
        self._places.pop(key, None)

    def stays(self, key: K) -> bool:
        """Tell whether a link has a place, beyond the waiting room."""
        place = self._places.get(key)
        return place is not None and not place.is_waiting

    def _holds(self, place: Place) -> bool:
        return place.is_invited or place.peer in self._kept

    def _seated(self) -> Iterable[K]:
        return (key for key, place in self._places.items() if not place.is_waiting)

    def _is_over(self) -> bool:
        return sum(1 for _ in self._seated()) > self._max

    def _loose(self) -> Iterable[K]:
        """Go through the links of strangers, which may be closed for others."""
        return (key for key in self._seated() if not self._holds(self._places[key]))

    def _loose_count(self) -> int:
        return sum(1 for _ in self._loose())

    def _silent(self) -> Iterable[K]:
        return (key for key in self._loose() if not self._places[key].has_said_hello)

    def _for_strangers(self) -> int:
        kept = sum(1 for _ in self._seated()) - self._loose_count()
        return self._max - max(self._max // KEPT_PART, kept)

    def _make_room(self, key: K, now: float, of: Callable[[Place], bool]) -> list[K]:
        """Choose who goes, of some of the strangers and the newcomer."""
        crowd = [each for each in self._loose() if of(self._places[each])]
        return self._show_out(key, crowd, now)

    def _show_out(self, key: K, crowd: list[K], now: float) -> list[K]:
        overdue = [each for each in crowd if each != key and self._places[each].is_overdue(now)]
        chosen = youngest_of_the_fullest(
            (each, block_of(self._places[each].host), self._places[each].since)
            for each in overdue or dict.fromkeys([*crowd, key])
            if overdue or each != key or not self._holds(self._places[key])
        )
        if chosen is None or chosen == key:
            return self._let_wait(key, now)
        return [chosen]

    def _let_wait(self, key: K, now: float) -> list[K]:
        """Let a link without a place say hello, unless too many do."""
        self._places[key].is_waiting = True
        waiting = [each for each, place in self._places.items() if place.is_waiting]
        if len(waiting) <= min(WAITING, self._max):
            return []
        oldest = min(waiting, key=lambda each: self._places[each].since)
        return [oldest if now - self._places[oldest].since >= WAITING_SECONDS else key]
