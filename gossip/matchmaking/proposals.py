"""Proposals: what a group must look like, derived from what its members said themselves.

A convener decides nothing. Members and shares follow from what the members said in their `Ready`. The commit
then takes their parts from members that lack a link, as their `Accept`s say. A member checks both by the
signed words that it holds, or that the convener shows it.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b

from shoal.crypto.keys import PeerId
from shoal.gossip.matchmaking.bandwidth import capped, shares_by
from shoal.gossip.messages import Commit, Propose, Ready


def group_id(run: bytes, commit: Commit) -> bytes:
    """Return the 16-byte name of a committed group."""
    text = "\0".join((commit.convener, *commit.members)).encode()
    numbers = b"".join(n.to_bytes(8, "big") for n in (commit.round, commit.ballot, commit.nonce))
    shares = b"".join(share.to_bytes(4, "big") for share in commit.shares)
    small = commit.halvings.to_bytes(1, "big") + commit.newcomers
    return blake2b(run + commit.base + numbers + small + shares + text, digest_size=16).digest()


def commit_of(proposal: Propose, convener: PeerId) -> Commit:
    """Return the commit of a proposal."""
    return Commit(
        proposal.round,
        proposal.base,
        proposal.ballot,
        proposal.nonce,
        convener,
        proposal.members,
        proposal.shares,
        proposal.halvings,
        proposal.newcomers,
    )


def derived_shares(
    members: Sequence[PeerId],
    ready: Mapping[PeerId, Ready],
    newcomers: AbstractSet[PeerId],
    most: float,
) -> tuple[int, ...]:
    """Return the shares of members: 0 for newcomers, at most `most` equal ones for anybody."""
    others = [member for member in members if member not in newcomers]
    sized = capped(shares_by([ready[member].uplink for member in others]), most)
    shares = dict(zip(others, sized, strict=True))
    return tuple(shares.get(member, 0) for member in members)


def mask_of(members: Sequence[PeerId], some: AbstractSet[PeerId]) -> bytes:
    """Return a set of members as it travels."""
    return sum(1 << i for i, peer in enumerate(members) if peer in some).to_bytes(8, "big")


def named_by(members: Sequence[PeerId], mask: bytes) -> list[PeerId]:
    """Return the members in a mask."""
    bits = int.from_bytes(mask, "big")
    return [peer for i, peer in enumerate(members) if bits >> i & 1]


def leaves_out_most(
    members: AbstractSet[PeerId], supporters: AbstractSet[PeerId], ready: AbstractSet[PeerId]
) -> bool:
    """Tell whether a group leaves out more than half of the supporters that are ready."""
    held = supporters & ready
    return 2 * len(held - members) > len(held)


def without_links(proposal: Propose, convener: PeerId, masks: Mapping[PeerId, bytes]) -> tuple[int, ...]:
    """Return the shares of a proposal, without those of members that lack a link to another.

    `masks`: to which members they have links, as they say.
    """
    # The convener itself has heard from all.
    out = _lacking(proposal.members, masks) - {convener}
    shares = tuple(
        0 if peer in out else share for peer, share in zip(proposal.members, proposal.shares, strict=True)
    )
    # However slow its line is: if nobody had a share, all would count alike.
    return shares if any(shares) else tuple(int(peer == convener) for peer in proposal.members)


def keeps_to(commit: Commit, offered: tuple[int, ...], masks: Mapping[PeerId, bytes]) -> bool:
    """Tell whether a commit gives the shares that were offered, but for members that lack a link."""
    if commit.shares == offered:
        return True
    proposal = Propose(commit.round, commit.base, commit.ballot, commit.nonce, commit.members, offered)
    return commit.shares == without_links(proposal, commit.convener, masks)


def _lacking(members: Sequence[PeerId], masks: Mapping[PeerId, bytes]) -> set[PeerId]:
    """Return who lacks a link to a member, or is lacked by one."""
    everyone = (1 << len(members)) - 1
    reached, found = everyone, set()
    for peer, mask in masks.items():
        links = int.from_bytes(mask, "big") & everyone
        reached &= links
        if links != everyone:
            found.add(peer)
    return found | {peer for i, peer in enumerate(members) if not reached >> i & 1}
