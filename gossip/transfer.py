"""Transfer: a state fetched from several donors at once, every chunk verified.

    asking --Offer: leaves hash to the state's name--> fetching --all chunks--> done
       '--------no donor left, or silence-----------------------------------> failed

The name of the state (gossip/statehash.py) comes from the signed records of many peers, so no
donor can make us take anything else: its leaf hashes must hash to the name, its chunks to the
leaves. A donor whose chunk does not verify is dropped by name. Chunks are asked for in small batches
from every donor, so fast donors carry more; what a lost donor owed is asked from the rest.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from crypto.keys import PeerId
from gossip.core import Data, Drop, Effects, Send, SetTimer, Vector
from gossip.messages import Chunk, Fetch, NotHeld, Offer, Want
from gossip.statehash import CHUNK_BYTES, LEAF_BYTES, leaf, n_chunks, root

TIMER: Final = "transfer"
BATCH: Final = 4
"""Chunks asked for at once from a donor: enough to hide a round trip, few enough to share out."""
MAX_DONORS: Final = 4
MAX_UNKNOWN_BYTES: Final = 256 << 20
"""The largest state that is fetched without knowing its run: a helper lends memory, but not all of it."""


@dataclass(slots=True)
class _Donor:
    has_offered: bool = False
    owed: set[int] = field(default_factory=set)
    heard: float = 0.0


class Fetching:
    """The fetching side of one state."""

    def __init__(
        self, state: bytes, round_: int, n_bytes: int | None, donors: tuple[PeerId, ...], stall: float
    ) -> None:
        """`n_bytes`: the size our run spec demands, nothing for a run that is not ours.

        `stall`: seconds until a silent donor is given up.
        """
        self.state, self.round = state, round_
        self.previous = b""
        self._is_size_known = n_bytes is not None
        self._allocate(n_bytes or 0)
        self.is_done = False
        self.failure = ""
        self.served: dict[PeerId, int] = {}
        self.failed: list[PeerId] = []
        """Donors that did not give what they claim to have."""
        self._donors = {peer: _Donor() for peer in donors[:MAX_DONORS]}
        self._spare = list(donors[MAX_DONORS:])
        self._leaves = b""
        self._stall = stall
        self._next_check = float("inf")

    def _allocate(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.vector: Vector = np.empty(n_bytes // 4, dtype=np.float32)
        self._missing = set(range(n_chunks(n_bytes)))

    def begin(self, now: float) -> Effects:
        """Ask the donors."""
        effects: Effects = []
        for peer, donor in self._donors.items():
            donor.heard = now
            effects.append(Send(peer, Want(self.state)))
        return effects + self._go_on(now)

    def handle(self, peer: PeerId, message: Offer | NotHeld | Chunk, data: Data, now: float) -> Effects:
        """A donor answered."""
        donor = self._donors.get(peer)
        if donor is None or message.state != self.state or self.is_over:
            return []
        donor.heard = now
        match message:
            case NotHeld():
                return self._fail(peer, now)
            case Offer():
                return self._handle_offer(peer, donor, message, bytes(data), now)
            case Chunk():
                return self._handle_chunk(peer, donor, message, data, now)

    def lost(self, peer: PeerId, now: float) -> Effects:
        """Go on without a donor."""
        if self._donors.pop(peer, None) is None or self.is_over:
            return []
        effects: Effects = []
        if self._spare:
            spare = self._spare.pop(0)
            self._donors[spare] = _Donor(heard=now)
            effects.append(Send(spare, Want(self.state)))
        return effects + self._go_on(now)

    def timer(self, now: float) -> Effects:
        """Give up on silent donors."""
        effects: Effects = []
        if now > self._next_check + self._stall / 2:
            # Our own process slept: that is nobody's silence.
            for donor in self._donors.values():
                donor.heard = now
        for peer in [p for p, donor in self._donors.items() if now >= donor.heard + self._stall]:
            effects += self._fail(peer, now)
        return effects + self._go_on(now)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.is_done or bool(self.failure)

    def _fail(self, peer: PeerId, now: float) -> Effects:
        self.failed.append(peer)
        return self.lost(peer, now)

    def _handle_offer(
        self, peer: PeerId, donor: _Donor, message: Offer, leaves: bytes, now: float
    ) -> Effects:
        n_bytes = message.n_bytes
        if not self._is_size_known and (n_bytes > MAX_UNKNOWN_BYTES or n_bytes % 4):
            return self._fail(peer, now)
        right_size = not self._is_size_known or n_bytes == self.n_bytes
        if (
            not right_size
            or len(leaves) != LEAF_BYTES * n_chunks(n_bytes)
            or root(leaves, n_bytes) != self.state
        ):
            return [Drop(peer, "offer does not hash to the state"), *self._fail(peer, now)]
        if not self._is_size_known:
            self._allocate(n_bytes)
            self._is_size_known = True
        # The round is not in the hash; it comes from the records of many and is only checked here.
        if message.round == self.round and not self.previous:
            self.previous = message.previous
        self._leaves = leaves
        donor.has_offered = True
        return self._go_on(now)

    def _handle_chunk(self, peer: PeerId, donor: _Donor, message: Chunk, data: Data, now: float) -> Effects:
        index = message.chunk
        if index not in donor.owed:
            return []
        lo = index * CHUNK_BYTES
        size = min(CHUNK_BYTES, self.n_bytes - lo)
        expected = self._leaves[index * LEAF_BYTES : (index + 1) * LEAF_BYTES]
        if len(data) != size or leaf(data) != expected:
            return [Drop(peer, "chunk of a state does not verify"), *self._fail(peer, now)]
        donor.owed.discard(index)
        if index in self._missing:
            self._missing.discard(index)
            self.vector.data.cast("B")[lo : lo + size] = data
            self.served[peer] = self.served.get(peer, 0) + 1
        return self._go_on(now)

    def _go_on(self, now: float) -> Effects:
        if self.is_over:
            return []
        if not self._missing and self._leaves:
            self.is_done = True
            return [SetTimer(float("inf"), TIMER)]
        if not self._donors:
            self.failure = "no peer that holds the swarm's state answered"
            return [SetTimer(float("inf"), TIMER)]
        effects: Effects = []
        asked = set().union(*(donor.owed for donor in self._donors.values()))
        for peer, donor in self._donors.items():
            if not donor.has_offered or donor.owed:
                continue
            free = sorted(self._missing - asked)[:BATCH]
            # At the end, help with what slower donors still owe: the first answer counts.
            free = free or sorted(self._missing - donor.owed)[:1]
            if free:
                donor.owed |= set(free)
                asked |= set(free)
                effects.append(Send(peer, Fetch(self.state, tuple(free))))
        self._next_check = min(donor.heard for donor in self._donors.values()) + self._stall
        return [*effects, SetTimer(self._next_check, TIMER)]
