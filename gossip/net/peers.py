"""What the host remembers about a peer: its links, its lanes, and what waits for it or from it."""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
import trio

from shoal.crypto.keys import PeerId
from shoal.gossip.host import FrameReceived, HostEvent
from shoal.gossip.net.frames import BULK, CONTROL, PREFIX, Outbox

WIRE: Final = (3, 1)
"""(major, minor) of what this build says on the wire; docs/wire.md lists each.

Nodes of different majors part at the hello. The minor counts additions that older nodes can do without."""
FEATURES: Final[tuple[str, ...]] = ("calls",)
"""Words for what this build can do beyond its wire version. A receiver ignores those it does not know."""
MAX_HELLO_BYTES: Final = 4096
MAX_BACKLOG_BYTES: Final = 16 << 20
"""Received and not yet taken, per peer; above it the peer is not read."""
MAX_BACKLOG_FRAMES: Final = 2048
MAX_IN_A_ROW: Final = 8
"""Events that are taken without letting other tasks run; eight chunks are reduced in about 4 ms."""


Version = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
Feature = Annotated[str, msgspec.Meta(max_length=24)]


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """The first frame on every control stream. Later versions may append fields.

    The major stands first and alone, as it did before there were minors, so that nodes of wire 1 can read it.
    """

    major: Version
    swarm: Annotated[str, msgspec.Meta(max_length=200)]
    instance: Annotated[bytes, msgspec.Meta(max_length=16)]
    """Drawn when the process starts: tells a restarted node from two nodes with one key."""
    refusal: Annotated[str, msgspec.Meta(max_length=100)] = ""
    """Why the sender will close this link; empty where it will not."""
    minor: Version = 0
    features: Annotated[tuple[Feature, ...], msgspec.Meta(max_length=32)] = ()
    observed: Annotated[str, msgspec.Meta(max_length=100)] = ""
    """The receiver's end of this link as the sender sees it, a multiaddr; empty on circuits."""
    invite: Annotated[bytes, msgspec.Meta(max_length=2048)] = b""
    """What lets the sender in where places lack, if it has such."""

    @property
    def wire(self) -> tuple[int, int]:
        """The sender's wire version."""
        return self.major, self.minor

    def mismatch(self) -> str:
        """Say in one sentence why nodes of these two wire versions part, or nothing. Equal on both sides."""
        if self.major == WIRE[0]:
            return ""
        older, newer = (".".join(map(str, wire)) for wire in sorted((self.wire, WIRE)))
        return f"wire {older} and wire {newer} do not fit: update shoal on the node of wire {older}"

    def frame(self) -> bytes:
        """Return the whole frame."""
        head = _encode_hello(self)
        return PREFIX.pack(len(head), 0) + head


_encode_hello = msgspec.msgpack.Encoder().encode
decode_hello = msgspec.msgpack.Decoder(Hello).decode


@dataclass(slots=True, eq=False)
class Link:
    """One connection to a peer. `connection` and `control` are the library's."""

    connection: Any
    peer: "Peer"
    address: str
    kind: str
    is_initiator: bool
    remote: str
    """Where the other end is, without its identity; empty on circuits."""
    host: str
    """Its IP address alone."""
    dialled: str
    """The address as it was given to `dial_nowait`, while that dial has not ended; else empty."""
    instance: bytes = b""
    observed: str = ""
    """Where we are, as the other end sees it."""
    lanes: Counter[str] = field(default_factory=Counter)
    """Streams of each lane that the peer has open."""
    judged: trio.Event = field(default_factory=trio.Event)
    """The peer's hello was read."""
    refusal: str = ""
    """Why we refuse it; decided when it is judged."""
    control: Any = None
    """Our control stream, once our hello is on it."""
    ending: bool = False
    """Not to be used any more: it is being closed, or gone."""
    uses: set[trio.CancelScope] = field(default_factory=set)
    """Writers on this link; they move on when it ends."""

    @property
    def is_good(self) -> bool:
        """Whether the peer's hello was right and the link has not ended."""
        return self.judged.is_set() and not self.refusal and not self.ending

    def stop_using(self) -> None:
        """Send nothing more over this link."""
        self.ending = True
        for scope in self.uses:
            scope.cancel()


