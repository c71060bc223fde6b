"""Inner products on encrypted numbers: all open sum_n y_n x_n, and nobody sees an x_n. No server, no dealer.

The scheme is the multi-client one of Chotard, Dufour Sans, Gay, Phan, Pointcheval, "Decentralized
Multi-Client Functional Encryption for Inner Product", ASIACRYPT 2018, https://eprint.iacr.org/2017/989. Its
key shares are put together with pairwise masks, without pairings, as Abdalla, Benhamouda, Kohlweiss,
Waldner, PKC 2019, https://eprint.iacr.org/2019/020, show for schemes whose keys are linear. In the subgroup
of edwards25519 (group.py), written with plus, with (u_1, u_2) = H(label):

    peer n      s_n in Z_q^2, fresh for every attempt;   c_n = s_n1 u_1 + s_n2 u_2 + x_n g
    peer n      D_n = y_n s_n + (its share of zero, pairs.py);   sum D_n = d = sum y_n s_n
    everyone    sum y_n c_n - (d_1 u_1 + d_2 u_2) = (sum y_n x_n) g, and then a small discrete logarithm

    agreement = Agreement(context, keys, weights, values=…, bound=…)      the same on all peers
    sealed    = secret.encrypt(agreement, numbers)      --> to all
    share     = secret.key_share(agreement, all sealed) --> to all, once everyone holds the same ciphertexts
    sums      = open_sums(agreement, all sealed, all shares)

What it gives. Some peers keep to the protocol, but pool what they saw. As long as two peers do not join them,
they learn the weighted sums alone. That is the papers' theorem for one label per number (`one_label` false).
It rests on the decisional Diffie-Hellman problem in this group, and on hashes as random oracles. A share
opens one list of ciphertexts under one list of weights: both are part of the masks, so that shares for
unlike lists do not fit together. A secret encrypts once and gives one share, then it forgets its scalars.

What it does not give. With `one_label`, all numbers of a peer have the same mask: the difference of any two
of them is for everyone to see, without any key (`open_tables` uses just that). Nothing proves that a
ciphertext holds what a peer should have encrypted: a liar can make the sum wrong, or make it fail to open.
All peers but one always learn the last one's numbers from the sum. Without one share nothing opens. The
papers' second layer, for incomplete sets of ciphertexts, is not here. The code is Python: its timing is not
constant. Nobody outside has reviewed it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import nacl.utils

from shoal.crypto.errors import AlreadyUsed, BadCiphertext, NotOpened
from shoal.crypto.functional import group
from shoal.crypto.functional.discrete_log import MAX_BOUND, find_log
from shoal.crypto.functional.group import ORDER, POINT_BYTES, SCALAR_BYTES
from shoal.crypto.functional.pairs import MIN_PEERS, OneTimeKey

SHARE_BYTES: Final = 2 * SCALAR_BYTES


@dataclass(frozen=True, slots=True)
class Agreement:
    """What all peers of a sum must hold alike, before anyone encrypts. Unlike ones never open together."""

    context: bytes
    """Of which run, round and attempt; never the same for two sums."""
    keys: tuple[bytes, ...]
    """Everyone's public key, in an order that all know; `OneTimeSecret.public`."""
    weights: tuple[int, ...]
    """y, in the order of the keys; 1 or more."""
    values: int
    """How many numbers each peer encrypts."""
    bound: int
    """No number of a peer is above this, or below its negative."""
    one_label: bool = False
    """Whether a peer's numbers share a label: then everyone sees how they differ; see above."""

    def __post_init__(self) -> None:
        """Refuse what cannot be safe, or cannot be opened.

        Raises:
            ValueError: there are fewer than 3 peers, keys that come twice, or a sum that may be too large.
        """
        if len(self.keys) < MIN_PEERS:
            raise ValueError(f"{len(self.keys)} peers: of fewer than {MIN_PEERS} a sum hides nothing")
        if len(set(self.keys)) != len(self.keys) or len(self.weights) != len(self.keys):
            raise ValueError("every peer has a key of its own, and a weight")
        if min(self.weights) < 1 or self.values < 1 or self.bound < 0:
            raise ValueError("weights and values are 1 or more, the bound is not negative")
        if self.largest_sum > MAX_BOUND:
            raise ValueError(
                f"a sum may be {self.largest_sum}, and {MAX_BOUND} is the most that can be opened"
            )

    @property
    def largest_sum(self) -> int:
        """The bound of the sums."""
        return self.bound * sum(self.weights)

    @property
    def digest(self) -> bytes:
        """32 bytes that stand for all of it."""
        fields = (
            self.context,
            b"".join(self.keys),
            repr((self.weights, self.values, self.bound, self.one_label)).encode(),
        )
        found = blake2b(digest_size=32, person=b"shoal/agreement")
        for each in fields:
            found.update(len(each).to_bytes(8, "little") + each)
        return found.digest()

    def hashed(self, place: int) -> tuple[bytes, bytes]:
        """Return H(label) of the number at this place: two points."""
        label = self.digest + (0 if self.one_label else place).to_bytes(8, "little")
        return group.hash_to_group(label + b"\x01"), group.hash_to_group(label + b"\x02")

    def check_ciphertext(self, sealed: bytes) -> None:
        """Check a peer's ciphertexts, as far as anybody can.

        Raises:
            BadCiphertext: they are not as many points as there are values.
        """
        if len(sealed) != self.values * POINT_BYTES or not _are_points(sealed):
            raise BadCiphertext("not as many points of the group as there are values")


