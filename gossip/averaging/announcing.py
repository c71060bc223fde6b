"""Announcing: what every member says of its contribution before it gives it, and what is held against it.

The part of an all-reduce (all_reduce.py) that knows of weights and norms: each member announces its own,
takes those of the others (announced.py), hands them on to who lacks them, and judges by them what it is
given and what comes of it (ledger.py).
"""

from abc import abstractmethod
from typing import ClassVar, Final, TypeAlias

import msgspec
import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.announced import CLIPPED_ROWS, ROWS, Announced, pack_norms
from shoal.gossip.averaging.attendance import UNNAMED, Attendance
from shoal.gossip.averaging.chunks import Chunks
from shoal.gossip.averaging.ledger import Ledger, Verdict, members_of
from shoal.gossip.averaging.origin import Origin
from shoal.gossip.averaging.tensor_codecs import Feedback
from shoal.gossip.deadlines import LONGEST
from shoal.gossip.events import Data, Drop, Effects, Send, Vector
from shoal.gossip.group import Group
from shoal.gossip.messages import Announce, Announcements, SignedAnnounce, Unannounced
from shoal.gossip.policies.masking import Masking
from shoal.gossip.policies.privacy import NO_PRIVACY, Privacy
from shoal.gossip.run_spec import CHUNK_NUMEL, Combine

MAX_ASKED_ABOUT: Final = 256
"""Sets of announcements that one member is asked for."""
ShownMean: TypeAlias = tuple[int, int, bytes, Data]
"""A mean: its ballot, its contributors as a mask, the digest of their announcements, and its numbers."""


class ExchangeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an exchange goes by."""

    silence_timeout: float = 15.0
    """Seconds without a sign of a member we wait for, after which it counts as lost; learned."""
    slow_timeout: float = 60.0
    """Seconds without a byte of a member that lives and is waited for, after which it is cut; learned."""
    longest: float = LONGEST
    """Seconds by which bytes that move put that off, all in all; learned."""
    max_norm: float = 1e15
    """The largest Euclidean norm of a chunk that is believed."""
    codec: str = "float32"
    """How numbers travel (gossip/averaging/tensor_codecs.py). Equal on all peers."""
    chunk_numel: int = CHUNK_NUMEL
    """Numbers that are sent, checked and reduced at once. Equal on all members of a group."""
    exact: int = 0
    """So many numbers at the end of the vector travel as float32. Equal on all peers."""
    combine: Combine = "mean"
    """What is made of the contributions (gossip/averaging/bounds.py). Equal on all peers."""
    grid_bits: int = 8
    """Bits of a number of a secure sum (gossip/averaging/secure/integer_grid.py). Equal on all peers."""
    privacy: Privacy = NO_PRIVACY
    """What a secure sum does for privacy. Equal on all peers."""
    masking: Masking | None = None
    """The grid of a secure sum, where the ask fixes it. Equal on all peers."""


def is_sane(numbers: Vector, max_norm: float = 1e15) -> bool:
    """Tell whether numbers may take part: finite, and not absurdly large."""
    # One pass: a NaN or an infinity anywhere makes the square sum not finite. This product warns of nothing.
    return bool(np.vdot(numbers, numbers) <= max_norm**2)


class Announcing(Attendance):
    """See the module's docstring."""

    GRAIN: ClassVar[int] = 1
    """So many numbers are never cut apart."""

    def __init__(
        self,
        me: PeerId,
        group: Group,
        index: int,
        vector: Vector,
        weight: float,
        config: ExchangeConfig,
        feedback: Feedback | None,
        origin: Origin,
        ask: bytes = UNNAMED,
        discount: float = 1.0,
    ) -> None:
        """See `AllReduce`."""
        super().__init__(me, group, index, ask)
        self.config = config
        self._weight, self._discount = weight, discount
        self._chunks = Chunks(
            vector, group.parts, config.chunk_numel, config.codec, feedback, config.exact, origin, self.GRAIN
        )
        newcomers = frozenset(self._number[peer] for peer in group.newcomers)
        self._announced = Announced(len(group.members), newcomers, config.max_norm, config.combine)
        self._ledger = Ledger(self._mine, self._chunks, self._announced)
        self._is_bounded = origin.kind != "exact"
        self._asked_of: dict[int, set[bytes]] = {}
        """By member: about which announcements we have asked it."""

    @property
    def origin(self) -> Origin:
        """What the contribution is measured from."""
        return self._chunks.origin

    @abstractmethod
    def _lose(self, member: int, now: float) -> Effects:
        """Go on without a member."""

    @abstractmethod
    def _try_again(self, now: float) -> Effects:
        """Go on with what waited for an announcement."""

    def _violation(self, member: int, reason: str, now: float) -> Effects:
        return [Drop(self._members[member], reason), *self._lose(member, now)]

    def _announce(self) -> Effects:
        """Tell all how much our contribution weighs, and how large it is in each part."""
        origin, clips = self._chunks.origin, self.config.combine == "clip"
        rows = [[0.0] * len(self._members) for _ in range(CLIPPED_ROWS if clips else ROWS)]
        last = origin.last_name if clips and origin.name else b""
        for part in range(len(self._members)):
            for chunk in range(self._chunks.count(part)):
                numbers = self._chunks.own(part, chunk)
                raw = self._chunks.squares(part, chunk, numbers, is_based=False)
                based, apart = raw, (0.0, 0.0)
                if last:
                    based, apart = self._chunks.squares_apart(part, chunk, numbers)
                elif origin.name:
                    based = self._chunks.squares(part, chunk, numbers, is_based=True)
                for row, more in zip(rows, (*based, *raw, *apart), strict=False):
                    row[part] += more
        norms = pack_norms(np.sqrt(rows))
        said = (self._weight, origin.name, origin.mixes, norms, self.ask, self._discount, last)
        announce = Announce(self.group.id, self.index, *said)
        if last:
            self._announced.last_name = last
            self._announced.lengths = [self._chunks.last_lengths(part) for part in range(len(self._members))]
        self._announced.add(self._mine, SignedAnnounce(self._members[self._mine], announce))
        return self._to_all(announce)

    def _handle_announced(
        self, member: int, message: Announce | Announcements | Unannounced, now: float
    ) -> Effects:
        if isinstance(message, Unannounced):
            # Of ourselves there is no sealed word to hand on: ours went to all.
            asked = {*members_of(int.from_bytes(message.members, "big"))} - {self._mine}
            told = self._announced.signed(sorted(asked))
            answer = Announcements(self.group.id, self.index, told)
            return [Send(self._members[member], answer)] if told else []
        if self.is_over or not self._is_bounded:
            return []
        if isinstance(message, Announce):
            announced: tuple[SignedAnnounce, ...] = (SignedAnnounce(self._members[member], message),)
        else:
            announced = message.announced
        effects: Effects = []
        for signed in announced:
            effects += self._take_announcement(signed, now)
        effects += self._try_again(now)
        return effects

    def _take_announcement(self, signed: SignedAnnounce, now: float) -> Effects:
        author = self._number.get(signed.author, self._mine)
        if author == self._mine or self.is_over:
            return []
        if self._is_other_ask(signed.announce):
            return self._exchange_nothing_with(author, now)
        if not self._announced.is_sound(signed.announce):
            return self._violation(author, "announcement of another size, or not finite", now)
        if self._announced.add(author, signed):
            return self._violation(author, "announced two things", now)
        return []

    def _ask_about(self, member: int, mask: int, digest: bytes) -> Effects:
        """Ask who shows a mean by whose announcements it was made; once for each such set."""
        asked = self._asked_of.setdefault(member, set())
        if digest in asked or len(asked) >= MAX_ASKED_ABOUT:
            return []
        asked.add(digest)
        return [Send(self._members[member], Unannounced(self.group.id, self.index, mask.to_bytes(8, "big")))]

    def _is_left_out_of(self, mask: int, digest: bytes) -> bool:
        """Whether a mean lacks us whose owner has our contribution: it names fewer, to be bound by less."""
        members = members_of(mask)
        if not self._is_bounded or self._mine in members:
            return False
        return self._mine in self._ledger.contributors([*members, self._mine])[0]

    def _judge(self, part: int, chunk: int, shown: ShownMean, ballot: int, mean: Vector) -> Verdict:
        """Judge a mean, as one of those of its part under a ballot."""
        _, mask, digest, _ = shown
        if not self._is_bounded:
            return Verdict.FINE if self._is_sane(mean) else Verdict.OUTSIDE
        return self._ledger.judge(part, chunk, ballot, mask, digest, mean)

    def _is_as_announced(
        self, part: int, chunk: int, member: int, numbers: Vector, base: bytes, last: bytes
    ) -> bool:
        if not self._is_bounded:
            return self._is_sane(numbers)
        return self._ledger.is_given(part, chunk, member, numbers, base, last)

    def _is_sane(self, numbers: Vector, slack: float = 1.0) -> bool:
        # `slack` for means: rounding must not make a mean worse than everything in it.
        return is_sane(numbers, slack * self.config.max_norm)
