"""Tokens: an invite as one word, all that a newcomer types.

    shoal1…  =  bech32m of the msgpack array of a `Token`

It holds the run (its id and every setting in which it differs from the defaults, the charter among them),
where the inviter is reached, who the inviter is, the chain of grants, and for a bearer grant the seed of its
key. So it says whom to trust: the founders by the charter, and the inviter by its key.
"""

from typing import Annotated, Final

import msgspec
from nacl.signing import SigningKey

from shoal.crypto.keys import PeerId, key_from_seed, peer_id_of
from shoal.gossip.admission import bech32m
from shoal.gossip.admission.charter import MAX_DELEGATES, PublicKey
from shoal.gossip.admission.errors import BadToken
from shoal.gossip.admission.grants import Grant, Redeem

PREFIX: Final = "shoal"
MAX_TEXT: Final = 8192
MAX_ADDRESSES: Final = 2
Scalar = bool | int | float | str
Setting = Scalar | dict[Annotated[str, msgspec.Meta(max_length=200)], Scalar]


class Token(msgspec.Struct, frozen=True, array_like=True, kw_only=True, forbid_unknown_fields=True):
    """What an invite says."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    run: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    """The run id, with which the newcomer's own must be equal."""
    swarm: Annotated[str, msgspec.Meta(max_length=200)]
    settings: Annotated[
        dict[Annotated[str, msgspec.Meta(max_length=32)], Setting], msgspec.Meta(max_length=32)
    ]
    """What of `RunSettings` is not as by default."""
    inviter: PublicKey
    """Whose node this came from: the first one to believe."""
    addresses: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=256)], ...], msgspec.Meta(max_length=MAX_ADDRESSES)
    ] = ()
    chain: Annotated[tuple[Grant, ...], msgspec.Meta(max_length=MAX_DELEGATES)] = ()
    """Empty where the run needs no grant: it is open, or its founders have admitted the newcomer."""
    seed: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    """Of the key of a bearer grant; empty where the grant names the newcomer."""

    def __repr__(self) -> str:
        """Leave the seed out: who reads it can join."""
        return f"Token(run={self.run.hex()[:8]}, inviter={self.anchor}, {len(self.chain)} grants)"

    @property
    def anchor(self) -> PeerId:
        """The inviter's peer id."""
        return peer_id_of(self.inviter)

    def text(self) -> str:
        """Return the word."""
        return bech32m.encode(PREFIX, msgspec.msgpack.encode(self))

    def redeem(self, subject: SigningKey, at: int) -> Redeem | None:
        """Return the words with which this newcomer joins, or None where none are needed.

        Raises:
            BadToken: the grant names another peer.
        """
        if not self.chain:
            return None
        grant, own = self.chain[-1], bytes(subject.verify_key)
        if grant.is_named and grant.key != own:
            raise BadToken(
                f"this invite is for {peer_id_of(grant.key)}, and this node is {peer_id_of(own)}; "
                f"ask for one with: shoal invite --to {peer_id_of(own)}"
            )
        key = subject if grant.is_named else key_from_seed(self.seed)
        return Redeem(self.chain, own, at).signed_by(key, subject)


def token_of(text: str) -> Token:
    """Return the invite of a word that somebody handed on.

    Raises:
        BadToken: it is none, or cut.
    """
    word = "".join(text.split())
    if len(word) > MAX_TEXT:
        raise BadToken(f"an invite has at most {MAX_TEXT} characters")
    try:
        token: Token = msgspec.msgpack.decode(bech32m.decode(PREFIX, word), type=Token)
    except ValueError as error:
        if isinstance(error, msgspec.ValidationError):
            raise BadToken("this invite is of another version of shoal; update shoal on both nodes") from None
        raise BadToken(f"not an invite ({error}); copy all of what shoal invite printed") from None
    if token.chain and not token.chain[-1].is_named and not _has_key_of(token, token.chain[-1]):
        raise BadToken("this invite lacks the key of its grant; copy all of what shoal invite printed")
    return token


def _has_key_of(token: Token, grant: Grant) -> bool:
    return len(token.seed) == 32 and bytes(key_from_seed(token.seed).verify_key) == grant.key