class OneTimeSecret:
    """One peer's secrets for one attempt: encrypts once, gives one key share, and is then empty."""

    __slots__ = ("_agreed", "_key", "_scalars", "_sealed")

    def __init__(self, seed: bytes | None = None) -> None:
        """Make new ones. `seed`: 32 bytes in place of the system's randomness, for golden vectors alone.

        Raises:
            BadKey: the seed has another length.
        """
        self._key = OneTimeKey(seed)
        scalars = nacl.utils.random(128) if seed is None else nacl.utils.randombytes_deterministic(128, seed)
        self._scalars: tuple[int, int] | None = (
            group.scalar_from_uniform(scalars[:64]),
            group.scalar_from_uniform(scalars[64:]),
        )
        self._agreed, self._sealed = b"", b""

    def __repr__(self) -> str:
        """Show the public half alone."""
        return f"OneTimeSecret({self.public.hex()[:8]}…)"

    def __reduce__(self) -> str:
        """Refuse to be pickled."""
        raise TypeError("a one-time secret is not written anywhere")

    @property
    def public(self) -> bytes:
        """32 bytes, for `Agreement.keys`."""
        return self._key.public

    def encrypt(self, agreement: Agreement, numbers: Sequence[int]) -> bytes:
        """Return our numbers, encrypted: 32 bytes each.

        Raises:
            AlreadyUsed: this secret encrypted before. An attempt that failed needs a new one.
            ValueError: a number is out of bounds, there are more or fewer, or we are not in the agreement.
        """
        if self._agreed or self._scalars is None:
            raise AlreadyUsed("this secret encrypted before; make a new one for every attempt")
        if self.public not in agreement.keys or len(numbers) != agreement.values:
            raise ValueError(f"the agreement is of other peers, or of other than {len(numbers)} values")
        if any(abs(number) > agreement.bound for number in numbers):
            raise ValueError(f"a number is outside of ±{agreement.bound}; clip it before")
        self._agreed, (first, second) = agreement.digest, self._scalars
        sealed = []
        for place, number in enumerate(numbers):
            if place == 0 or not agreement.one_label:
                one, other = agreement.hashed(place)
                mask = group.add(group.multiply(first, one), group.multiply(second, other))
            sealed.append(group.add(mask, group.multiply_base(number)))
        self._sealed = b"".join(sealed)
        return self._sealed

    def key_share(self, agreement: Agreement, sealed: Sequence[bytes]) -> bytes:
        """Return our share of the key that opens these ciphertexts under these weights: 64 bytes.

        Give it to anyone only when all peers hold the same ciphertexts.

        Raises:
            AlreadyUsed: a share was given before. Two would open what one must not.
            BadCiphertext: ours is not among them, or one is malformed.
            ValueError: we encrypted under another agreement, or not yet.
        """
        if self._scalars is None:
            raise AlreadyUsed("this secret gave its share; a second one could open single numbers")
        if self._agreed != agreement.digest:
            raise ValueError("encrypt under this agreement first")
        place = agreement.keys.index(self.public)
        if len(sealed) != len(agreement.keys) or sealed[place] != self._sealed:
            raise BadCiphertext("our own ciphertext is not in its place")
        zero = self._key.zero_scalars(agreement.keys, _list_digest(agreement, sealed), 2)
        (first, second), weight = self._scalars, agreement.weights[place]
        self._scalars = None
        return group.scalar_bytes(weight * first + zero[0]) + group.scalar_bytes(weight * second + zero[1])


