"""Announced: what the members of one exchange said of their contributions, and what follows from it.

    Announce   member -> all, signed, before its first chunk
    Reduced    owner -> members; names a digest of the announcements that its mean is made by
    Unannounced    member -> owner: I lack what this mean was made by
    Announcements      the answer: what others announced, as they signed it

A member that tells two members different things is found where an owner's digest is not a receiver's: both
signed announcements are then in one place. The mean stands, since its owner went by what it was told; the
author of the two is dropped.

Norms are in four rows, a number per part: of the distance from the state that the member starts from, without
and for the model's buffers, and of the vector itself, again without and for the buffers. Where a run clips
around the last change two more follow, of the distance from that, which are zero of a member that lacks it.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import product
from math import inf
from typing import Final

import msgspec
import numpy as np

from shoal.gossip.averaging import bounds
from shoal.gossip.averaging.bounds import LOOSE, Stated, Terms
from shoal.gossip.events import Vector
from shoal.gossip.messages import MAX_WEIGHT, Announce, SignedAnnounce
from shoal.gossip.run_spec import Combine

ROWS: Final = 4
CLIPPED_ROWS: Final = 6
MAX_VERSIONS: Final = 2
"""Of one member: the second is the proof that it lies, and a third adds nothing."""
MAX_TRIES: Final = 64
"""Ways to choose among versions that are tried for a digest."""


@dataclass(frozen=True, slots=True)
class PartTerms:
    """What the contributors of a chunk come to in its part."""

    base: bytes
    """The state that norms are distances from; empty: the vectors' own norms are meant."""
    numbers: Terms
    buffers: Terms
    last_name: bytes = b""
    """The last change that contributions are clipped around; empty: they are not."""


def pack_norms(rows: Iterable[Iterable[float]]) -> bytes:
    """Return norms as they travel, rounded up so that no contribution has more than announced."""
    exact = np.array([list(row) for row in rows], np.float64)
    rounded = exact.astype("<f4")
    return np.where(rounded < exact, np.nextafter(rounded, np.float32(np.inf)), rounded).tobytes()


