"""Grants: what members say of who may join, and the words with which somebody does.

    admitted by founders --Grant--> subject --Grant--> subject        at most `delegates` grants in a chain

A grant is signed by its issuer. It is **named** where its key is the subject's own, and then it is for that
one peer; else it is a **bearer** grant, whose key is a fresh one that travels in the invite. A `Redeem` is
signed by that key and by the subject, names the whole chain, and is all that another node needs to check it.

Each grant is no wider than its parent: in uses, in how far it may be passed on, and in time. Whether a grant
still holds is no matter of the grant, but of all that is known together: see roster.py.
"""

from hashlib import blake2b
from typing import Annotated, Final

import msgspec
from nacl.signing import SigningKey

from shoal.crypto.errors import BadEnvelope
from shoal.crypto.keys import verify
from shoal.gossip.admission.charter import MAX_DELEGATES, Charter, PublicKey
from shoal.gossip.admission.edicts import Hash32, Signature, UnixTime
from shoal.gossip.admission.errors import BadGrant

GRANT_DOMAIN: Final = b"shoal/grant/1\x00"
REDEEM_DOMAIN: Final = b"shoal/redeem/1\x00"
MAX_USES: Final = 1000
CLOCK_SKEW: Final = 600
"""Seconds by which the clocks of two nodes may differ."""
NO_SIGNATURE: Final = bytes(64)


class Grant(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The holder of this key may join."""

    charter: Hash32
    issuer: PublicKey
    key: PublicKey
    """Whose signature uses the grant."""
    serial: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    """Drawn by the issuer."""
    not_after: UnixTime
    """When it can no longer be used."""
    parent: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    """The id of the grant by which the issuer joined; empty where founders admitted it."""
    is_named: bool = False
    """Whether the key is the subject's own."""
    uses: Annotated[int, msgspec.Meta(ge=1, le=MAX_USES)] = 1
    """How many peers may use it."""
    depth: Annotated[int, msgspec.Meta(ge=0, lt=MAX_DELEGATES)] = 0
    """How far those may pass it on."""
    member_until: UnixTime = 0
    """When the membership ends that it gives; 0: never."""
    signature: Signature = NO_SIGNATURE

    @property
    def id(self) -> bytes:
        """32 bytes that name the grant."""
        body = _encode(msgspec.structs.astuple(self)[:-1])
        return blake2b(body, digest_size=32, person=b"shoal/grant").digest()

    def signed_by(self, issuer: SigningKey) -> "Grant":
        """Return the grant with the signature of its issuer."""
        return msgspec.structs.replace(self, signature=issuer.sign(GRANT_DOMAIN + self.id).signature)


class Redeem(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """I join by the last grant of this chain."""

    chain: Annotated[tuple[Grant, ...], msgspec.Meta(min_length=1, max_length=MAX_DELEGATES)]
    """From the one whose issuer founders admitted to the one that is used."""
    subject: PublicKey
    at: UnixTime
    """When, by the subject's clock."""
    signature: Signature = NO_SIGNATURE
    """Of the grant's key."""
    consent: Signature = NO_SIGNATURE
    """Of the subject."""

    @property
    def grant(self) -> Grant:
        """The grant that is used."""
        return self.chain[-1]

    @property
    def id(self) -> bytes:
        """32 bytes that name this use: of this grant, by this subject, whenever."""
        body = self.grant.id + self.subject
        return blake2b(body, digest_size=32, person=b"shoal/redeem").digest()

    def signed_by(self, grant_key: SigningKey, subject: SigningKey) -> "Redeem":
        """Return the word with its two signatures."""
        text = _redeem_text(self)
        return msgspec.structs.replace(
            self, signature=grant_key.sign(text).signature, consent=subject.sign(text).signature
        )


_encode = msgspec.msgpack.Encoder().encode


def _redeem_text(redeem: Redeem) -> bytes:
    return REDEEM_DOMAIN + redeem.id + redeem.at.to_bytes(8, "big")


def check_chain(chain: tuple[Grant, ...], charter: Charter) -> None:
    """Check the form of a chain and its signatures: that each grant is no wider than its parent.

    Raises:
        BadGrant: it is, or somebody else signed it.
    """
    if charter.mode != "invite":
        raise BadGrant(f"a run that is {charter.mode} takes no invites")
    if not 1 <= len(chain) <= charter.delegates:
        raise BadGrant(f"the charter lets invites be passed on {charter.delegates} times, not {len(chain)}")
    for place, grant in enumerate(chain):
        if grant.charter != charter.id:
            raise BadGrant("the grant is of another charter")
        if grant.depth > charter.delegates - place - 1:
            raise BadGrant("the grant may be passed on further than the charter allows")
        if grant.is_named and grant.uses != 1:
            raise BadGrant("a grant that names its subject is used once")
        _check_against_parent(grant, chain[place - 1] if place else None)
        _check_signature(grant.issuer, GRANT_DOMAIN + grant.id, grant.signature)


def _check_against_parent(grant: Grant, parent: Grant | None) -> None:
    if parent is None:
        if grant.parent:
            raise BadGrant("the chain of grants has no beginning")
        return
    if grant.parent != parent.id:
        raise BadGrant("the grants are no chain")
    if parent.is_named and grant.issuer != parent.key:
        raise BadGrant("the issuer is not whom the parent grant names")
    if grant.uses > parent.uses or grant.depth >= parent.depth:
        raise BadGrant("the grant is wider than its parent")
    if grant.not_after > parent.not_after:
        raise BadGrant("the grant can be used for longer than its parent")
    if parent.member_until and not 0 < grant.member_until <= parent.member_until:
        raise BadGrant("the grant gives a longer membership than its parent")


def check_redeem(redeem: Redeem, charter: Charter) -> None:
    """Check all of a `Redeem` that can be told from it alone.

    Raises:
        BadGrant: a signature does not verify, it came too late, or a grant is wider than its parent.
    """
    grant = redeem.grant
    if grant.is_named and redeem.subject != grant.key:
        raise BadGrant("the grant names another peer")
    if redeem.at > grant.not_after:
        raise BadGrant("the grant was used too late")
    text = _redeem_text(redeem)
    _check_signature(grant.key, text, redeem.signature)
    _check_signature(redeem.subject, text, redeem.consent)
    check_chain(redeem.chain, charter)


def is_too_late(redeem: Redeem, wall_clock: float) -> bool:
    """Tell whether a subject that says this now, for the first time, comes too late."""
    return wall_clock > redeem.grant.not_after + CLOCK_SKEW


def _check_signature(key: bytes, text: bytes, signature: bytes) -> None:
    try:
        verify(key, text, signature)
    except BadEnvelope:
        raise BadGrant("a signature on the grant does not verify") from None
