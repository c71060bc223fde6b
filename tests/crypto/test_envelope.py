"""Envelopes: what was sealed opens, what was touched does not, and nothing opens twice."""

from collections.abc import Callable
from hashlib import blake2b

import msgspec
import pytest

from shoal.crypto.envelope import (
    DOMAIN,
    MAX_HEAD_BYTES,
    Envelope,
    Head,
    ReplayGuard,
    digest,
    open_envelope,
    seal,
)
from shoal.crypto.errors import BadEnvelope, Replayed
from shoal.crypto.keys import key_from_seed, peer_id_of

KEY = key_from_seed(bytes(range(32)))
SWARM, RUN = b"s" * 16, b"r" * 32
GOLDEN = bytes.fromhex(
    "005f9601c41073737373737373737373737373737373c4207272727272727272727272727272727272727272727272727272"
    "727272727272a54c6561766507c42003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8626f64"
    "79762da06ae2534e1b887f5ec52f8a2391afff5dd6935fd5c15fedd32219e9fe221b750031b659bf70125dccb095065c56e6"
    "4bd2aeec350bf0bb26bbdaaa1cc80e"
)
"""`sealed()`: another implementation has to make the same bytes."""


def sealed(body: bytes = b"body", *, kind: str = "Leave", sequence: int = 7, run: bytes = RUN) -> bytes:
    return seal(KEY, swarm=SWARM, run=run, kind=kind, sequence=sequence, body=body)


def envelope(sequence: int, sender: int = 0) -> Envelope:
    head = Head(1, SWARM, RUN, "Leave", sequence, bytes([sender]) * 32)
    return Envelope(head, peer_id_of(head.sender), b"")


def test_a_sealed_body_is_the_golden_vector() -> None:
    assert sealed() == GOLDEN


def test_an_envelope_opens_to_what_was_sealed() -> None:
    opened = open_envelope(sealed(b"some body"))
    assert opened.body == b"some body"
    assert opened.sender == peer_id_of(bytes(KEY.verify_key))
    assert opened.head == Head(1, SWARM, RUN, "Leave", 7, bytes(KEY.verify_key))
    assert open_envelope(sealed(b"")).body == b""


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_refused(bit: int) -> None:
    for index in range(len(GOLDEN)):
        altered = bytearray(GOLDEN)
        altered[index] ^= 1 << bit
        with pytest.raises(BadEnvelope):
            open_envelope(bytes(altered))


def test_every_cut_and_every_addition_is_refused() -> None:
    for length in range(len(GOLDEN)):
        with pytest.raises(BadEnvelope):
            open_envelope(GOLDEN[:length])
    with pytest.raises(BadEnvelope):
        open_envelope(GOLDEN + b"\x00")


def resign(head: bytes, body: bytes, domain: bytes = DOMAIN) -> bytes:
    """Sign anything as an insider would: only the form is wrong, never the signature."""
    signature = KEY.sign(domain + digest(head) + digest(body)).signature
    return len(head).to_bytes(2, "big") + head + body + signature


@pytest.mark.parametrize(
    "change",
    [
        lambda head: [2, *head[1:]],  # of a later version
        lambda head: [*head, 1],
        lambda head: head[:-1],
        lambda head: [*head[:3], 5, *head[4:]],
        lambda head: [*head[:3], b"\xff", *head[4:]],
        lambda head: [*head[:5], head[5][:-1]],
        lambda head: [*head[:4], "7", head[5]],
        lambda head: [*head[:1], "s" * 16, *head[2:]],
        lambda head: {"version": 1},
        lambda head: None,
    ],
)
def test_a_rightly_signed_head_of_a_wrong_form_is_refused(change: Callable[[list[object]], object]) -> None:
    head = [1, SWARM, RUN, "Leave", 7, bytes(KEY.verify_key)]
    assert open_envelope(resign(msgspec.msgpack.encode(head), b"body")).body == b"body"
    with pytest.raises(BadEnvelope):
        open_envelope(resign(msgspec.msgpack.encode(change(head)), b"body"))


def test_text_in_a_head_that_is_no_utf8_is_refused() -> None:
    head = msgspec.msgpack.encode([1, SWARM, RUN, "Leave", 7, bytes(KEY.verify_key)])
    with pytest.raises(BadEnvelope, match="head is malformed"):
        open_envelope(resign(head.replace(b"Leave", b"\xff\xfe\xfd\xfc\xfb"), b"body"))


def test_a_signature_made_for_another_purpose_is_refused() -> None:
    head = msgspec.msgpack.encode([1, SWARM, RUN, "Leave", 7, bytes(KEY.verify_key)])
    for domain in (b"", b"libp2p-relay-rsvp:", b"shoal/envelope/2\x00"):
        with pytest.raises(BadEnvelope, match="does not verify"):
            open_envelope(resign(head, b"body", domain))


def test_bytes_cannot_move_between_head_and_body() -> None:
    end = 2 + int.from_bytes(GOLDEN[:2], "big")
    for moved in (-1, 1):
        shifted = (end - 2 + moved).to_bytes(2, "big") + GOLDEN[2:]
        with pytest.raises(BadEnvelope):
            open_envelope(shifted)


def test_a_head_that_nobody_would_read_is_not_sealed() -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_HEAD_BYTES}"):
        sealed(kind="x" * 300)


def test_the_digest_is_blake2b_of_32_bytes() -> None:
    assert digest(b"abc") == blake2b(b"abc", digest_size=32).digest()
    assert digest(b"abc").hex().startswith("bddd813c634239723171ef3fee98579b")


def test_no_sequence_is_negative() -> None:
    with pytest.raises(BadEnvelope, match="head is malformed"):
        open_envelope(sealed(sequence=-1))


def test_a_sequence_is_accepted_once() -> None:
    guard = ReplayGuard()
    guard.check(envelope(5))
    with pytest.raises(Replayed):
        guard.check(envelope(5))
    guard.check(envelope(5, sender=1))


def test_envelopes_may_overtake_each_other_but_not_come_from_the_past() -> None:
    guard = ReplayGuard()
    guard.check(envelope(1000))
    guard.check(envelope(1000 - guard.WINDOW + 1))
    with pytest.raises(Replayed):
        guard.check(envelope(1000 - guard.WINDOW))
    guard.check(envelope(999))
    with pytest.raises(Replayed):
        guard.check(envelope(999))


def test_the_guard_takes_each_of_many_once_and_keeps_few() -> None:
    guard = ReplayGuard()
    for sequence in range(5000):
        guard.check(envelope(sequence))
    for sequence in range(5000):
        with pytest.raises(Replayed):
            guard.check(envelope(sequence))
    assert max(len(recent) for _, recent in guard._seen.values()) <= 2 * guard.WINDOW


def test_the_guard_forgets_the_sender_that_was_silent_longest() -> None:
    guard = ReplayGuard(max_senders=2)
    for sender in (1, 2, 1, 3):
        guard.check(envelope(10 * len(guard._seen) + sender, sender))
    assert len(guard._seen) == 2
    assert peer_id_of(bytes([2]) * 32) not in guard._seen
