"""Peers that lie about states: with a crowd of keys that they made up, they claim and serve one of their own.

    lineage     20 fresh keys with a later round, in a lineage of the liar's    far away, and finite
    nan-state   four of them                                                    numbers that are none

    undead      says of everybody whom it has known, the dead too, that they have just spoken

The liar serves what it claims, as any donor does, so whoever goes by it comes to hold it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip import messages as m
from shoal.gossip.events import Send
from shoal.gossip.state.tree_hash import leaves, state_hash

if TYPE_CHECKING:
    from sim.node import SimNode

NUMEL: Final = 26
PARENT: Final = b"\xbb" * 32
MADE_UP: Final = {
    "lineage": (20, np.full(NUMEL, 1000.0, np.float32)),
    "nan-state": (4, np.full(NUMEL, np.nan, np.float32)),
}
"""By lie: how many keys vouch for it, and the state."""


def state_of(lie: str) -> bytes:
    """Return the hash of the state that a lie is about."""
    return state_hash(MADE_UP[lie][1].data)


def lineage(node: SimNode, effect: Send) -> list[Send]:
    """Claim a finite state far away."""
    return _claim(node, effect, "lineage")


def nan_state(node: SimNode, effect: Send) -> list[Send]:
    """Claim a state without numbers."""
    return _claim(node, effect, "nan-state")


def _claim(node: SimNode, effect: Send, lie: str) -> list[Send]:
    if not isinstance(effect.message, m.Records):
        return [effect]
    member, (count, vector) = node.member, MADE_UP[lie]
    round_, state, view = member.round + 3, state_of(lie), vector.data.cast("B")
    member.serving.hold(round_, state, PARENT, view, leaves(vector.data))
    (mine, age), *others = effect.message.records
    if mine.author != node.me:
        # An introduction: what others say is signed.
        return [effect]
    claim = msgspec.structs.replace(
        mine.presence, round=round_, state=state, previous=PARENT, has_finished_round=True
    )
    told = m.Records(((m.Record(mine.author, mine.sequence, claim), age), *others), effect.message.reply)
    crowd = tuple(
        (m.Record(PeerId(f"{lie} {number}"), int(node.sim.now * 1e6), claim), 0.0) for number in range(count)
    )
    return [Send(effect.peer, told), Send(effect.peer, m.Records(crowd))]


def undead(node: SimNode, effect: Send) -> list[Send]:
    """Hand on every record that it has ever seen, as new."""
    if not isinstance(effect.message, m.Records):
        return [effect]
    kept = node.kept_records
    for peer, entry in node.member.table:
        kept[peer] = entry.record
    told = tuple((record, 0.0) for record in list(kept.values())[:30])
    return [effect, Send(effect.peer, m.Records(told))]
