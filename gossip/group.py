"""A group of peers that average together, and what their exchange came to."""

from dataclasses import dataclass

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