def check_share(share: bytes) -> None:
    """Check the form of a peer's key share.

    Raises:
        BadCiphertext: it is not two scalars below q.
    """
    if len(share) != SHARE_BYTES or any(number >= ORDER for number in _scalars(share)):
        raise BadCiphertext("not two scalars of the group's order")


def open_sums(agreement: Agreement, sealed: Sequence[bytes], shares: Sequence[bytes]) -> list[int]:
    """Return the weighted sum of the numbers at every place. Both lists are in the order of the keys.

    Raises:
        BadCiphertext: one has another form, or is missing.
        NotOpened: a sum is out of bounds: a share or a ciphertext belongs to another sum, or a peer lied.
    """
    _check(agreement, sealed, shares)
    key = _key(shares)
    points = [_points(each) for each in sealed]
    return [
        _opened(agreement, [each[place] for each in points], key, place) for place in range(agreement.values)
    ]


@dataclass(frozen=True, slots=True)
class Tables:
    """What can be opened where numbers share a label: the sum of first numbers, and how the others differ."""

    base: int
    """sum_n y_n x_n[0]."""
    differences: tuple[tuple[int, ...], ...]
    """x_n[j] - x_n[0], for each peer n: what this label shows of every peer, whatever the key."""


def open_tables(agreement: Agreement, sealed: Sequence[bytes], shares: Sequence[bytes]) -> Tables:
    """Return what opens the weighted sum of any choice of one number from each peer.

    Raises:
        BadCiphertext, NotOpened: see `open_sums`.
        ValueError: the numbers have labels of their own.
    """
    if not agreement.one_label:
        raise ValueError("numbers with labels of their own have no table; see open_sums")
    _check(agreement, sealed, shares)
    base = _opened(agreement, [each[:POINT_BYTES] for each in sealed], _key(shares), 0)
    return Tables(base, tuple(open_differences(each, agreement.bound) for each in sealed))


def open_differences(sealed: bytes, bound: int) -> tuple[int, ...]:
    """Return by how much the numbers under one label differ from the first. It takes no key.

    Raises:
        NotOpened: by more than twice the bound, as numbers under unlike labels do.
    """
    points = _points(sealed)
    found = [find_log(group.subtract(point, points[0]), 2 * bound) for point in points]
    if None in found:
        raise NotOpened("numbers differ by more than their bound allows")
    return tuple(each for each in found if each is not None)


def _check(agreement: Agreement, sealed: Sequence[bytes], shares: Sequence[bytes]) -> None:
    if not len(sealed) == len(shares) == len(agreement.keys):
        raise BadCiphertext("every peer gives its ciphertexts and its share")
    if any(len(each) != agreement.values * POINT_BYTES for each in sealed):
        raise BadCiphertext("not as many points of the group as there are values")
    for share in shares:
        check_share(share)


def _opened(agreement: Agreement, points: Sequence[bytes], key: tuple[int, int], place: int) -> int:
    # Peers of one weight are added first: adding takes a third of multiplying.
    total = group.IDENTITY
    for weight in sorted(set(agreement.weights)):
        part = group.IDENTITY
        for point, own in zip(points, agreement.weights, strict=True):
            part = group.add(part, point) if own == weight else part
        total = group.add(total, group.multiply(weight, part))
    one, other = agreement.hashed(place)
    mask = group.add(group.multiply(key[0], one), group.multiply(key[1], other))
    found = find_log(group.subtract(total, mask), agreement.largest_sum)
    if found is None:
        raise NotOpened("a sum is out of bounds")
    return found


def _key(shares: Sequence[bytes]) -> tuple[int, int]:
    both = [_scalars(share) for share in shares]
    return sum(first for first, _ in both) % ORDER, sum(second for _, second in both) % ORDER


def _scalars(share: bytes) -> tuple[int, int]:
    return int.from_bytes(share[:SCALAR_BYTES], "little"), int.from_bytes(share[SCALAR_BYTES:], "little")


def _points(sealed: bytes) -> list[bytes]:
    return [sealed[start : start + POINT_BYTES] for start in range(0, len(sealed), POINT_BYTES)]


@lru_cache(maxsize=32)
def _are_points(sealed: bytes) -> bool:
    # Whoever reads a body checks it, and whoever gives a share checks it again: 50 microseconds a point.
    return all(map(group.is_point, _points(sealed)))


def _list_digest(agreement: Agreement, sealed: Sequence[bytes]) -> bytes:
    found = blake2b(agreement.digest, digest_size=32, person=b"shoal/fe list")
    for each in sealed:
        agreement.check_ciphertext(each)
        found.update(blake2b(each, digest_size=32).digest())
    return found.digest()
