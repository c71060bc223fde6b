"""The roster of a run, as people and programs are shown it."""

from collections.abc import Mapping
from typing import Final

import msgspec

from shoal.crypto.keys import PeerId, peer_id_of
from shoal.gossip.admission.charter import key_text
from shoal.gossip.admission.edicts import Edict
from shoal.gossip.admission.roster import Roster
from shoal.gossip.admission.rotations import Rotation

FOR_EVER: Final = float(1 << 40)
"""As the end of what a user refuses: a time that no clock shows, and that JSON can hold."""


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One member of a run."""

    peer: str
    issuer: str
    """The peer that invited it; empty: founders admitted it."""
    until: int
    """Unix seconds; 0: for ever."""
    is_held_back: bool
    """Whether its invite was used by more peers than may, and it is new here."""


class BanStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One peer that is kept out."""

    peer: str
    by: str
    """founders, or this node: then it alone refuses the peer."""
    until: int
    """Unix seconds; 0: for ever."""
    reason: str = ""


class RosterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The roster of a run: its members, and the peers that are kept out."""

    mode: str
    """open, invite or closed."""
    charter: str
    """As it stands in the settings; empty where nobody governs."""
    hash: str
    """First 12 hex digits: equal on nodes that have heard the same."""
    founders: list[str]
    threshold: int
    members: list[MemberStatus]
    bans: list[BanStatus]
    is_member: bool
    """Whether this node may take part."""
    is_split: bool
    """Whether two sets of founders claim to follow the same one."""


def roster_status(
    roster: Roster | None, refused: Mapping[PeerId, float], me: PeerId, now: float
) -> RosterStatus:
    """Return what is shown at a time of the roster's clock; `refused`: by this node alone, and until when."""
    own = [
        BanStatus(peer=peer, by="this node", until=0 if until >= FOR_EVER else int(until))
        for peer, until in sorted(refused.items())
    ]
    if roster is None:
        return RosterStatus(
            mode="open", charter="", hash="", founders=[], threshold=0, members=[], bans=own,
            is_member=True, is_split=False,
        )  # fmt: skip
    held = roster.held_back(now)
    return RosterStatus(
        mode=roster.charter.mode,
        charter=str(roster.charter),
        hash=roster.hash.hex()[:12],
        founders=[key_text(key) for key in roster.founders.keys],
        threshold=roster.founders.threshold,
        members=[
            MemberStatus(
                peer=each.peer, issuer=each.issuer or "", until=each.until, is_held_back=each.peer in held
            )
            for each in roster.memberships(now)
        ],
        bans=[
            *(
                BanStatus(peer=peer, by="founders", until=edict.until, reason=edict.reason)
                for peer, edict in sorted(roster.bans(now).items())
            ),
            *own,
        ],
        is_member=roster.may_take_part(me, now),
        is_split=roster.is_split,
    )


class EdictStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One edict that is kept."""

    id: str
    """First 12 hex digits."""
    verb: str
    subject: str
    """A peer id; in hex where it is a grant, a set of founders, or the fingerprint of a key."""
    epoch: int
    until: int
    reason: str
    signatures: int


def edict_status(edict: Edict | Rotation) -> EdictStatus:
    """Return what is shown of an edict, or of a new key of the private network."""
    if isinstance(edict, Rotation):
        return EdictStatus(
            id=edict.id.hex()[:12],
            verb="rotate_key",
            subject=edict.former.hex(),
            epoch=edict.epoch,
            until=edict.until,
            reason=f"a new key for {len(edict.boxes)} members",
            signatures=len(edict.signatures),
        )
    is_peer = edict.verb in ("admit", "ban", "pardon")
    return EdictStatus(
        id=edict.id.hex()[:12],
        verb=edict.verb,
        subject=peer_id_of(edict.subject) if is_peer else edict.subject.hex(),
        epoch=edict.epoch,
        until=edict.until,
        reason=edict.reason,
        signatures=len(edict.signatures),
    )
