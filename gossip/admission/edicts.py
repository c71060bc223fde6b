"""Edicts: what founders say of who takes part. Signed data, which needs nobody online.

    signed = "shoal/edict/1" 00 | BLAKE2b-256 of the msgpack array of all fields but the signatures

An edict counts where `threshold` distinct founders signed it, of the set that it names by `under`. So they
need not meet: one writes an edict and signs it, hands the text on, the next adds a signature.

Edicts of a subject are ordered by `rank`: of later founders first, then by epoch, a ban before all else, then
by hash. The order is of the edicts alone, so it is the same for whoever hears them in whatever order.
"""

import base64
import binascii
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from nacl.signing import SigningKey

from shoal.crypto.errors import BadEnvelope
from shoal.crypto.keys import verify
from shoal.gossip.admission.charter import MAX_FOUNDERS, Founders, PublicKey
from shoal.gossip.admission.errors import BadEdict

DOMAIN: Final = b"shoal/edict/1\x00"
T = TypeVar("T")

TEXT_PREFIX: Final = "shoal-edict-"
MAX_TEXT: Final = 8192
Verb: TypeAlias = Literal["admit", "ban", "pardon", "revoke_grant", "set_founders", "set_threshold"]
OF_FOUNDERS: Final = ("set_founders", "set_threshold")
"""Verbs whose subject is a set of founders."""
Hash32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Signatures: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Of founders by their public keys, in order."""
UnixTime = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
"""Seconds since 1970 by the wall clock."""


class Edict(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One edict, with the signatures that it has."""

    charter: Hash32
    under: Hash32
    """The id of the set of founders that signs it."""
    epoch: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
    """One more than the largest of its subject that the author knows."""
    verb: Verb
    subject: Hash32
    """A peer's public key, the id of a grant, or that of a set of founders."""
    until: UnixTime = 0
    """When an admission or a ban ends; 0: never."""
    reason: Annotated[str, msgspec.Meta(max_length=200)] = ""
    keys: Annotated[tuple[PublicKey, ...], msgspec.Meta(max_length=MAX_FOUNDERS)] = ()
    """The new founders of a `set_founders`, in order. Each of them signs too."""
    threshold: Annotated[int, msgspec.Meta(ge=0, le=MAX_FOUNDERS)] = 0
    """How many of the new set must sign."""
    signatures: Annotated[
        tuple[tuple[PublicKey, Signature], ...], msgspec.Meta(max_length=2 * MAX_FOUNDERS)
    ] = ()

    @property
    def id(self) -> bytes:
        """32 bytes that name what is said, whoever signed it."""
        return blake2b(_body(self), digest_size=32, person=b"shoal/edict").digest()

    def signed_by(self, *keys: SigningKey) -> "Edict":
        """Return the edict with further signatures."""
        signatures = add_signatures(DOMAIN + self.id, self.signatures, keys)
        return msgspec.structs.replace(self, signatures=signatures)

    def signers(self) -> frozenset[bytes]:
        """Return whose signatures hold.

        Raises:
            BadEdict: one of them does not, or a key signed twice.
        """
        return signers_of(DOMAIN + self.id, self.signatures)

    def successor(self, former: Founders) -> Founders:
        """Return the set of founders that this edict puts in the place of `former`.

        Raises:
            BadEdict: that is no set that could govern.
        """
        keys = self.keys if self.verb == "set_founders" else former.keys
        if not keys or list(keys) != sorted(set(keys)) or not 1 <= self.threshold <= len(keys):
            raise BadEdict("new founders are named in order, each once, with a threshold that they can reach")
        return Founders(keys, self.threshold, former.id)

    def check(self, founders: Founders) -> None:
        """Check the edict against the set of founders that it names.

        Raises:
            BadEdict: too few of them signed, or it does not say what its verb must.
        """
        signers = self.signers()
        n_signed = len(signers & frozenset(founders.keys))
        if n_signed < founders.threshold:
            raise BadEdict(f"{n_signed} of the {founders.threshold} founders that must sign have signed")
        strangers = signers - frozenset(founders.keys) - frozenset(self.keys)
        if strangers:
            raise BadEdict("somebody signed who is no founder")
        if self.verb not in OF_FOUNDERS:
            if self.keys or self.threshold:
                raise BadEdict(f"{self.verb} names no founders")
            return
        if self.subject != self.under or self.until:
            raise BadEdict(f"the subject of {self.verb} is the set of founders that signs it, for ever")
        if self.verb == "set_threshold" and self.keys:
            raise BadEdict("set_threshold leaves the founders as they are")
        self.successor(founders)
        if not frozenset(self.keys) <= signers:
            raise BadEdict("each new founder must sign too, so that nobody is made one without a key")

    def rank(self, generation: int, id_: bytes) -> tuple[int, int, bool, bytes]:
        """Return what orders the edicts of one subject, with its own id; the largest counts."""
        return generation, self.epoch, self.verb == "ban", id_

    def text(self) -> str:
        """Return the edict as text to hand on, of letters and digits."""
        return to_text(TEXT_PREFIX, _encode(self))


def add_signatures(signed: bytes, known: Signatures, keys: Iterable[SigningKey]) -> Signatures:
    """Return the signatures with those of further keys, in order."""
    more = {bytes(key.verify_key): key.sign(signed).signature for key in keys}
    return tuple(sorted((dict(known) | more).items()))


def signers_of(signed: bytes, signatures: Signatures) -> frozenset[bytes]:
    """Return whose signatures hold.

    Raises:
        BadEdict: one of them does not, or a key signed twice.
    """
    for key, signature in signatures:
        try:
            verify(key, signed, signature)
        except BadEnvelope:
            raise BadEdict("a signature of a founder does not verify") from None
    found = frozenset(key for key, _ in signatures)
    if len(found) < len(signatures):
        raise BadEdict("a founder signed twice")
    return found


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Edict).decode


def _body(edict: Edict) -> bytes:
    return _encode(msgspec.structs.astuple(edict)[:-1])


def edict_of(text: str) -> Edict:
    """Return the edict of a text that somebody handed on.

    Raises:
        BadEdict: it is none.
    """
    return from_text("edict", TEXT_PREFIX, MAX_TEXT, text, _decode)


def to_text(prefix: str, data: bytes) -> str:
    """Return signed data as text to hand on, of letters and digits."""
    return prefix + base64.b32encode(data).decode().rstrip("=").lower()


def from_text(kind: str, prefix: str, longest: int, text: str, decode: Callable[[bytes], T]) -> T:
    """Return what `to_text` wrote, spaces and line ends aside. `longest`: characters; `kind`: for a person.

    Raises:
        BadEdict: it is none.
    """
    word = "".join(text.split())
    if not word.startswith(prefix) or len(word) > longest:
        raise BadEdict(f"this is no {kind}; its text begins with {prefix}")
    body = word.removeprefix(prefix).upper()
    try:
        return decode(base64.b32decode(body + "=" * (-len(body) % 8)))
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise BadEdict(f"the text of the {kind} is cut or altered; copy all of it") from None
