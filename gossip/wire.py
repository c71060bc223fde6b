"""Wire: messages to bytes and back; alone knows the format (docs/wire.md).

A control frame's head is ``00`` and an envelope: signed by the sender's node key, bound to swarm, run, kind
and sequence. A bulk frame's head is ``01`` and plain msgpack: its bytes and the data beside it are proved
by the link, whose Noise handshake was signed with the same key, and whose records are AEAD with
counted nonces. Nothing that came over a link as bulk is ever handed on.

Decoding raises `RemoteViolation` with a reason to count, and nothing else, whatever the bytes are.
"""

import math
from collections import OrderedDict
from hashlib import blake2b
from typing import Final

import msgspec
from nacl.signing import SigningKey

from shoal.crypto.envelope import Envelope, ReplayGuard, open_envelope, seal
from shoal.crypto.errors import BadEnvelope, Replayed
from shoal.crypto.keys import PeerId, peer_id_of
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.messages import (
    MAX_RECORD_BYTES,
    Accept,
    Announce,
    Announcements,
    Answer,
    Call,
    Chunk,
    Commit,
    Decline,
    Exchange,
    Message,
    Near,
    Offer,
    Pairing,
    Part,
    PeerMessage,
    Presence,
    Propose,
    Push,
    Ready,
    Record,
    Records,
    Reduced,
    Reveal,
    Roles,
    SealedAnnouncements,
    SealedRecords,
    SealedWords,
    Shown,
    Signed,
    SignedAnnounce,
    Unheard,
    Unserved,
    Wire,
)

SIGNED: Final = b"\x00"
PLAIN: Final = b"\x01"
PRESENCE: Final = "Presence"
MAX_CONTROL_BYTES: Final = 256 << 10
BULK: Final = (Part, Reduced, Reveal, Offer, Chunk, Push, Call, Answer)
"""What goes unsigned in the bulk lane."""
UNSIGNED: Final = (*BULK, Near)
"""What is proved by the link alone; everything else is signed."""
OF_A_RUN: Final = (
    Ready,
    Propose,
    Accept,
    Decline,
    Commit,
    Unheard,
    SealedWords,
    Exchange,
    Pairing,
    Roles,
    Unserved,
)
"""What means nothing to a peer of another run."""
OTHER_RUN: Final = "other run"
"""A reason that is nobody's fault: peers of several runs meet in one swarm."""
MAX_AUTHORS: Final = 1024
"""Peers of whom the last two records stay open."""

_encode = msgspec.msgpack.Encoder().encode
_decoder: Final[msgspec.msgpack.Decoder[Wire]] = msgspec.msgpack.Decoder(Wire)
_decode_presence = msgspec.msgpack.Decoder(Presence).decode


def swarm_id(name: str) -> bytes:
    """Return the 16 bytes that stand for a swarm in every envelope."""
    return blake2b(name.encode(), digest_size=16, person=b"shoal/swarm").digest()


