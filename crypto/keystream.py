"""Keystream: bytes that nobody can tell from random ones without the key, the same for all who have it.

Call k gives what AEGIS-128L, as in libsodium, makes of zeros. The first half of the key is its key, and the
sum of k and the second half its nonce. With AES instructions it is four times as fast as ChaCha20: see
docs/decisions/21-cheaper-masks.md. A key is for one stream: what a second one hid would be plain.
Denis and Lucas, The AEGIS Family of Authenticated Encryption Algorithms (draft-irtf-cfrg-aegis-aead).
"""

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from nacl.bindings import crypto_aead_aegis128l_encrypt

try:
    # What PyNaCl itself calls. Its function of bytes writes zeros first and copies what comes of it, which
    # takes as long as the cipher.
    from nacl._sodium import ffi as _ffi  # type: ignore[import-not-found]
    from nacl._sodium import lib as _lib
except ImportError:  # a PyNaCl that is built otherwise
    _ffi = _lib = None

KEY_BYTES: Final = 32
HALF: Final = KEY_BYTES // 2
MAX_CALL: Final = 1 << 20
"""Bytes of one call."""


Words = npt.NDArray[np.uint64]
Room = npt.NDArray[np.uint8]
PIECE: Final = 32_768
"""Words that are masked at a time: what is in between stays in the cache."""
TAG: Final = 32
"""Bytes that the cipher writes after the stream, at most."""


class Keystream:
    """See the module's docstring."""

    __slots__ = ("_key", "_next")

    def __init__(self, key: bytes) -> None:
        """`key`: 32 bytes, uniform, for this stream alone."""
        if len(key) != KEY_BYTES:
            raise ValueError("a keystream takes a key of 32 bytes")
        self._key, self._next = key[:HALF], int.from_bytes(key[HALF:], "little")

    def __repr__(self) -> str:
        """Say no secret."""
        return "Keystream()"

    def draw(self, n_bytes: int) -> bytes:
        """Return so many bytes, at most 1 MiB; they differ from those of another cut into calls."""
        return self._sealed(n_bytes)[:n_bytes]

    def mask(self, words: Words, *, is_minus: bool = False) -> None:
        """Add the stream to words, uint64 [n], or take it away, modulo 2^64, in place."""
        room = np.empty(8 * min(words.size, PIECE) + TAG, np.uint8)
        for at in range(0, words.size, PIECE):
            some = words[at : at + PIECE]
            stream = fill(room, some.nbytes, self._nonce(), self._key)
            if is_minus:
                some -= stream
            else:
                some += stream

    def _sealed(self, n_bytes: int) -> bytes:
        if n_bytes > MAX_CALL:
            raise ValueError("a call of a keystream gives 1 MiB at most")
        return crypto_aead_aegis128l_encrypt(_zeros(n_bytes), None, self._nonce(), self._key)

    def _nonce(self) -> bytes:
        """Return that of this call."""
        nonce = self._next.to_bytes(HALF, "little")
        self._next = (self._next + 1) % (1 << 8 * HALF)
        return nonce


def fill_in_place(room: Room, n_bytes: int, nonce: bytes, key: bytes) -> Words:
    """Write a call's bytes into `room`, uint8 [n_bytes + TAG at least], and return them as words."""
    written = _ffi.new("unsigned long long *")
    target, zeros = _ffi.from_buffer("unsigned char[]", room), _zeros(n_bytes)
    failed = _lib.crypto_aead_aegis128l_encrypt(
        target, written, zeros, n_bytes, _ffi.NULL, 0, _ffi.NULL, nonce, key
    )
    if failed or written[0] > room.size:
        raise RuntimeError("the cipher of masks failed")
    return room[:n_bytes].view("<u8")


def fill_by_copy(room: Room, n_bytes: int, nonce: bytes, key: bytes) -> Words:
    """Return the same by PyNaCl's function of bytes, which leaves `room` alone."""
    sealed = crypto_aead_aegis128l_encrypt(_zeros(n_bytes), None, nonce, key)
    return np.frombuffer(sealed, "<u8", n_bytes // 8)


fill: Final = fill_by_copy if _lib is None else fill_in_place


@lru_cache(maxsize=4)
def _zeros(n_bytes: int) -> bytes:
    return bytes(n_bytes)
