"""Encrypted sums: peers open a weighted sum of integers, exactly, and no peer's own integers. No server.

    keys     --> everyone's one-time public key and number of examples; they fix members and weights
    sealed   --> everyone's integers, encrypted for exactly these members
    shares   --> a key share, given once all hold the same ciphertexts
    opened   <-- by everyone, the same integers

Two ways, one outcome. A peer that falls out between two of the steps leaves a part of the key that nobody
has, so the others begin anew without it, with fresh keys: an attempt. Where a sum does not open, a peer lied:
the round fails with a `GossipError`, and the state stays. Sums under masks are the node's own
(gossip/averaging/secure/masked_sum.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Final, Literal, Protocol, TypeAlias

import msgspec
import numpy as np

from shoal.crypto.errors import BadCiphertext, NotOpened
from shoal.crypto.functional.inner_product import (
    SHARE_BYTES,
    Agreement,
    OneTimeSecret,
    check_share,
    open_sums,
    open_tables,
)
from shoal.crypto.functional.pairs import MIN_PEERS, PUBLIC_BYTES, is_public_key
from shoal.crypto.keys import PeerId
from shoal.gossip.errors import GossipError, LeftOut, RemoteViolation, TooFew
from shoal.gossip.policies.caps import cap
from shoal.methods.base import Steps
from shoal.methods.coding.gathered import Bodies, exchange, unpack
from shoal.methods.enccluster.grid import Integers
from shoal.methods.enccluster.mapping import Form, mapping_bound, read_mapping, write_mapping

Mode: TypeAlias = Literal["masked-grid", "fe-dense", "fe-paper"]

ATTEMPTS: Final = 3
"""Tries of a round; who fell out of one is not in the next."""
MAX_LEVELS: Final = 16
"""Weights are whole numbers up to here."""
POINT_BYTES: Final = 32


class Claim(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a peer tells first."""

    public: bytes
    """Its key for this attempt."""
    examples: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]


_CLAIM: Final = msgspec.msgpack.Decoder(Claim)


@dataclass(frozen=True, slots=True)
class Members:
    """Who takes part in an attempt, and how much each counts."""

    peers: tuple[PeerId, ...]
    keys: tuple[bytes, ...]
    weights: tuple[int, ...]
    context: bytes
    """Of which state, round and attempt, and of whom."""

    @property
    def total(self) -> int:
        """The sum of the weights."""
        return sum(self.weights)


@dataclass(frozen=True, slots=True)
class Opened:
    """A sum that was opened."""

    sums: Integers
    """The weighted sum, int64 [n]."""
    members: Members
    attempts: int
    sealed_bytes: int
    """Of our own body."""


class Way(Protocol):
    """How integers are sealed; one object for one peer and one attempt."""

    public: bytes
    """The key of this attempt."""

    def seal(self, members: Members) -> bytes:
        """Return our integers for these members."""
        ...

    def read(self, members: Members, body: bytes) -> bytes:
        """Return a peer's sealed body, checked.

        Raises:
            RemoteViolation: no correct peer sends it.
        """
        ...

    def bound(self, members: Members) -> int:
        """Return the most bytes of a sealed body."""
        ...

    def share(self, members: Members, sealed: Sequence[bytes]) -> bytes:
        """Return our key share for these bodies."""
        ...

    def open(self, members: Members, sealed: Sequence[bytes], shares: Sequence[bytes]) -> Integers:
        """Return the weighted sum.

        Raises:
            NotOpened: it is out of bounds.
        """
        ...


class FunctionalDense:
    """Every integer encrypted under a label of its own."""

    def __init__(self, numbers: Integers, top: int) -> None:
        """`numbers`: ours, int64 [n]. `top`: none is beyond it."""
        self._numbers, self._top, self._secret = numbers, top, OneTimeSecret()
        self.public = self._secret.public

    def seal(self, members: Members) -> bytes:
        """See `Way`."""
        return self._secret.encrypt(self._agreement(members), self._numbers.tolist())

    def read(self, members: Members, body: bytes) -> bytes:
        """See `Way`."""
        return checked(self._agreement(members), body)

    def bound(self, members: Members) -> int:
        """See `Way`."""
        return POINT_BYTES * self._numbers.size

    def share(self, members: Members, sealed: Sequence[bytes]) -> bytes:
        """See `Way`."""
        return self._secret.key_share(self._agreement(members), sealed)

    def open(self, members: Members, sealed: Sequence[bytes], shares: Sequence[bytes]) -> Integers:
        """See `Way`."""
        return np.array(open_sums(self._agreement(members), sealed, shares), np.int64)

    def _agreement(self, members: Members) -> Agreement:
        return Agreement(
            members.context, members.keys, members.weights, values=self._numbers.size, bound=self._top
        )


@dataclass(frozen=True, slots=True)
class Codebook:
    """Integers in few values."""

    values: tuple[int, ...]
    """At most kappa."""
    indices: Integers
    """Of each number, which value it has; int64 [n]."""


