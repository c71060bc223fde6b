"""Quorum: whose contributions count for it, so that nobody fills a group with peers of his own making.

A node with colleagues counts those, peers that are nearly so, and peers that its user named. A node without
any counts the members that it is linked to: each of them has signed that it is ready. That says little, since
a key costs nothing, so the status says so too. Newcomers never count.
"""

from collections.abc import Set as AbstractSet

from shoal.crypto.keys import PeerId
from shoal.gossip.group import Bodies, Exchanged, Group
from shoal.gossip.membership.swarm_view import SwarmView


def is_meaningful(view: SwarmView) -> bool:
    """Tell whether the quorum is of peers that this node knows."""
    return view.spec is None or view.spec.quorum == 1 or bool(view.colleagues.colleagues())


def counting(view: SwarmView, group: Group, linked: AbstractSet[PeerId]) -> frozenset[PeerId]:
    """Return the members of a group whose contributions count; `linked`: peers when the group began."""
    known = view.colleagues
    if colleagues := known.colleagues():
        some = colleagues | known.nearly() | known.named
    else:
        some = frozenset(linked)
    return (some | {view.me}) & (frozenset(group.members) - group.newcomers)


def fewest_of(some: AbstractSet[PeerId], group: Group, outcome: Exchanged | Bodies) -> int:
    """Return how many of these contributed to what has the fewest of them."""
    if isinstance(outcome, Bodies):
        return sum(peer in some for peer, _ in outcome.bodies)
    bits = sum(1 << i for i, peer in enumerate(group.members) if peer in some)
    masks = {mask for part in outcome.masks for mask in part}
    return min(((mask & bits).bit_count() for mask in masks), default=len(some))


def is_in_all(me: PeerId, group: Group, outcome: Exchanged | Bodies) -> bool:
    """Tell whether a node's own contribution is in all that its exchange came to."""
    if isinstance(outcome, Bodies):
        return any(peer == me for peer, _ in outcome.bodies)
    bit = 1 << group.members.index(me)
    return all(mask & bit for part in outcome.masks for mask in part)
