"""The simulated network: links that are slow, break, freeze or carry words one way only.

A link is what TCP under Noise gives: frames of one lane arrive whole and in order, or the link breaks and
both ends are told, sooner or later. Lost packets are therefore delay. Two lanes per direction, control and
bulk, overtake each other. Where a direction is blocked frames wait as TCP's would: they come late if
the block ends before the link does. Data beside a frame is read when it leaves, not when it is
queued, as the real lanes do: whoever overwrites it too soon sends garbage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from shoal.crypto.keys import PeerId
from shoal.gossip.deadlines import BEAT
from shoal.gossip.events import Arriving, Loan, Received

KEEP_ALIVE: Final = 35.0
"""Seconds after which a link without an answer counts as broken."""
DOUBT_WAIT: Final = 5.0
"""The same for a link that is doubted."""
BULK_HEAD_BYTES: Final = 64


@dataclass(slots=True)
class Direction:
    """One way of a link."""

    arrived: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """When the last frame of each lane, control and bulk, arrives."""
    queue: deque[tuple[Any, Any]] = field(default_factory=deque)
    """Bulk frames that wait for a slow line."""
    leaving: tuple[Any, bytes] | None = None
    """The one that leaves it."""
    deaf_until: float = 0.0
    """Frames before this go into the void, and nobody is told."""
    held: list[tuple[Any, Any]] = field(default_factory=list)
    """Frames that wait for a block to end."""


@dataclass(slots=True)
class Link:
    """A connection between two peers."""

    ends: tuple[PeerId, PeerId]
    born: int
    """Tells this link from those before it: what was on their way is gone."""
    ways: dict[PeerId, Direction]
    """By sender."""
    latency: float


def pair(one: PeerId, other: PeerId) -> tuple[PeerId, PeerId]:
    """Name a link, whichever end asks."""
    return (one, other) if one < other else (other, one)


@dataclass(frozen=True, slots=True)
class Weather:
    """How a network treats frames."""

    latency: float = 0.02
    """Seconds, one way, the median over the pairs."""
    spread: float = 3.0
    """Pairs differ by up to this factor, both ways."""
    jitter: float = 0.3
    """Share of the latency."""
    loss: float = 0.0
    """Chance that a frame has to be sent again, which costs it up to a second."""
    gaps: float = 0.0
    """Chance that a frame is never delivered and nobody is told: a lane that moved to another link."""
    twice: float = 0.0
    """Chance that an announcement arrives twice."""


class Network:
    """All links of one simulated world; the world hands in its clock, dice and the two callbacks."""

    def __init__(
        self,
        dice: Random,
        weather: Weather,
        at: Callable[..., None],
        deliver: Callable[[PeerId, Received | Arriving], None],
    ) -> None:
        """`at(time, function, *arguments)` plans; `deliver` hands a frame over, or word of part of one."""
        self.weather = weather
        self.links: dict[tuple[PeerId, PeerId], Link] = {}
        self.blocked: set[tuple[PeerId, PeerId]] = set()
        """(sender, receiver): nothing gets through."""
        self.bandwidth: dict[PeerId, float] = {}
        """Bytes per second out of a peer; none: unlimited."""
        self.messages = 0
        self.on_bulk: Callable[[PeerId, PeerId, Any, int], None] = lambda sender, to, message, n_bytes: None
        """Told of each bulk frame that begins to leave over a slow line: sender, receiver, message, bytes."""
        self._dice, self._at, self._deliver = dice, at, deliver
        self._latency: dict[tuple[PeerId, PeerId], float] = {}
        self._born = 0

    def latency(self, one: PeerId, other: PeerId) -> float:
        """Return the seconds between two peers, without jitter."""
        key = pair(one, other)
        if key not in self._latency:
            spread = self.weather.spread
            self._latency[key] = self.weather.latency * spread ** (2 * self._dice.random() - 1)
        return self._latency[key]

    def is_up(self, one: PeerId, other: PeerId) -> bool:
        """Whether there is a link."""
        return pair(one, other) in self.links

    def is_open(self, one: PeerId, other: PeerId) -> bool:
        """Whether frames pass in both directions, if there is a link."""
        return (one, other) not in self.blocked and (other, one) not in self.blocked

    def connect(self, one: PeerId, other: PeerId) -> None:
        """Make a link."""
        self._born += 1
        key = pair(one, other)
        ways = {one: Direction(), other: Direction()}
        self.links[key] = Link(key, self._born, ways, self.latency(one, other))

    def deafen(self, sender: PeerId, to: PeerId, until: float) -> None:
        """Lose what is sent in this direction until then."""
        self.links[pair(sender, to)].ways[sender].deaf_until = until

    def cut(self, one: PeerId, other: PeerId) -> None:
        """Take a link away, with all that is on it."""
        self.links.pop(pair(one, other), None)

    def send(self, sender: PeerId, to: PeerId, message: Any, data: Any, now: float) -> None:
        """Put a frame on the link, if there is one; `data` that is lent is left out if it is taken back."""
        link = self.links.get((sender, to) if sender < to else (to, sender))
        if link is None:
            return
        self.messages += 1
        way = link.ways[sender]
        if now < way.deaf_until:
            return
        if self.blocked and (sender, to) in self.blocked:
            way.held.append((message, data))
        elif (way.leaving is not None or sender in self.bandwidth) and len(data):
            way.queue.append((message, data))
            if way.leaving is None:
                self._leave(link, way, sender, to, now)
        else:
            self._travel(link, way, sender, to, message, data, now)

    def unblock(self, sender: PeerId, to: PeerId, now: float) -> bool:
        """End a block; what waited goes out. Tells whether there was anything."""
        self.blocked.discard((sender, to))
        link = self.links.get(pair(sender, to))
        if link is None:
            return False
        way = link.ways[sender]
        held, way.held = way.held, []
        for message, data in held:
            self.send(sender, to, message, data, now)
        return bool(held)

    def quicken(self, sender: PeerId, now: float) -> None:
        """Let a peer's line be as fast as ever; what waits for it leaves at once."""
        self.bandwidth.pop(sender, None)
        for link in list(self.links.values()):
            way = link.ways.get(sender)
            if way is not None and way.leaving is not None:
                to = link.ends[0] if link.ends[1] == sender else link.ends[1]
                self._has_left(link, way, sender, to, way.leaving, now)

    def _leave(self, link: Link, way: Direction, sender: PeerId, to: PeerId, now: float) -> None:
        """Let the first bulk frame that waits begin to leave; it is read now."""
        while way.queue:
            message, data = way.queue.popleft()
            if isinstance(data, Loan) and data.is_over:
                continue
            rate = self.bandwidth.get(sender)
            seconds = (len(data) + BULK_HEAD_BYTES) / rate if rate else 0.0
            self.on_bulk(sender, to, message, len(data))
            frame = way.leaving = (message, bytes(data))
            self._tell_of(link, to, sender, len(data), now, now + seconds)
            self._at(now + seconds, self._has_left, link, way, sender, to, frame, now + seconds)
            return

    def _has_left(
        self, link: Link, way: Direction, sender: PeerId, to: PeerId, frame: tuple[Any, bytes], now: float
    ) -> None:
        if self.links.get(link.ends) is link and way.leaving is frame:
            way.leaving = None
            self._travel(link, way, sender, to, *frame, now)
            self._leave(link, way, sender, to, now)

    def _tell_of(
        self, link: Link, to: PeerId, sender: PeerId, n_bytes: int, leaves: float, gone: float
    ) -> None:
        """Tell the receiver how much has come of a frame that takes longer than a beat."""
        for beat in range(1, int((gone - leaves) / BEAT)):
            share = beat * BEAT / (gone - leaves)
            when = leaves + beat * BEAT + link.latency
            self._at(when, self._arrived, link, to, Arriving(sender, int(share * n_bytes)))

    def _travel(
        self, link: Link, way: Direction, sender: PeerId, to: PeerId, message: Any, data: Any, now: float
    ) -> None:
        if type(data) is Loan and data.is_over:
            return
        dice, weather = self._dice.random, self.weather
        if weather.gaps and dice() < weather.gaps:
            return
        when = now + link.latency * (1 + weather.jitter * dice())
        if weather.loss and dice() < weather.loss:
            when += 0.2 + 0.8 * dice()
        # Read now: whatever stands in that memory is what is sent.
        data = bytes(data)
        arrived, lane = way.arrived, 1 if data else 0
        if when < arrived[lane]:
            when = arrived[lane]
        arrived[lane] = when
        self._at(when, self._arrived, link, to, Received(sender, message, data))

    def _arrived(self, link: Link, to: PeerId, frame: Received | Arriving) -> None:
        if self.links.get(link.ends) is link:
            self._deliver(to, frame)
