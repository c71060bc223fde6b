"""Keys and the peer ids that are derived from them."""

import base58
import pytest

from shoal.crypto.errors import BadEnvelope, BadKey
from shoal.crypto.keys import key_from_seed, new_key, peer_id_of, public_key_of, short, verify

# Test 1 of RFC 8032, section 7.1, so that ours is Ed25519 as others know it.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
SIGNATURE = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
    "d25bf5f0595bbe24655141438e7a100b"
)


def test_a_seed_gives_the_key_that_the_standard_says() -> None:
    key = key_from_seed(SEED)
    assert bytes(key.verify_key) == PUBLIC
    assert key.sign(b"").signature == SIGNATURE
    verify(PUBLIC, b"", SIGNATURE)


def test_a_peer_id_is_the_one_that_libp2p_derives_and_holds_the_key() -> None:
    from libp2p.crypto.ed25519 import Ed25519PublicKey
    from libp2p.peer.id import ID

    peer = peer_id_of(PUBLIC)
    assert peer == str(ID.from_pubkey(Ed25519PublicKey.from_bytes(PUBLIC)))
    assert peer.startswith("12D3KooW")
    assert public_key_of(peer) == PUBLIC
    assert short(peer) == peer[-8:]


@pytest.mark.parametrize("seed", [b"", SEED[:-1], SEED + b"\x00"])
def test_a_seed_of_another_length_is_no_key(seed: bytes) -> None:
    with pytest.raises(BadKey, match="32 bytes"):
        key_from_seed(seed)
    with pytest.raises(BadKey, match="32 bytes"):
        peer_id_of(seed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0OIl",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        peer_id_of(PUBLIC)[:-1],
        peer_id_of(PUBLIC) + "1",
        base58.b58encode(b"\x00\x25\x08\x01\x12\x20" + PUBLIC).decode(),
        "\u00e9" * 52,
    ],
)
def test_what_is_no_peer_id_of_such_a_key_is_refused(text: str) -> None:
    with pytest.raises(BadKey):
        public_key_of(text)  # type: ignore[arg-type]


def test_every_new_key_is_another() -> None:
    assert len({bytes(new_key()) for _ in range(20)}) == 20


@pytest.mark.parametrize("index", range(64))
def test_a_signature_with_a_flipped_byte_does_not_verify(index: int) -> None:
    altered = bytearray(SIGNATURE)
    altered[index] ^= 1
    with pytest.raises(BadEnvelope):
        verify(PUBLIC, b"", bytes(altered))


def test_a_signature_of_another_length_or_key_does_not_verify() -> None:
    for signature in (b"", SIGNATURE[:-1], SIGNATURE + b"\x00"):
        with pytest.raises(BadEnvelope):
            verify(PUBLIC, b"", signature)
    with pytest.raises(BadEnvelope):
        verify(bytes(new_key().verify_key), b"", SIGNATURE)
    with pytest.raises(BadEnvelope):
        verify(PUBLIC[:-1], b"", SIGNATURE)
