"""Proposals: what a group must look like, derived from what its members said themselves.

A convener decides nothing. Members and shares follow from what the members said in their `Ready`. The commit
then takes their parts from members that lack a link, as their `Accept`s say. A member checks both
by the signed words that it holds, or that the convener shows it.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from shoal.crypto.keys import PeerId
from shoal.gossip.matchmaking.bandwidth import capped, shares_by
from shoal.gossip.messages import Commit, Propose, Ready


def derived_shares(members: Sequence[PeerId], ready: Mapping[PeerId, Ready], most: float) -> tuple[int, ...]:
    """Return the shares of members; `most`: how many equal shares one may have at most."""
    return capped(shares_by([ready[member].uplink for member in members]), most)


def mask_of(members: Sequence[PeerId], some: AbstractSet[PeerId]) -> bytes:
    """Return a set of members as it travels."""
    return sum(1 << i for i, peer in enumerate(members) if peer in some).to_bytes(8, "big")


def named_by(members: Sequence[PeerId], mask: bytes) -> list[PeerId]:
    """Return the members in a mask."""
    bits = int.from_bytes(mask, "big")
    return [peer for i, peer in enumerate(members) if bits >> i & 1]


def lacking(members: Sequence[PeerId], masks: Mapping[PeerId, bytes]) -> set[PeerId]:
    """Return who lacks a link to a member, or is lacked by one; `masks`: what each says of its own links."""
    everyone = (1 << len(members)) - 1
    reached, found = everyone, set()
    for peer, mask in masks.items():
        links = int.from_bytes(mask, "big") & everyone
        reached &= links
        if links != everyone:
            found.add(peer)
    return found | {peer for i, peer in enumerate(members) if not reached >> i & 1}


def without_links(proposal: Propose, convener: PeerId, masks: Mapping[PeerId, bytes]) -> tuple[int, ...]:
    """Return the shares of a proposal, without those of members that lack a link to another."""
    # The convener itself has heard from all.
    out = lacking(proposal.members, masks) - {convener}
    shares = tuple(
        0 if peer in out else share for peer, share in zip(proposal.members, proposal.shares, strict=True)
    )
    # However slow its line is: if nobody had a share, all would count alike.
    return shares if any(shares) else tuple(int(peer == convener) for peer in proposal.members)


def keeps_to(commit: Commit, offered: tuple[int, ...], masks: Mapping[PeerId, bytes]) -> bool:
    """Tell whether a commit gives the shares that were offered, but for members that lack a link.

    `masks`: what the members say of their links, as far as we were shown it.
    """
    if commit.shares == offered:
        return True
    proposal = Propose(commit.round, commit.base, commit.ballot, commit.nonce, commit.members, offered)
    return commit.shares == without_links(proposal, commit.convener, masks)
