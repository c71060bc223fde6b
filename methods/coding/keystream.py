"""Shared randomness: the same numbers on every peer, from what all of them know already.

    key   = BLAKE2b-256(label | each part with its length before it)
    words = the ChaCha20 keystream of that key, read as little-endian 32-bit words

A keystream is defined to the last bit, on every machine and for ever. The generators of numpy and torch
are defined for one version and one kind of device, so peers must never share a seed of those.
"""

from hashlib import blake2b
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

Words: TypeAlias = npt.NDArray[np.uint32]

KEY_BYTES: Final = 32
# Each key is used for one stream from its start, so the nonce (and the block counter in it) may be zero.
_NONCE: Final = bytes(16)


def derive_key(label: str, *parts: bytes) -> bytes:
    """Return the 32-byte key that stands for these parts under a label of at most 16 letters."""
    digest = blake2b(digest_size=KEY_BYTES, person=label.encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def uniform_words(key: bytes, count: int) -> Words:
    """Return so many numbers, uniform in [0, 2^32), of a key's stream."""
    encryptor = Cipher(ChaCha20(key, _NONCE), mode=None).encryptor()
    return np.frombuffer(encryptor.update(bytes(4 * count)), "<u4").astype(np.uint32)