class Announced:
    """The announcements of one exchange. See the module's docstring."""

    def __init__(
        self, n_members: int, newcomers: frozenset[int], max_norm: float, combine: Combine = "mean"
    ) -> None:
        """`newcomers`: members that count for little; `max_norm`: of a part, that is believed."""
        self._combine = combine
        self._rows = CLIPPED_ROWS if combine == "clip" else ROWS
        self.lengths: list[tuple[float, float]] = []
        """Norms of the last change by part, without and of buffers, where this member knows it."""
        self.last_name = b""
        """Which one it knows."""
        self._n, self._newcomers, self._max_norm = n_members, newcomers, max_norm
        self._held: dict[int, list[tuple[bytes, SignedAnnounce]]] = {}
        self._norms: dict[bytes, Vector] = {}
        self._said: dict[bytes, Announce] = {}
        self._terms: dict[tuple[tuple[bytes, ...], int], PartTerms] = {}
        self._found: dict[tuple[tuple[int, ...], bytes], tuple[bytes, ...]] = {}
        """What digests stand for that were found out, by members: that of a chunk is the next one's too."""
        self._ceilings: dict[tuple[int, bytes], tuple[float, float]] = {}
        self._common: bytes | None = None

    def is_sound(self, announce: Announce) -> bool:
        """Tell whether an announcement is one: of this group's size, and finite."""
        if len(announce.norms) != 4 * self._rows * self._n:
            return False
        if not (0 <= announce.weight <= MAX_WEIGHT and 0 < announce.discount <= 1):
            return False
        norms = np.frombuffer(announce.norms, "<f4")
        return bool((norms >= 0).all() and (norms <= self._max_norm).all())

    def add(self, member: int, signed: SignedAnnounce) -> bool:
        """Take a sound announcement; tells whether its author has said something else before."""
        name = self._name(member, signed.announce)
        known = self._held.setdefault(member, [])
        if all(name != other for other, _ in known) and len(known) < MAX_VERSIONS:
            known.append((name, signed))
            self._common = None
            self._ceilings.clear()
            self._said[name] = signed.announce
            self._norms[name] = np.frombuffer(signed.announce.norms, "<f4").reshape(self._rows, self._n)
        return len(known) > 1

    @property
    def members(self) -> AbstractSet[int]:
        """Who has announced something."""
        return self._held.keys()

    def first(self, members: Iterable[int]) -> tuple[bytes, ...]:
        """Return the names of what members of whom something is held said first."""
        return tuple(self._held[member][0][0] for member in members)

    def find(self, members: list[int], digest: bytes) -> tuple[bytes, ...] | None:
        """Return the names of the announcements that a digest stands for, where all of them are held."""
        key = (tuple(members), digest)
        if (known := self._found.get(key)) is not None:
            return known
        if any(member not in self._held for member in members):
            return None
        versions = ([name for name, _ in self._held[member]] for member in members)
        for tried, names in enumerate(product(*versions)):
            if digest_of(names) == digest:
                self._found[key] = names
                return names
            if tried >= MAX_TRIES:
                break
        return None

    def signed(self, members: Iterable[int]) -> tuple[SignedAnnounce, ...]:
        """Return all that is held of these members, as their authors signed it."""
        return tuple(signed for member in members for _, signed in self._held.get(member, ()))

    def base(self, names: Iterable[bytes]) -> bytes:
        """Return the state that those who said this have in common, or nothing."""
        said = [self._said[name] for name in names]
        return bounds.agreed_base([b"" if each.mixes else each.base for each in said])

    @property
    def common(self) -> bytes:
        """The state that half or more of those start from of whom anything is held."""
        if self._common is None:
            self._common = self.base(self.first(self._held))
        return self._common

    def base_of(self, name: bytes) -> bytes:
        """Return the state that the author of an announcement starts from."""
        return self._said[name].base

    def last(self, members: list[int], names: tuple[bytes, ...]) -> bytes:
        """Return the last change that most of those know who said this, newcomers aside; or nothing."""
        if self._combine != "clip":
            return b""
        old = [name for member, name in zip(members, names, strict=True) if member not in self._newcomers]
        return bounds.agreed_last([self._said[name].last for name in old or names])

    def aparts(self, name: bytes, part: int, last_name: bytes) -> tuple[float, float] | None:
        """Return the norms of a contribution's distance from a change; nothing where its author lacks it."""
        if not last_name or self._said[name].last != last_name:
            return None
        norms = self._norms[name]
        return float(norms[ROWS, part]), float(norms[ROWS + 1, part])

    def norms(self, name: bytes, part: int, base: bytes) -> tuple[float, float]:
        """Return the norms of a contribution to a part, without and of buffers; from `base` if not empty."""
        row, norms = self._row(base), self._norms[name]
        return float(norms[row, part]), float(norms[row + 1, part])

    def terms(self, members: list[int], names: tuple[bytes, ...], part: int) -> PartTerms:
        """Return what contributors that said this come to in a part."""
        known = self._terms.get((names, part))
        if known is None:
            base = self.base(names)
            known = self._terms[names, part] = self._make_terms(members, names, part, base)
        return known

    def ceiling(self, part: int, base: bytes) -> tuple[float, float]:
        """Return the largest norms that a part of any mean may have, by all that was announced here."""
        known = self._ceilings.get((part, base))
        if known is None:
            members = [
                member for member in self._held if not base or self.base_of(self.first([member])[0]) == base
            ]
            names, row = self.first(members), self._row(base)
            loose = bounds.CEILING * (1.0 if base else LOOSE) * bounds.stretch(self._combine, len(names))
            numbers = bounds.cap_of(self._claims(members, names, part, row), loose)
            has_buffers = self._has_any(names, part, row + 1)
            buffers = self._claims(members, names, part, row + 1) if has_buffers else ()
            known = numbers, bounds.cap_of(buffers, loose) if buffers else 0.0
            self._ceilings[part, base] = known
        return known

    def _make_terms(self, members: list[int], names: tuple[bytes, ...], part: int, base: bytes) -> PartTerms:
        row, loose = self._row(base), 1.0 if base else LOOSE
        last = self.last(members, names) if base else b""
        if last:
            return self._clip(members, names, part, base, last)
        made = bounds.terms(self._claims(members, names, part, row), loose, self._combine)
        if not self._has_any(names, part, row + 1):
            return PartTerms(base, made, Terms(made.weights, made.weights, 0.0))
        buffers = self._claims(members, names, part, row + 1)
        return PartTerms(base, made, bounds.terms(buffers, loose, self._combine))

    def _clip(
        self, members: list[int], names: tuple[bytes, ...], part: int, base: bytes, last: bytes
    ) -> PartTerms:
        known = self.lengths[part] if last == self.last_name else (inf, inf)
        made = []
        for row in range(2):
            claims = []
            for claim, name in zip(self._claims(members, names, part, row), names, strict=True):
                aparts = self.aparts(name, part, last)
                claims.append(claim if aparts is None else replace(claim, apart=aparts[row]))
            made.append(bounds.clipped_terms(claims, known[row]))
        return PartTerms(base, made[0], made[1], last)

    def _claims(self, members: list[int], names: tuple[bytes, ...], part: int, row: int) -> list[Stated]:
        return [
            Stated(said.weight, float(self._norms[name][row, part]), member in self._newcomers, said.discount)
            for member, name in zip(members, names, strict=True)
            for said in (self._said[name],)
        ]

    def _has_any(self, names: tuple[bytes, ...], part: int, row: int) -> bool:
        return any(self._norms[name][row, part] for name in names)

    def _row(self, base: bytes) -> int:
        return 0 if base else 2

    def _name(self, member: int, announce: Announce) -> bytes:
        return blake2b(member.to_bytes(1, "big") + msgspec.msgpack.encode(announce), digest_size=16).digest()


def digest_of(names: Iterable[bytes]) -> bytes:
    """Return the digest of announcements by their names, in member order."""
    return blake2b(b"".join(names), digest_size=16).digest()
