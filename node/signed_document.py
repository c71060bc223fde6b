"""Signed documents: JSON that a node's key has signed, for people and for its own disk.

{"document": ..., "public_key": hex, "signature": hex}
signed      a domain, which says what kind of document it is, then BLAKE2b-256 of the document's bytes
"""

import msgspec
from nacl.signing import SigningKey

from shoal.crypto.envelope import digest
from shoal.crypto.errors import BadEnvelope, BadKey
from shoal.crypto.keys import PeerId, peer_id_of, verify


class Signed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document with its signature."""

    document: msgspec.Raw
    public_key: str
    signature: str


class BadDocument(Exception):
    """A document is none, or was altered; the message says which."""


def sign(key: SigningKey, domain: bytes, document: bytes) -> bytes:
    """Return a document, the bytes of JSON, with this key's signature."""
    signature = key.sign(domain + digest(document)).signature
    return msgspec.json.encode(
        Signed(
            document=msgspec.Raw(document), public_key=bytes(key.verify_key).hex(), signature=signature.hex()
        )
    )


def opened(domain: bytes, data: bytes) -> tuple[PeerId, bytes]:
    """Return the peer that signed a document, and the document.

    Raises:
        BadDocument: it is no such document, or was altered.
    """
    try:
        signed = msgspec.json.decode(data, type=Signed)
        public = bytes.fromhex(signed.public_key)
        verify(public, domain + digest(bytes(signed.document)), bytes.fromhex(signed.signature))
        return peer_id_of(public), bytes(signed.document)
    except (msgspec.MsgspecError, ValueError, BadEnvelope, BadKey) as error:
        raise BadDocument(str(error)) from None
