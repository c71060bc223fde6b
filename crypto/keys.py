"""Identity: one NaCl Ed25519 key, from which the libp2p peer id is derived.

A libp2p peer id of an Ed25519 key is the identity multihash of its protobuf form: the bytes
``00 24 08 01 12 20`` and the 32 bytes of the public key, printed in base58. So a peer id *is* the
public key, and whoever knows the id can verify what the peer signed.
"""

from functools import lru_cache
from typing import Final, NewType

import base58
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from shoal.crypto.errors import BadEnvelope, BadKey

PeerId = NewType("PeerId", str)
"""A libp2p peer id in base58, such as ``12D3KooW…``."""

SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_PREFIX: Final = bytes.fromhex("002408011220")


def new_key() -> SigningKey:
    """Make a key from the system's randomness."""
    return SigningKey.generate()


def key_from_seed(seed: bytes) -> SigningKey:
    """Make the key of a 32-byte seed.

    Raises:
        BadKey: the seed has another length.
    """
    if len(seed) != SEED_BYTES:
        raise BadKey(f"a key seed has {SEED_BYTES} bytes, not {len(seed)}")
    return SigningKey(seed)


@lru_cache(maxsize=4096)
def peer_id_of(public_key: bytes) -> PeerId:
    """Return the libp2p peer id of a 32-byte Ed25519 public key. Base58 is slow, so ids are kept."""
    if len(public_key) != SEED_BYTES:
        raise BadKey(f"a public key has {SEED_BYTES} bytes, not {len(public_key)}")
    return PeerId(base58.b58encode(_PREFIX + public_key).decode())


def public_key_of(peer: PeerId) -> bytes:
    """Return the 32-byte Ed25519 public key inside a peer id.

    Raises:
        BadKey: the text is no peer id of an Ed25519 key.
    """
    try:
        raw = base58.b58decode(peer)
    except ValueError as error:
        raise BadKey("a peer id is base58 text") from error
    if len(raw) != len(_PREFIX) + SEED_BYTES or not raw.startswith(_PREFIX):
        raise BadKey("not the peer id of an Ed25519 key; those begin with 12D3KooW")
    return raw[len(_PREFIX) :]


def short(peer: PeerId) -> str:
    """Return the last eight characters, as logs name a peer: libp2p ids begin alike."""
    return peer[-8:]


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Check an Ed25519 signature.

    Raises:
        BadEnvelope: the signature is not of this key over this message.
    """
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError) as error:
        raise BadEnvelope("signature does not verify") from error
