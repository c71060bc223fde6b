"""Task reduction: from all peers' messages to every task's vector, the same on every peer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Vector
from shoal.methods.coding.bit_coding import Bits
from shoal.methods.matu.message import HeardMessage
from shoal.methods.matu.task_table import TaskTable
from shoal.methods.matu.task_vectors import (
    Combined,
    Contribution,
    Signs,
    majority,
    mix,
    reconstruct,
    sign_plane,
    similarity,
)


@dataclass(frozen=True, slots=True)
class Holder:
    """What a peer says of one task."""

    peer: PeerId
    contribution: Contribution
    tau: Vector
    mask: Bits

    def signs(self) -> Signs:
        """Return the signs of its own vector."""
        return sign_plane(self.tau, self.mask)


def by_task(messages: Iterable[tuple[PeerId, HeardMessage]]) -> dict[bytes, list[Holder]]:
    """Return the holders of each task, tasks by id and holders by peer id."""
    found: dict[bytes, list[Holder]] = {}
    for peer, message in sorted(messages, key=lambda each: each[0]):
        for id_, heard in message.tasks.items():
            vector = reconstruct(message.tau, heard.mask, heard.scale)
            contribution = Contribution.of(vector, heard.examples)
            found.setdefault(id_, []).append(Holder(peer, contribution, message.tau, heard.mask))
    return dict(sorted(found.items()))


def with_similarities(
    table: TaskTable, before: TaskTable, holders: Mapping[bytes, Iterable[Holder]]
) -> Vector:
    """Return the table's similarities, with those of the tasks that are new since `before` measured.

    A new task's vector is what its first round added, so its signs are untouched by any mixing of its own.
    """
    similarities = table.similarities.copy()
    carried = {slot: each for id_, each in holders.items() if (slot := table.slot(id_)) is not None}
    new = [slot for slot in carried if table.ids[slot] not in before.known]
    if not new:
        return similarities
    planes = {slot: majority([holder.signs() for holder in each]) for slot, each in carried.items()}
    for slot in new:
        for other, plane in planes.items():
            if other != slot:
                measured = np.float32(similarity(planes[slot], plane))
                similarities[slot, other] = similarities[other, slot] = measured
    return similarities


def mixed(
    told: Mapping[int, Combined], similarities: Vector, *, neighbours: int, least: float
) -> dict[int, Vector]:
    """Return each task's vector with its neighbours' mixed in, by slot."""
    slots = sorted(told)
    among = similarities[np.ix_(slots, slots)]
    vectors = mix([told[slot] for slot in slots], among, neighbours=neighbours, least=least)
    return dict(zip(slots, vectors, strict=True))
