"""Keystream: the same for all who have the key, uniform for all others, never twice."""

from hashlib import blake2b

import numpy as np
import pytest

from shoal.crypto.keystream import MAX_CALL, PIECE, TAG, Keystream, fill, fill_by_copy, fill_in_place

KEY = bytes(range(32))


def test_it_is_that_of_the_golden_vector_and_another_in_every_call() -> None:
    stream = Keystream(KEY)
    first, second = stream.draw(1000), stream.draw(1000)
    assert blake2b(first, digest_size=8).hexdigest() == "5a23f4fe1d17df01"
    assert blake2b(second, digest_size=8).hexdigest() == "d26b6963849dc948"


def test_a_mask_is_the_stream_in_pieces_and_is_taken_away_again() -> None:
    words = np.zeros(PIECE + 100, np.uint64)
    Keystream(KEY).mask(words)
    stream = Keystream(KEY)
    assert words.tobytes() == stream.draw(8 * PIECE) + stream.draw(800)
    Keystream(KEY).mask(words, is_minus=True)
    assert not words.any()


@pytest.mark.parametrize("n_bytes", [8, 64, 1000, 8 * PIECE])
def test_both_ways_to_make_it_give_the_same_bytes(n_bytes: int) -> None:
    room, nonce = np.full(n_bytes + TAG, 7, np.uint8), bytes(range(16))
    copied = fill_by_copy(room, n_bytes, nonce, KEY[:16]).tobytes()
    assert np.all(room == 7)
    assert fill_in_place(room, n_bytes, nonce, KEY[:16]).tobytes() == copied
    assert fill is fill_in_place, "the slow way is for a PyNaCl that is built otherwise"


def test_the_last_nonce_is_followed_by_the_first() -> None:
    stream = Keystream(KEY[:16] + b"\xff" * 16)
    stream.draw(8)
    assert stream.draw(8) == Keystream(KEY[:16] + bytes(16)).draw(8)


@pytest.mark.parametrize("place", [0, 15, 16, 31])
def test_every_byte_of_the_key_counts(place: int) -> None:
    other = bytes(byte ^ (at == place) for at, byte in enumerate(KEY))
    ones = np.unpackbits(np.frombuffer(Keystream(KEY).draw(4096), np.uint8))
    others = np.unpackbits(np.frombuffer(Keystream(other).draw(4096), np.uint8))
    assert abs(float((ones != others).mean()) - 0.5) < 0.02


def test_bytes_are_uniform() -> None:
    counts = np.bincount(np.frombuffer(Keystream(KEY).draw(1 << 18), np.uint8), minlength=256)
    assert ((counts - 1024) ** 2 / 1024).sum() < 330


def test_it_says_no_secret_and_refuses_what_is_no_key_or_too_much() -> None:
    assert repr(Keystream(KEY)) == "Keystream()"
    with pytest.raises(ValueError, match="32 bytes"):
        Keystream(KEY[:31])
    with pytest.raises(ValueError, match="1 MiB"):
        Keystream(KEY).draw(MAX_CALL + 1)
