"""Bodies: gathered bytes of peers become checked values, the same on every peer.

    gather --> (peer, bytes) sorted by peer --read--> (peer, value), the unreadable left out and counted

`read` is a pure function of the bytes and of what all peers share, so all leave out the same. A body
larger than a gather takes travels in slices, whose number follows from a bound that all peers know.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.errors import RemoteViolation
from shoal.methods.base import Steps, gather

T = TypeVar("T")

SLICE_BYTES: Final = 4 << 20
"""What a gather takes; gossip/averaging/gather.py refuses more."""


@dataclass(frozen=True, slots=True)
class Bodies(Generic[T]):
    """What a gather brought."""

    values: tuple[tuple[PeerId, T], ...]
    """Sorted by peer."""
    refused: int
    """Bodies that no correct peer sends."""
    me: PeerId
    """Which of the peers we are."""

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Whose body was read."""
        return tuple(peer for peer, _ in self.values)


def exchange(
    body: bytes, read: Callable[[bytes], T], *, tag: str, bound: int = SLICE_BYTES
) -> Steps[Bodies[T]]:
    """Gather, in as many slices as a body of `bound` bytes needs, and read what came.

    A peer that is missing in one slice is left out. `read` raises `RemoteViolation` for a bad body.

    Raises:
        GossipError: no group formed, or too few were left.
        ValueError: our own body is larger than the bound.
    """
    if len(body) > bound:
        raise ValueError(f"a body of {len(body)} bytes where all peers expect at most {bound}")
    slices = max(1, -(-bound // SLICE_BYTES))
    joined: dict[PeerId, bytes] = {}
    for i in range(slices):
        part = body[i * SLICE_BYTES : (i + 1) * SLICE_BYTES]
        gathered = yield from gather(part, tag=tag if slices == 1 else f"{tag} {i + 1} of {slices}")
        arrived = dict(gathered.bodies)
        known = arrived if i == 0 else joined.keys() & arrived.keys()
        joined = {peer: joined.get(peer, b"") + arrived[peer] for peer in sorted(known)}
    return read_all(joined.items(), read, gathered.me)


def read_all(bodies: Iterable[tuple[PeerId, bytes]], read: Callable[[bytes], T], me: PeerId) -> Bodies[T]:
    """Read every body; one that `read` refuses is left out and counted. `me`: which of the peers we are."""
    values, refused = [], 0
    for peer, body in bodies:
        try:
            values.append((peer, read(body)))
        except RemoteViolation:
            refused += 1
    return Bodies(tuple(values), refused, me)


def unpack(body: bytes, decode: Callable[[bytes], T]) -> T:
    """Decode a msgpack body of a peer.

    Raises:
        RemoteViolation: it has another form.
    """
    try:
        return decode(body)
    # Text that is no UTF-8, and nesting without end, are not among the errors of msgspec.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteViolation("body is malformed", str(error)) from error
