"""The prime-order subgroup of edwards25519, as bytes, over libsodium: points, scalars, hashing to the group.

    g       the standard base point, of prime order q = 2^252 + 27742317777372353535851937790883648493
    point   32 bytes, compressed; scalar: a Python integer, taken modulo q

libsodium refuses the zero scalar and the identity where it multiplies; here both are ordinary.

Nobody knows the logarithm of a hashed point: the hash is a sum of two Elligator images, not a multiple of g
by a number that one could compute.
"""

from hashlib import sha512
from typing import Final

from nacl import bindings

ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""q, how many points the subgroup has."""
POINT_BYTES: Final = 32
SCALAR_BYTES: Final = 32
IDENTITY: Final = bytes([1]) + bytes(31)


def scalar_bytes(scalar: int) -> bytes:
    """Return a scalar modulo q, 32 bytes, little-endian."""
    return (scalar % ORDER).to_bytes(SCALAR_BYTES, "little")


def scalar_from_uniform(data: bytes) -> int:
    """Return the scalar of 64 uniform bytes, uniform up to 2^-252."""
    return int.from_bytes(data, "little") % ORDER


def add(one: bytes, other: bytes) -> bytes:
    """Return the sum of two points."""
    return bindings.crypto_core_ed25519_add(one, other)


def subtract(one: bytes, other: bytes) -> bytes:
    """Return the difference of two points."""
    return bindings.crypto_core_ed25519_sub(one, other)


def multiply(scalar: int, point: bytes) -> bytes:
    """Return a multiple of a point of the subgroup."""
    if point == IDENTITY or scalar % ORDER == 0:
        return IDENTITY
    if scalar == 1:
        return point
    return bindings.crypto_scalarmult_ed25519_noclamp(scalar_bytes(scalar), point)


def multiply_base(scalar: int) -> bytes:
    """Return a multiple of g."""
    if scalar % ORDER == 0:
        return IDENTITY
    return bindings.crypto_scalarmult_ed25519_base_noclamp(scalar_bytes(scalar))


def is_point(data: bytes) -> bool:
    """Tell whether bytes are a point of the subgroup other than the identity, in their only form."""
    return len(data) == POINT_BYTES and bool(bindings.crypto_core_ed25519_is_valid_point(data))


def hash_to_group(label: bytes) -> bytes:
    """Return the point of a label: SHA-512, both halves mapped by Elligator, and added."""
    digest = sha512(label).digest()
    halves = digest[:32], digest[32:]
    return add(*(bindings.crypto_core_ed25519_from_uniform(half) for half in halves))
