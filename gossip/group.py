"""A group of peers that average together, and what their exchange came to."""

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b

from shoal.crypto.keys import PeerId
from shoal.gossip.run_spec import CHUNK_NUMEL


@dataclass(frozen=True, slots=True)
class Group:
    """Peers that average together in a round."""

    id: bytes
    round: int
    members: tuple[PeerId, ...]
    """In the order in which sums are taken: that of the grid, the same in every round of one group."""
    shares: tuple[int, ...]
    """By member: how large a part it reduces."""
    chunk_numel: int = CHUNK_NUMEL
    """Numbers per chunk, as the group's commit says."""
    newcomers: frozenset[PeerId] = frozenset()
    """Members that count for little yet, in an open run: the commit names them."""
    parent: bytes = b""
    """Of an ask among some members of a round's group: the id of that group."""

    def among(self, peers: Collection[PeerId]) -> "Group":
        """Return the group of these members, for one ask; others of the same round may ask among others."""
        held = [(peer, share) for peer, share in zip(self.members, self.shares, strict=True) if peer in peers]
        if len(held) == len(self.members):
            return self
        members, shares = tuple(peer for peer, _ in held), tuple(share for _, share in held)
        text = b"".join([self.id, *(f"/{peer}".encode() for peer in members)])
        name = blake2b(text, digest_size=16, person=b"shoal/scope").digest()
        newcomers = self.newcomers & frozenset(members)
        return Group(name, self.round, members, shares, self.chunk_numel, newcomers, self.id)

    @property
    def turn(self) -> int:
        """By how many places owners have moved on: part p is that of member p + turn, at first.

        So nobody reduces the same coordinates in every round, while sums keep their order.
        """
        return self.round % len(self.members)

    @property
    def parts(self) -> tuple[int, ...]:
        """By part: the share of the member that reduces it at first."""
        return self.shares[self.turn :] + self.shares[: self.turn]


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The exchange is complete: the buffer holds the mean."""

    masks: tuple[tuple[int, ...], ...]
    """Per part, per chunk: the contributors as a bit mask over the group's members."""
    contributors: tuple[PeerId, ...]
    """The members that are in every chunk, sorted."""
    takeovers: int
    """How many parts changed their owner."""

    @property
    def fewest(self) -> int:
        """How many contributed to the chunk with the fewest contributors; 1 of an empty vector."""
        return min((mask.bit_count() for masks in self.masks for mask in masks), default=1)


@dataclass(frozen=True, slots=True)
class Bodies:
    """The gather is complete: the agreed bodies, sorted by peer id."""

    bodies: tuple[tuple[PeerId, bytes], ...]

    @property
    def fewest(self) -> int:
        """How many contributed."""
        return len(self.bodies)
