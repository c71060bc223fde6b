"""The words every protocol core speaks: events in, effects out.

A core is a state machine. It is told what happened (`Received`, `PeerFound`, `PeerLost`,
`TimerFired`, or a command of its own) and the time, and returns what to do about it (`Send`,
`Publish`, `Dial`, `SetTimer`, `Notify`). It never waits, never reads a clock, never draws a number it was not
given dice for, and never raises on what a peer sent. So the same code runs under trio over libp2p,
and a thousand times a second in the simulator.

Bulk bytes travel beside their message, never inside it (`Send.data`, `Received.data`): nothing
copies or encodes a tensor on its way through a core.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from shoal.crypto.keys import PeerId
from shoal.gossip.messages import PeerMessage, Records
from shoal.gossip.scope import USER, Teller

if TYPE_CHECKING:
    from shoal.gossip.member.commands import Notice

Vector: TypeAlias = npt.NDArray[np.float32]
"""float32, one dimension, C-contiguous."""

Data: TypeAlias = memoryview | bytes
"""Bulk bytes beside a message: raw little-endian numbers."""


class TakenBack(Exception):
    """What was lent is not there any more."""


class Loan:
    """Bulk bytes in a buffer that will be reused. Once the loan ends, unsent bytes are dropped.

    So a slow peer, which others may have given up, never receives numbers of a later round.
    """

    __slots__ = ("_view", "is_over")

    def __init__(self, view: memoryview) -> None:
        """`view`: what is lent."""
        self._view = view
        self.is_over = False
        """Whether the bytes may be others by now."""

    @property
    def view(self) -> memoryview:
        """The bytes.

        Raises:
            TakenBack: they may be others by now.
        """
        if self.is_over:
            raise TakenBack
        return self._view

    def end(self) -> None:
        """Take it back: the memory is about to be written."""
        self.is_over = True

    def __len__(self) -> int:
        """Return how many bytes were lent."""
        return self._view.nbytes

    def __bytes__(self) -> bytes:
        """Return a copy; raises as `view` does."""
        return bytes(self.view)


@dataclass(frozen=True, slots=True)
class Received:
    """A message arrived from a peer whose identity the link has proved."""

    peer: PeerId
    message: PeerMessage
    data: Data = b""
    head: bytes = field(default=b"", compare=False, repr=False)
    """As it came, signed by its sender: what may be shown to others."""


class Arriving(msgspec.Struct, frozen=True):
    """A bulk message of a peer is on its way, and not here yet."""

    peer: PeerId
    n_bytes: int
    """As much of it has come."""


@dataclass(frozen=True, slots=True)
class PeerFound:
    """A link to this peer is up."""

    peer: PeerId
    address: str = ""
    """As it was dialled; empty where the peer dialled us. A dial that leads to a peer already found
    ends in a second event."""
    link: str = "direct"
    """Its class: direct or relayed."""
    host: str = field(default="", compare=False)
    """The other end's IP address; empty on a circuit."""


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The last link to this peer is gone."""

    peer: PeerId


class Timer(Enum):
    """What a node waits for; each timer has one time, or none."""

    BEAT = "beat"
    DIALS = "dials"
    MATCHMAKING = "matchmaking"
    FINISH_EARLY = "finish early"
    ALL_REDUCE = "all-reduce"
    GATHER = "gather"
    PUSH_SUM = "push-sum"
    PUSH_SUM_GRACE = "push-sum grace"
    SERVING = "serving"
    FETCH = "fetch"
    CALLS = "calls"
    BASE = "base"


class TimerFired(msgspec.Struct, frozen=True):
    """The time given in a `SetTimer` of this name has come."""

    name: Timer


SAME_IDENTITY: Final = "same identity"
"""Why a dial failed: another node has our key."""
TOO_MANY: Final = "too many links"
"""Why a dial failed: this node has as many links as it may."""
NO_PLACE: Final = "no place there"
"""Why a dial failed: the other node has as many links as it may, and holds no place for us."""
FAST_LINK_DENIED: Final = "fast link denied"
"""Why a dial failed: somebody on the way kept two nodes of ours from agreeing on our links."""
NOT_FOR_US: Final = "not for us to dial"
"""Why a dial failed: a name heard from somebody else stands for addresses that he may not name."""
BANNED: Final = "banned"
"""Why a dial failed: the founders of the run banned one of the two, or a user refuses the other."""
OWN_ADDRESS: Final = "own address"
"""Why a dial failed: it led to this node itself."""


@dataclass(frozen=True, slots=True)
class DialFailed:
    """A `Dial` did not lead to a link."""

    address: str
    reason: str
    """One of refused, timeout, unreachable, wrong key, wrong swarm, not a multiaddr, same identity, own
    address, banned, not a shoal node, other private network, too many links, no place there, fast link
    denied, own fault (of this node: its log says more); or a sentence on wire versions that do not fit."""


@dataclass(frozen=True, slots=True)
class Learned:
    """An address became known from outside the protocol: mDNS, the DHT, the peer book."""

    address: str
    source: str


class Send(msgspec.Struct, frozen=True):
    """Send a message to a peer. Delivery is not promised; order between two peers is."""

    peer: PeerId
    message: PeerMessage
    data: Data | Loan = b""

    @property
    def is_void(self) -> bool:
        """Whether what it carries was taken back."""
        return isinstance(self.data, Loan) and self.data.is_over


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell everyone who listens, by GossipSub. Cheap for us, not for the swarm: use rarely."""

    message: Records


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a link to a multiaddr that ends in /p2p/PEER, or to a bare address."""

    address: str
    teller: Teller = USER
    """Who named it: what a name stands for is dialled only as far as that allows."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the links to this peer."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class ProbeLink:
    """Look whether the links to this peer still live: it was silent where it should have spoken."""

    peer: PeerId


class SetTimer(msgspec.Struct, frozen=True):
    """Fire `TimerFired(name)` at this time. Setting a name again moves it; `at` infinity stops it."""

    at: float
    name: Timer


class Notify(msgspec.Struct, frozen=True):
    """A result for whoever runs the core."""

    notice: "Notice"


Happening: TypeAlias = Received | Arriving | PeerFound | PeerLost | TimerFired | DialFailed | Learned
"""What happens to a member, but for the commands of its node (member/commands.py)."""
Effect: TypeAlias = Send | Publish | Dial | Drop | ProbeLink | SetTimer | Notify
Effects: TypeAlias = list[Effect]
