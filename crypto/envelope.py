"""Envelopes: signed bodies that say who, for which swarm and run, of what kind, and in which order.

    sealed = head_length (2 bytes, big endian) | head (msgpack array) | body | signature (64 bytes)
    head   = [version, swarm, run, kind, sequence, sender public key]
    signed = "shoal/envelope/1" 00 | BLAKE2b-256(head) | BLAKE2b-256(body)

Both digests have a fixed length, so no two (head, body) pairs share a signed text. The domain tag
keeps a signature made here from meaning anything elsewhere, libp2p's own signatures included.

A sender's sequence only grows, across restarts too: it starts from the clock. `ReplayGuard` accepts
each (sender, sequence) once, within a window of the newest, so that reordered envelopes pass and
recorded ones do not.
"""

from collections import OrderedDict
from hashlib import blake2b
from typing import Annotated, Final

import msgspec
from nacl.signing import SigningKey

from shoal.crypto.errors import BadEnvelope, BadKey, Replayed
from shoal.crypto.keys import SIGNATURE_BYTES, PeerId, peer_id_of, verify

VERSION: Final = 1
DOMAIN: Final = b"shoal/envelope/1\x00"
MAX_HEAD_BYTES: Final = 256


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is signed beside the body."""

    version: int
    swarm: bytes
    """16 bytes: the hash of the swarm's name. Envelopes of another swarm mean nothing here."""
    run: bytes
    """32 bytes: the run id, or empty for what concerns the whole swarm."""
    kind: str
    """What the body is; the receiver never guesses."""
    sequence: Annotated[int, msgspec.Meta(ge=0)]
    """Grows with every envelope of this sender."""
    sender: bytes
    """32 bytes: the sender's Ed25519 public key."""


class Envelope(msgspec.Struct, frozen=True):
    """An opened envelope: its signature held."""

    head: Head
    sender: PeerId
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(Head).decode


def digest(data: bytes) -> bytes:
    """Return BLAKE2b-256, the digest used in every signature of ours."""
    return blake2b(data, digest_size=32).digest()


def seal(key: SigningKey, *, swarm: bytes, run: bytes, kind: str, sequence: int, body: bytes) -> bytes:
    """Sign a body; see the module's docstring for the form."""
    head = _encode(Head(VERSION, swarm, run, kind, sequence, bytes(key.verify_key)))
    if len(head) > MAX_HEAD_BYTES:
        raise ValueError(f"an envelope's head has at most {MAX_HEAD_BYTES} bytes, not {len(head)}")
    signature = key.sign(DOMAIN + digest(head) + digest(body)).signature
    return len(head).to_bytes(2, "big") + head + body + signature


def open_envelope(sealed: bytes) -> Envelope:
    """Check form and signature, and return what is inside.

    Raises:
        BadEnvelope: cut, altered, of another version, or not signed by its sender.
    """
    end = 2 + int.from_bytes(sealed[:2], "big")
    if len(sealed) < end + SIGNATURE_BYTES or not 2 < end <= 2 + MAX_HEAD_BYTES:
        raise BadEnvelope("cut short")
    head_bytes, body, signature = sealed[2:end], sealed[end:-SIGNATURE_BYTES], sealed[-SIGNATURE_BYTES:]
    try:
        head = _decode_head(head_bytes)
        sender = peer_id_of(head.sender)
    except (msgspec.MsgspecError, UnicodeDecodeError, BadKey) as error:
        raise BadEnvelope("head is malformed") from error
    if head.version != VERSION:
        raise BadEnvelope(f"version {head.version}, not {VERSION}")
    verify(head.sender, DOMAIN + digest(head_bytes) + digest(body), signature)
    return Envelope(head, sender, body)


class ReplayGuard:
    """Remembers which sequences of which senders were seen, in bounded memory."""

    WINDOW: Final = 256
    """How far behind its sender's newest sequence an envelope may come: reordering, not history."""

    def __init__(self, max_senders: int = 4096) -> None:
        """`max_senders`: the longest-silent sender is forgotten above this."""
        self._seen: OrderedDict[PeerId, tuple[int, set[int]]] = OrderedDict()
        self._max_senders = max_senders

    def check(self, envelope: Envelope) -> None:
        """Accept an envelope once.

        Raises:
            Replayed: seen before, or too far behind the newest of its sender.
        """
        sequence = envelope.head.sequence
        newest, recent = self._seen.get(envelope.sender, (sequence, set()))
        if sequence in recent or sequence <= newest - self.WINDOW:
            raise Replayed(f"sequence {sequence} after {newest}")
        newest = max(newest, sequence)
        recent.add(sequence)
        if len(recent) > 2 * self.WINDOW:
            recent = {s for s in recent if s > newest - self.WINDOW}
        self._seen[envelope.sender] = (newest, recent)
        self._seen.move_to_end(envelope.sender)
        while len(self._seen) > self._max_senders:
            self._seen.popitem(last=False)
