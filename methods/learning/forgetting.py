"""What a node was asked to forget, and what it noted of it. Local: nothing of it is ever sent.

The command `shoal forget` writes a `Request`; a round reads it, and leaves a `Note`. Rounds count by their
notes, so that a node that was away goes on where it stood.
"""

from typing import Annotated, Protocol

import msgspec

Class = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be forgotten. An example is, if any of the three says so."""

    classes: tuple[Class, ...] = ()
    """All own examples of these labels."""
    peer_data: bool = False
    """All own examples."""
    places: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] = ()
    """Of a trigger: which numbers of a flattened input carry it."""
    values: tuple[float, ...] = ()
    """And what these numbers are there."""
    rounds: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 4
    """Rounds in which the node unlearns; afterwards it trains on what is left."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What one round did, as this node measured it on its own examples."""

    round: int
    forgotten: int
    """Own examples that are to be forgotten."""
    before: float
    """Accuracy on these before the round."""
    after: float
    """And at the state that the round led to."""
    kept_before: float | None
    """Accuracy on the other own examples; None where there are none."""
    kept_after: float | None
    state_before: str
    """Hashes of the states, in hex, as `shoal status` shows them."""
    state_after: str
    peers: tuple[str, ...]
    """Whose sum it was."""
    unlearned: bool
    """Whether this node unlearned in the round, or only left these examples out."""


class Forgetting(Protocol):
    """The local switch; on disk: node/storage/forget_file.py."""

    def request(self) -> Request | None:
        """Return what was asked for; None if nothing."""
        ...

    def unlearned(self) -> int:
        """Return how many rounds have unlearned by this request."""
        ...

    def note(self, note: Note) -> None:
        """Keep a note; a second one of a round takes the first one's place."""
        ...
