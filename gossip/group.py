"""A group of peers that average together, and what their exchange came to."""

from dataclasses import dataclass

from shoal.crypto.keys import PeerId
from shoal.gossip.run_spec import CHUNK_NUMEL


@dataclass(frozen=True, slots=True)
class Group:
    """Who averages together in a round."""

    id: bytes
    round: int
    members: tuple[PeerId, ...]
    """In the order in which sums are taken: that of the grid, the same in every round of one group."""
    shares: tuple[int, ...]
    chunk_numel: int = CHUNK_NUMEL
    """Numbers per chunk, as the group's commit says."""


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The exchange is complete: the buffer holds the mean."""

    masks: tuple[tuple[int, ...], ...]
    """Per part, per chunk: the contributors as a bit mask over the group's members."""
    contributors: tuple[PeerId, ...]
    """Who is in every chunk, sorted."""
    takeovers: int
    """How many parts changed their owner."""