class FunctionalPaper:
    """The paper's: kappa values encrypted under one label, and in the open which number has which value.

    Everyone sees how a peer's values differ: all of it but a constant. See docs/methods/enccluster.md.
    """

    def __init__(self, codebook: Codebook, top: int, kappa: int, form: Form) -> None:
        """`top`: no value is beyond it. `form`: how the mapping travels."""
        self._book, self._top, self._kappa, self._form = codebook, top, kappa, form
        self._secret = OneTimeSecret()
        self.public = self._secret.public

    def seal(self, members: Members) -> bytes:
        """See `Way`."""
        filled = [*self._book.values, *[0] * (self._kappa - len(self._book.values))]
        sealed = self._secret.encrypt(self._agreement(members), filled)
        return sealed + write_mapping(self._book.indices, self._kappa, self._form)

    def read(self, members: Members, body: bytes) -> bytes:
        """See `Way`."""
        checked(self._agreement(members), self._points(body))
        self._mapping(body)
        return body

    def bound(self, members: Members) -> int:
        """See `Way`."""
        return POINT_BYTES * self._kappa + mapping_bound(len(self._book.indices), self._kappa, self._form)

    def share(self, members: Members, sealed: Sequence[bytes]) -> bytes:
        """See `Way`."""
        return self._secret.key_share(self._agreement(members), [self._points(body) for body in sealed])

    def open(self, members: Members, sealed: Sequence[bytes], shares: Sequence[bytes]) -> Integers:
        """See `Way`."""
        tables = open_tables(self._agreement(members), [self._points(body) for body in sealed], shares)
        sums = np.full(len(self._book.indices), tables.base, np.int64)
        for body, differences, weight in zip(sealed, tables.differences, members.weights, strict=True):
            sums += weight * np.array(differences, np.int64)[self._mapping(body)]
        if (np.abs(sums) > self._top * members.total).any():
            raise NotOpened("a sum is out of bounds")
        return sums

    def _agreement(self, members: Members) -> Agreement:
        return Agreement(
            members.context,
            members.keys,
            members.weights,
            values=self._kappa,
            bound=self._top,
            one_label=True,
        )

    def _points(self, body: bytes) -> bytes:
        return body[: POINT_BYTES * self._kappa]

    def _mapping(self, body: bytes) -> Integers:
        return read_mapping(
            body[POINT_BYTES * self._kappa :], len(self._book.indices), self._kappa, self._form
        )


def checked(agreement: Agreement, body: bytes) -> bytes:
    """Return a peer's ciphertexts.

    Raises:
        RemoteViolation: they are none.
    """
    try:
        agreement.check_ciphertext(body)
    except BadCiphertext as error:
        raise RemoteViolation("a ciphertext is none") from error
    return body


def whole_weights(examples: Sequence[int], levels: int) -> tuple[int, ...]:
    """Return weights from 1 to `levels` in the proportion of the examples, at most three times the median."""
    most = cap(examples)
    counted = [min(count, most) for count in examples]
    largest = max(*counted, 1)
    return tuple(max(1, (2 * levels * count + largest) // (2 * largest)) for count in counted)


def secure_sums(make: "Maker", *, examples: int, levels: int, context: bytes) -> Steps[Opened]:
    """Open the weighted sum of everyone's integers.

    `make`: makes our `Way` for an attempt. `context`: of the state and the round, the same on all peers.

    Raises:
        TooFew: fewer than three peers were left.
        GossipError: no group formed, or the sum does not open.
    """
    gone: set[PeerId] = set()
    for attempt in range(ATTEMPTS):
        way = make()
        claim = msgspec.msgpack.encode(Claim(way.public, examples))
        claims = yield from exchange(claim, _read_claim, tag=f"keys {attempt}")
        members = _members(claims, gone, levels, context + bytes([attempt]))
        bound = way.bound(members)
        body = way.seal(members)
        sealed = yield from exchange(
            body, lambda data, way=way, members=members: way.read(members, data),  # type: ignore[misc]
            tag=f"sealed {attempt}", bound=bound,
        )  # fmt: skip
        gone |= set(members.peers) - set(sealed.peers)
        if gone & set(members.peers):
            continue
        bodies = _in_order(members, sealed)
        share = way.share(members, bodies)
        told = yield from exchange(share, _read_share, tag=f"shares {attempt}", bound=SHARE_BYTES)
        gone |= set(members.peers) - set(told.peers)
        if gone & set(members.peers):
            continue
        shares = _in_order(members, told)
        try:
            return Opened(way.open(members, bodies, shares), members, attempt + 1, len(body))
        except NotOpened as error:
            raise GossipError(
                f"the secure sum did not open ({error}): a peer sent what it should not"
            ) from error
    raise TooFew(f"peers fell out of all {ATTEMPTS} attempts at a secure sum")


class Maker(Protocol):
    """What makes a way with fresh keys."""

    def __call__(self) -> Way:
        """Make it."""
        ...


def _members(claims: Bodies[Claim], gone: set[PeerId], levels: int, context: bytes) -> Members:
    """Return who takes part.

    Raises:
        LeftOut: we do not.
        TooFew: fewer than three do.
    """
    taking = [(peer, claim) for peer, claim in claims.values if peer not in gone]
    if claims.me not in [peer for peer, _ in taking]:
        raise LeftOut("what this node sent in a secure sum did not reach the others")
    keys = tuple(claim.public for _, claim in taking)
    if len(set(keys)) < MIN_PEERS or len(set(keys)) < len(keys):
        raise TooFew(
            f"a secure sum takes {MIN_PEERS} peers or more, and {len(set(keys))} are here:"
            " of two, each would know the other's numbers"
        )
    peers = tuple(peer for peer, _ in taking)
    weights = whole_weights([claim.examples for _, claim in taking], levels)
    about = blake2b(context, digest_size=32, person=b"shoal/secure sum")
    about.update(repr((peers, weights)).encode() + b"".join(keys))
    return Members(peers, keys, weights, about.digest())


def _in_order(members: Members, bodies: Bodies[bytes]) -> list[bytes]:
    found = dict(bodies.values)
    return [found[peer] for peer in members.peers]


def _read_claim(body: bytes) -> Claim:
    claim = unpack(body, _CLAIM.decode)
    if len(claim.public) != PUBLIC_BYTES or not is_public_key(claim.public):
        raise RemoteViolation("a public key is none")
    return claim


def _read_share(body: bytes) -> bytes:
    try:
        check_share(body)
    except BadCiphertext as error:
        raise RemoteViolation("a key share is none") from error
    return body