class Codec:
    """One node's end of the wire."""

    def __init__(self, key: SigningKey, swarm: str, sequence: int) -> None:
        """`sequence`: larger than any this key has used before; the clock serves."""
        self.run = b""
        self._key = key
        self._me = peer_id_of(bytes(key.verify_key))
        self._swarm = swarm_id(swarm)
        self._sequence = sequence
        self._replays = ReplayGuard()
        self._opened: dict[bytes, Record] = {}
        self._recent: OrderedDict[PeerId, tuple[bytes, ...]] = OrderedDict()
        """By author, who was heard of last at the end: its last two records, sealed."""

    @property
    def sequence(self) -> int:
        """The last one used."""
        return self._sequence

    # --- out --------------------------------------------------------------------------------------

    def encode(self, message: PeerMessage) -> bytes:
        """Return the head of a frame."""
        if isinstance(message, UNSIGNED):
            return PLAIN + _encode(message)
        body: Message
        if isinstance(message, Records):
            sealed = tuple((self._sealed(record), age) for record, age in message.records)
            body = SealedRecords(sealed, message.reply)
        elif isinstance(message, Shown):
            body = SealedWords(message.round, tuple(word.sealed for word in message.words))
        elif isinstance(message, Announcements):
            told = tuple(signed.sealed for signed in message.announced)
            body = SealedAnnouncements(message.group, message.index, told)
        else:
            body = message
        self._sequence += 1
        return SIGNED + self._seal(type(body).__name__, self.run, self._sequence, body)

    def encode_announcement(self, message: Records) -> bytes:
        """Return our own sealed presence, as everyone hears it."""
        return self._sealed(message.records[0][0])

    def _sealed(self, record: Record) -> bytes:
        if record.sealed:
            return record.sealed
        return self._seal(PRESENCE, record.presence.run, record.sequence, record.presence)

    def _seal(self, kind: str, run: bytes, sequence: int, body: Message) -> bytes:
        return seal(self._key, swarm=self._swarm, run=run, kind=kind, sequence=sequence, body=_encode(body))

    # --- in ---------------------------------------------------------------------------------------

    def decode(self, peer: PeerId, head: bytes, data_bytes: int) -> PeerMessage:
        """Return the message in a frame's head.

        Raises:
            RemoteViolation: malformed, not from this peer, replayed, or of another run or swarm.
        """
        lane, rest = head[:1], head[1:]
        if lane == PLAIN:
            message = self._parse(rest)
            if not isinstance(message, UNSIGNED) or (data_bytes and isinstance(message, Near)):
                raise RemoteViolation("unsigned control message", type(message).__name__)
            _check_numbers(message)
            return message
        if lane != SIGNED or data_bytes or len(head) > MAX_CONTROL_BYTES:
            raise RemoteViolation("malformed frame")
        envelope = _open(rest, self._swarm)
        if envelope.sender != peer:
            raise RemoteViolation("not signed by the link's peer")
        try:
            self._replays.check(envelope)
        except Replayed as error:
            raise RemoteViolation("replayed") from error
        message = self._parse(envelope.body)
        if type(message).__name__ != envelope.head.kind or isinstance(message, UNSIGNED):
            raise RemoteViolation("kind does not match", envelope.head.kind)
        if isinstance(message, OF_A_RUN) and envelope.head.run != self.run:
            raise RemoteViolation(OTHER_RUN)
        _check_numbers(message)
        if isinstance(message, Announce):
            # Kept as it was signed: others may need it from us.
            return Announcements(message.group, message.index, (SignedAnnounce(peer, message, rest),))
        if isinstance(message, SealedAnnouncements):
            opened = tuple(self._open_announcement(message, sealed) for sealed in message.announced)
            return Announcements(message.group, message.index, opened)
        if isinstance(message, SealedRecords):
            if not all(math.isfinite(age) for _, age in message.records):
                raise RemoteViolation("malformed record")
            return Records(
                tuple((self.open_record(sealed), age) for sealed, age in message.records), message.reply
            )
        if isinstance(message, SealedWords):
            return Shown(message.round, tuple(map(self._open_word, message.words)))
        return message

    def _open_word(self, sealed: bytes) -> Signed:
        """Return a word about a group that its author said to another; whoever shows it has checked it."""
        envelope = _open(sealed, self._swarm)
        message = self._parse(envelope.body)
        if not isinstance(message, Ready | Accept) or type(message).__name__ != envelope.head.kind:
            raise RemoteViolation("kind does not match", envelope.head.kind)
        if envelope.head.run != self.run:
            raise RemoteViolation(OTHER_RUN)
        return Signed(envelope.sender, message, sealed)

    def open_record(self, sealed: bytes) -> Record:
        """Return the record in a sealed presence, whoever handed it on.

        Raises:
            RemoteViolation: not a presence that its author signed for this swarm.
        """
        known = self._opened.get(sealed)
        if known is not None:
            return known
        record = open_presence(sealed, self._swarm)
        self._remember(record)
        return record

    def _open_announcement(self, around: SealedAnnouncements, sealed: bytes) -> SignedAnnounce:
        envelope = _open(sealed, self._swarm)
        if envelope.head.kind != Announce.__name__ or envelope.head.run != self.run:
            raise RemoteViolation("kind does not match", envelope.head.kind)
        announce = self._parse(envelope.body)
        if not isinstance(announce, Announce):
            raise RemoteViolation("kind does not match", type(announce).__name__)
        _check_numbers(announce)
        if (announce.group, announce.index) != (around.group, around.index):
            raise RemoteViolation("announcement of another exchange")
        return SignedAnnounce(envelope.sender, announce, sealed)

    def _remember(self, record: Record) -> None:
        """Keep a record that comes again by many ways, until its author has said more."""
        *older, last = (*self._recent.pop(record.author, ()), record.sealed)
        self._recent[record.author] = (*older[-1:], last)
        self._opened[last] = record
        over = list(older[:-1])
        if len(self._recent) > MAX_AUTHORS:
            over += self._recent.popitem(last=False)[1]
        for sealed in over:
            self._opened.pop(sealed, None)

    def _parse(self, body: bytes) -> Wire:
        try:
            return _decoder.decode(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise RemoteViolation("malformed message") from error


def _open(sealed: bytes, swarm: bytes) -> Envelope:
    try:
        envelope = open_envelope(sealed)
    except BadEnvelope as error:
        raise RemoteViolation("bad envelope", str(error)) from error
    if envelope.head.swarm != swarm:
        raise RemoteViolation("other swarm")
    return envelope


def open_presence(sealed: bytes, swarm: bytes) -> Record:
    """Return the record in a sealed presence of a swarm, which is named by its `swarm_id`.

    Raises:
        RemoteViolation: not a presence that its author signed for this swarm.
    """
    if len(sealed) > MAX_RECORD_BYTES:
        # It may come alone, as an announcement. Handed on, it would be our fault.
        raise RemoteViolation("malformed record", f"{len(sealed)} bytes")
    envelope = _open(sealed, swarm)
    if envelope.head.kind != PRESENCE:
        raise RemoteViolation("kind does not match", envelope.head.kind)
    try:
        presence = _decode_presence(envelope.body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RemoteViolation("malformed record") from error
    if presence.run != envelope.head.run or not math.isfinite(presence.lease):
        raise RemoteViolation("malformed record")
    return Record(envelope.sender, envelope.head.sequence, presence, sealed)


def _check_numbers(message: Wire) -> None:
    # A NaN passes every comparison of a bound.
    if isinstance(message, Announce | Push) and not math.isfinite(message.weight):
        raise RemoteViolation("weight is not finite")
    if isinstance(message, Roles) and not (math.isfinite(message.ability) and math.isfinite(message.lease)):
        raise RemoteViolation("ability is not finite")
    if isinstance(message, Announce) and not math.isfinite(message.discount):
        raise RemoteViolation("discount is not finite")
