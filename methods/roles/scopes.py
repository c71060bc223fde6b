"""Scopes: what only some nodes of a run hold, averaged among those that hold it.

A scope is a word, such as ``lora/tool-7`` or the name of a node's task. In each round the nodes of a group
say which scopes they hold; then each set of two holders or more has an all-reduce of its own, of all scopes
that they share. Such exchanges go on side by side, and nobody is sent what it does not hold.

    means = yield from means_by_scope({"lora/tool-7": vector}, weight=learner.examples)

What comes of it is the same on a scope's holders and on nobody else, so it is no part of `State.params`:
keep it in `State.private`. A node that comes to hold a scope begins with what it has.

A round begins with an ask of all, which the words are. A method that uses scopes declares
``about.body_bound``: a false word makes a peer one of a mean, where it counts as any other does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Vector
from shoal.methods.base import Averaged, Steps, all_reduce, gather

MAX_SCOPES: Final = 32
"""Of one node."""
Words = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=64)], ...],
    msgspec.Meta(max_length=MAX_SCOPES),
]
_decode = msgspec.msgpack.Decoder(Words).decode


@dataclass(frozen=True, slots=True)
class Holders:
    """Who of a round's group holds what."""

    me: PeerId
    by_scope: Mapping[str, tuple[PeerId, ...]]
    """Sorted, by scope in its order: the same for all of the group."""

    def groups(self) -> list[tuple[PeerId, ...]]:
        """Return each set of two peers or more that hold a scope, once."""
        return sorted({peers for peers in self.by_scope.values() if len(peers) > 1})


def holders(*words: str) -> Steps[Holders]:
    """Ask who of the round's group holds which scope.

    `words`: the scopes that this node holds. A peer whose body is none holds nothing.

    Raises:
        GossipError: no group formed, or too few were left.
        ValueError: there are more than 32 words, or one is empty or longer than 64 characters.
    """
    try:
        own = msgspec.convert(tuple(sorted(set(words))), Words)
    except msgspec.ValidationError as error:
        raise ValueError(f"scopes: {error}; a node holds up to {MAX_SCOPES} of 1 to 64 characters") from None
    told = yield from gather(msgspec.msgpack.encode(own), tag="scopes")
    found: dict[str, list[PeerId]] = {}
    for peer, body in told.bodies:
        try:
            held = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        for word in set(held):
            found.setdefault(word, []).append(peer)
    return Holders(told.me, {word: tuple(sorted(found[word])) for word in sorted(found)})


def means_by_scope(held: Mapping[str, Vector], *, weight: float) -> Steps[Mapping[str, Averaged]]:
    """Return, of each scope that this node holds, the weighted mean of its holders' vectors.

    `held`: scope -> float32 [n], as long on all holders. A scope that nobody else in the group holds comes
    back as it is.

    Raises:
        GossipError: no group formed, too few were left, or holders ask for unlike things.
        ValueError: as `holders`.
    """
    found = yield from holders(*held)
    means = {word: Averaged(vector, (found.me,)) for word, vector in held.items()}
    for number, peers in enumerate(found.groups()):
        # Asks are numbered: who holds nothing of it passes.
        is_in = found.me in peers
        words = [word for word in sorted(held) if found.by_scope.get(word) == peers] if is_in else []
        given = np.concatenate([np.zeros(0 if words else 1, np.float32), *(held[word] for word in words)])
        among = peers if is_in else (found.me,)
        mean = yield from all_reduce(given, weight=weight, tag=f"scope {number}", among=among)
        cuts = np.cumsum([held[word].size for word in words])
        parts = np.split(mean.vector, cuts[:-1]) if words else []
        means |= {word: Averaged(part, mean.contributors) for word, part in zip(words, parts, strict=True)}
    return means
