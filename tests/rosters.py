"""Founders, members and their words, for tests of who may join."""

from dataclasses import dataclass, field
from hashlib import blake2b

from nacl.signing import SigningKey

from shoal.crypto.keys import PeerId, key_from_seed, peer_id_of
from shoal.gossip.admission.charter import Charter, Founders, Mode
from shoal.gossip.admission.edicts import Edict, Verb
from shoal.gossip.admission.grants import Grant, Redeem
from shoal.gossip.admission.roster import Roster

NOW = 1_000_000
DAY = 86_400


def key(name: str) -> SigningKey:
    """Return the key of a name: the same in every run."""
    return key_from_seed(blake2b(name.encode(), digest_size=32).digest())


def public(name: str) -> bytes:
    """Return the public key of a name."""
    return bytes(key(name).verify_key)


def peer(name: str) -> PeerId:
    """Return the peer id of a name."""
    return peer_id_of(public(name))


@dataclass
class World:
    """A charter, and those who speak under it."""

    mode: Mode = "invite"
    founders: tuple[str, ...] = ("ann", "bob", "eve")
    threshold: int = 2
    delegates: int = 2
    charter: Charter = field(init=False)

    def __post_init__(self) -> None:
        """Make the charter."""
        keys = tuple(sorted(map(public, self.founders)))
        self.charter = Charter(
            mode=self.mode, founders=keys, threshold=self.threshold, delegates=self.delegates
        )

    def roster(self, **rounds: int) -> Roster:
        """Return an empty roster; `rounds`: finished together with peers by name."""
        known = {peer(name): count for name, count in rounds.items()}
        made = Roster(self.charter)
        made.rounds_with = lambda each: known.get(each, 0)
        return made

    def edict(
        self,
        verb: Verb,
        subject: str | bytes,
        *,
        by: tuple[str, ...] = ("ann", "bob"),
        epoch: int = 1,
        until: int = 0,
        under: Founders | None = None,
        new: tuple[str, ...] = (),
        threshold: int = 0,
    ) -> Edict:
        """Return a signed edict."""
        made = Edict(
            charter=self.charter.id,
            under=(under or self.charter.first_founders).id,
            epoch=epoch,
            verb=verb,
            subject=public(subject) if isinstance(subject, str) else subject,
            until=until,
            keys=tuple(sorted(map(public, new))),
            threshold=threshold,
        )
        return made.signed_by(*map(key, by))

    def admit(self, *names: str, by: tuple[str, ...] = ("ann", "bob")) -> list[Edict]:
        """Return edicts that admit these peers."""
        return [self.edict("admit", name, by=by) for name in names]

    def change_founders(self, *new: str, threshold: int, former: Founders, by: tuple[str, ...]) -> Edict:
        """Return the edict that puts others in the place of a set of founders."""
        return self.edict("set_founders", former.id, by=by, under=former, new=new, threshold=threshold)

    def grant(
        self,
        issuer: str,
        holder: str,
        *,
        uses: int = 1,
        depth: int = 0,
        parent: Grant | None = None,
        not_after: int = NOW + DAY,
        member_until: int = 0,
        is_named: bool = False,
        serial: int = 0,
    ) -> Grant:
        """Return a grant whose key is that of `holder`: the subject where it is named."""
        made = Grant(
            charter=self.charter.id,
            issuer=public(issuer),
            key=public(holder),
            serial=serial.to_bytes(16, "big"),
            not_after=not_after,
            parent=parent.id if parent is not None else b"",
            is_named=is_named,
            uses=uses,
            depth=depth,
            member_until=member_until,
        )
        return made.signed_by(key(issuer))

    def redeem(self, subject: str, holder: str, *chain: Grant, at: int = NOW) -> Redeem:
        """Return the word with which a subject joins by the last grant, whose key is that of `holder`."""
        return Redeem(chain, public(subject), at).signed_by(key(holder), key(subject))