@dataclass(slots=True, eq=False)
class Reading:
    """A stream on which a lane of a peer is being read."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    taken: int = 0
    """Bytes of the stream that the frames so far were made of."""
    done: trio.Event = field(default_factory=trio.Event)


def _outboxes() -> dict[str, Outbox]:
    return {lane: Outbox(lane) for lane in (CONTROL, BULK)}


@dataclass(slots=True, eq=False)
class Peer:
    """Everything about one peer while there are links or frames for it."""

    id: PeerId
    links: list[Link] = field(default_factory=list)
    found: bool = False
    """Announced, and not lost since."""
    wanted: str = ""
    """The address that was dialled for frames that wait."""
    changed: trio.Event = field(default_factory=trio.Event)
    outboxes: dict[str, Outbox] = field(default_factory=_outboxes)
    writers: trio.CancelScope = field(default_factory=trio.CancelScope)
    readings: dict[str, Reading] = field(default_factory=dict)
    sent: int = 0
    received: int = 0
    backlog_bytes: int = 0
    backlog_frames: int = 0
    drained: trio.Event = field(default_factory=trio.Event)

    @property
    def is_full(self) -> bool:
        """Whether so much from it waits that it is not read for now."""
        return self.backlog_bytes >= MAX_BACKLOG_BYTES or self.backlog_frames >= MAX_BACKLOG_FRAMES

    async def wait_drained(self) -> None:
        """Wait until so little waits that it is read again."""
        while self.is_full:
            # Several lanes may wait: none of them must lose the event of another.
            if self.drained.is_set():
                self.drained = trio.Event()
            await self.drained.wait()

    def add_sent(self, size: int) -> None:
        """Count payload bytes."""
        self.sent += size

    def touch(self) -> None:
        """Let the waiting look at the links again."""
        self.changed.set()
        self.changed = trio.Event()

    def best_link(self) -> Link | None:
        """Return the link for the lanes: the oldest that works, a relayed one only if it is all."""
        usable = [link for link in self.links if link.is_good and link.control is not None]
        return min(usable, key=lambda link: link.kind == "relayed", default=None)

    def stop_writing(self) -> None:
        """Throw away what waits, as nobody is there."""
        self.writers.cancel()
        self.writers = trio.CancelScope()
        for outbox in self.outboxes.values():
            outbox.close()
        self.outboxes = _outboxes()


class Answered:
    """The linked peers that have said our hello."""

    def __init__(self, peers: Mapping[PeerId, Peer]) -> None:
        """`peers`: a host's."""
        self._peers = peers

    def __contains__(self, peer: object) -> bool:
        """Tell whether a peer is one of them."""
        entry = self._peers.get(PeerId(str(peer)))
        return entry is not None and entry.found


class Tasks:
    """Tasks of a host, which end with it."""

    def __init__(self) -> None:
        """Not running yet."""
        self.nursery: trio.Nursery | None = None

    def start(self, function: Any, *args: Any) -> None:
        """Run a function beside all others; nothing, where the host does not run."""
        if self.nursery is not None:
            self.nursery.start_soon(function, *args)


class Events:
    """What happened and nobody has taken yet, in order."""

    def __init__(self) -> None:
        """Start empty."""
        self._waiting: deque[tuple[HostEvent, Peer | None]] = deque()
        self._filled = trio.Event()
        self._taken = 0

    def put(self, event: HostEvent, peer: Peer | None = None) -> None:
        """Append an event; `peer` is charged for it until it is taken."""
        if peer is not None and isinstance(event, FrameReceived):
            peer.backlog_frames += 1
            peer.backlog_bytes += len(event.head) + len(event.data)
        self._waiting.append((event, peer))
        self._filled.set()

    async def next(self) -> HostEvent:
        """Wait for an event."""
        # What has arrived goes before what may still arrive, or memory fills with it.
        self._taken += 1
        if self._taken >= MAX_IN_A_ROW or not self._waiting:
            self._taken = 0
            await trio.lowlevel.checkpoint()
        while not self._waiting:
            self._filled = trio.Event()
            await self._filled.wait()
        event, peer = self._waiting.popleft()
        if peer is not None and isinstance(event, FrameReceived):
            peer.backlog_frames -= 1
            peer.backlog_bytes -= len(event.head) + len(event.data)
            if not peer.is_full:
                peer.drained.set()
        return event
