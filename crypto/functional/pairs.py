"""One-time keys of peers, and from them shares of zero: each is uniform, and all of them add up to zero.

    k_ij     = BLAKE2b-256(key = X25519(own secret, their public), context | both public keys, sorted)
    share_i  = sum over j > i of PRF(k_ij)  -  sum over j < i of PRF(k_ij)

The PRF is BLAKE2b-512, and shares are scalars modulo q. Any k - 1 of k shares are uniform and independent of
what is added to them, for whoever knows none of the keys between the two peers that he looks at. k - 1 peers
together know the rest.

A key serves one context. For a second one it refuses: sums under the same masks give away their difference.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final

import nacl.exceptions
import nacl.utils
from nacl import bindings

from shoal.crypto.errors import AlreadyUsed, BadKey
from shoal.crypto.functional.group import ORDER, scalar_from_uniform

PUBLIC_BYTES: Final = 32
MIN_PEERS: Final = 3
"""Of two, one takes its own number from the sum and knows the other's."""


class OneTimeKey:
    """The X25519 key of one peer for one attempt at one sum. It is never written anywhere."""

    __slots__ = ("_context", "_secret", "public")

    def __init__(self, seed: bytes | None = None) -> None:
        """Make a new key. `seed`: 32 bytes in place of the system's randomness, for golden vectors alone.

        Raises:
            BadKey: the seed has another length.
        """
        secret = nacl.utils.random(32) if seed is None else seed
        if len(secret) != 32:
            raise BadKey("a seed has 32 bytes")
        self._secret = secret
        self._context: bytes | None = None
        self.public: bytes = bindings.crypto_scalarmult_base(secret)
        """32 bytes, for all to see."""

    def __repr__(self) -> str:
        """Show the public half alone."""
        return f"OneTimeKey({self.public.hex()[:8]}…)"

    def __reduce__(self) -> str:
        """Refuse to be pickled."""
        raise TypeError("a one-time key is not written anywhere")

    def zero_scalars(self, publics: Sequence[bytes], context: bytes, count: int) -> list[int]:
        """Return our share of `count` zeros modulo q, in the context of these peers.

        Raises:
            AlreadyUsed: the key served another context.
            BadKey: a public key is none, comes twice, or ours is not among them; or they are fewer than 3.
        """
        shares = [0] * count
        for sign, key in self._pairs(publics, context):
            for place in range(count):
                word = blake2b(place.to_bytes(8, "little"), key=key, person=b"shoal/zero share").digest()
                shares[place] += sign * scalar_from_uniform(word)
        return [share % ORDER for share in shares]

    def _pairs(self, publics: Sequence[bytes], context: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield a sign and a key for every other peer.

        Raises:
            AlreadyUsed, BadKey: see `zero_scalars`.
        """
        if self._context not in (None, context):
            raise AlreadyUsed("this key served another sum; make a new one for every attempt")
        if len(publics) < MIN_PEERS or len(set(publics)) != len(publics) or self.public not in publics:
            raise BadKey(f"a sum takes {MIN_PEERS} or more unlike public keys, ours among them")
        self._context = context
        for other in publics:
            if other != self.public:
                yield (1 if other > self.public else -1), self._shared(other, context)

    def _shared(self, other: bytes, context: bytes) -> bytes:
        agreed = _agree(self._secret, other)
        if agreed is None:
            raise BadKey("a public key of another peer is none")
        both = b"".join(sorted((self.public, other)))
        return blake2b(context + both, key=agreed, digest_size=32, person=b"shoal/pair key").digest()


def is_public_key(data: bytes) -> bool:
    """Tell whether bytes can be a peer's public key: others give every peer the same pair key."""
    return _agree(bytes([1]) * 32, data) is not None


def _agree(secret: bytes, public: bytes) -> bytes | None:
    # libsodium reads 32 bytes whatever the length, and refuses points of small order.
    if len(public) != PUBLIC_BYTES:
        return None
    try:
        return bindings.crypto_scalarmult(secret, public)
    except (nacl.exceptions.CryptoError, RuntimeError):
        return None
