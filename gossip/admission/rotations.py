"""Rotations: the next key of a private network, sealed to each member and signed by founders.

    signed = "shoal/rotation/1" 00 | BLAKE2b-256 of the msgpack array of all fields but the signatures
    box    = libsodium's sealed box of the new key, for the X25519 form of a member's Ed25519 key

A rotation names the key that it replaces by its fingerprint. So a node begins with the key in its file, and
goes from key to key as far as it has heard. The former key is taken until a time that the founders signed.
Nothing depends on when a node heard it, and none needs to be online.

Several rotations may give the same key, each to other members. Of two keys in the place of one the later
counts, by founders, epoch and fingerprint; the other one is taken until the time that its own word says.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Annotated, Final, TypeAlias

import msgspec
from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey

from shoal.gossip.admission.charter import MAX_FOUNDERS, Founders, PublicKey
from shoal.gossip.admission.edicts import (
    Hash32,
    Signature,
    UnixTime,
    add_signatures,
    from_text,
    signers_of,
    to_text,
)
from shoal.gossip.admission.errors import BadEdict

DOMAIN: Final = b"shoal/rotation/1\x00"
TEXT_PREFIX: Final = "shoal-rotation-"
MAX_TEXT: Final = 24_000
KEY_BYTES: Final = 32
BOX_BYTES: Final = KEY_BYTES + 48
MAX_BOXES: Final = 64
"""Members that one word gives the key to; for more there are several words."""
INFINITY: Final = float("inf")
Box = Annotated[bytes, msgspec.Meta(min_length=BOX_BYTES, max_length=BOX_BYTES)]
Line: TypeAlias = tuple[tuple[bytes, float], ...]
"""Keys that are taken, the one to say first; each with the time by the wall clock at which it ends."""


class Rotation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A new key in the place of another, for some members."""

    charter: Hash32
    under: Hash32
    """The id of the set of founders that signs it."""
    epoch: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
    """One more than the largest of the former key that the author knows."""
    former: Hash32
    """The fingerprint of the key that ends."""
    new: Hash32
    """The fingerprint of the key in the boxes."""
    until: UnixTime
    """When the former key ends."""
    boxes: Annotated[tuple[tuple[PublicKey, Box], ...], msgspec.Meta(max_length=MAX_BOXES)]
    """The new key for each of these members."""
    signatures: Annotated[tuple[tuple[PublicKey, Signature], ...], msgspec.Meta(max_length=MAX_FOUNDERS)] = ()

    @property
    def id(self) -> bytes:
        """32 bytes that name what is said, whoever signed it."""
        body = _encode(msgspec.structs.astuple(self)[:-1])
        return blake2b(body, digest_size=32, person=b"shoal/rotation").digest()

    def signed_by(self, *keys: SigningKey) -> "Rotation":
        """Return it with further signatures."""
        signatures = add_signatures(DOMAIN + self.id, self.signatures, keys)
        return msgspec.structs.replace(self, signatures=signatures)

    def check(self, founders: Founders) -> None:
        """Check it against the set of founders that it names.

        Raises:
            BadEdict: too few of them signed, or somebody else did, or it replaces a key by itself.
        """
        signers = signers_of(DOMAIN + self.id, self.signatures)
        n_signed = len(signers & frozenset(founders.keys))
        if n_signed < founders.threshold:
            raise BadEdict(f"{n_signed} of the {founders.threshold} founders that must sign have signed")
        if n_signed < len(signers):
            raise BadEdict("somebody signed who is no founder")
        if self.former == self.new:
            raise BadEdict("a new key is another one than the former")

    def open(self, key: SigningKey) -> bytes:
        """Return the new key if it is sealed to this node, else nothing."""
        box = dict(self.boxes).get(bytes(key.verify_key))
        if box is None:
            return b""
        try:
            found: bytes = SealedBox(key.to_curve25519_private_key()).decrypt(box)
        except CryptoError:
            return b""
        return found if fingerprint(found) == self.new else b""

    def text(self) -> str:
        """Return it as text to hand on; only members can open it."""
        return to_text(TEXT_PREFIX, _encode(self))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Rotation).decode


def fingerprint(key: bytes) -> bytes:
    """Return 32 bytes that name a key of a private network and do not tell it."""
    return blake2b(key, digest_size=32, person=b"shoal/psk").digest()


def sealed_for(key: bytes, members: Iterable[bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the boxes of a new key for members by their public keys, in order.

    Raises:
        BadEdict: a member's key is none that can be sealed to.
    """
    try:
        return tuple(
            (each, SealedBox(VerifyKey(each).to_curve25519_public_key()).encrypt(key))
            for each in sorted(set(members))
        )
    except (CryptoError, RuntimeError, ValueError):
        raise BadEdict("a member's key is none that anything can be sealed to") from None


def rotation_of(text: str) -> Rotation:
    """Return the rotation of a text that somebody handed on.

    Raises:
        BadEdict: it is none.
    """
    return from_text("rotation", TEXT_PREFIX, MAX_TEXT, text, _decode)


def line_of(
    first: bytes,
    rotations: Iterable[Rotation],
    generations: Mapping[bytes, int],
    own: SigningKey,
    wall: float,
) -> Line:
    """Return the keys that a node takes at a time, the newest first; one that it was not given ends the line.

    `first`: the key in its file; `generations`: by the id of a set of founders that governed, its place;
    `wall`: seconds since 1970. Where the first one returned ends, this node was given none after it; one
    that has ended is the only one where there is no other.
    """

    def rank(word: Rotation) -> tuple[int, int, bytes, int]:
        return generations[word.under], word.epoch, word.new, word.until

    known = [each for each in rotations if each.under in generations]
    line: list[tuple[bytes, float]] = []
    key, seen = first, set[bytes]()
    while True:
        seen.add(key)
        following = sorted((each for each in known if each.former == fingerprint(key)), key=rank)
        if not following:
            line.append((key, INFINITY))
            break
        last = following[-1]
        line.append((key, float(last.until)))
        given = {each.new: found for each in following if (found := each.open(own))}
        line += [
            (given[each.new], float(each.until))
            for each in following
            if each.new in given and each.new != last.new
        ]
        if last.new not in given or given[last.new] in seen:
            break
        key = given[last.new]
    taken: dict[bytes, float] = {}
    for each, until in line:
        if until > wall:
            taken[each] = max(until, taken.get(each, 0.0))
    return tuple(reversed(taken.items())) or ((key, 0.0),)
