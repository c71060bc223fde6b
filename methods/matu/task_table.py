"""Task table: the vectors of all tasks of a run, in the shared state, so that newcomers find them there.

    slot    id (16 bytes as 8 numbers)    vector    age (rounds since a holder spoke)    similarities
      0     9f1c...                       [n]       0                                    [slots]
      1     0                             0         0                                    0            free

A task that nobody knew takes the lowest free slot; new tasks of one round take theirs in the order of
their ids. One that had no holder for long leaves. There are only so many slots, and a task that finds none
is not carried: a state that any peer could make larger would be a way to stop all others.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from shoal.gossip.events import Vector
from shoal.methods.learning.task_identity import ID_BYTES

IDS: Final = "task_ids"
VECTORS: Final = "task_vectors"
AGES: Final = "task_ages"
SIMILARITIES: Final = "task_similarities"
_WORDS: Final = ID_BYTES // 2


@dataclass(frozen=True, slots=True)
class TaskTable:
    """The table of a round; see the module's docstring. Its arrays are never written to."""

    ids: tuple[bytes, ...]
    """One for each slot; empty where it is free."""
    vectors: Vector
    """float32 [slots, n]."""
    ages: Vector
    """float32 [slots]."""
    similarities: Vector
    """float32 [slots, slots]; 0 where not measured."""

    @classmethod
    def empty(cls, slots: int, numel: int) -> "TaskTable":
        """Return a table without tasks."""
        return cls(
            (b"",) * slots,
            np.zeros((slots, numel), np.float32),
            np.zeros(slots, np.float32),
            np.zeros((slots, slots), np.float32),
        )

    @classmethod
    def of(cls, shared: Mapping[str, Vector]) -> "TaskTable":
        """Return the table in a shared state."""
        words = shared[IDS].astype("<u2")
        ids = tuple(row.tobytes() if row.any() else b"" for row in words)
        return cls(ids, shared[VECTORS], shared[AGES], shared[SIMILARITIES])

    def shared(self) -> dict[str, Vector]:
        """Return the table as a part of a shared state."""
        words = np.zeros((len(self.ids), _WORDS), np.float32)
        for slot, id_ in enumerate(self.ids):
            if id_:
                words[slot] = np.frombuffer(id_, "<u2")
        return {
            IDS: words,
            VECTORS: self.vectors,
            AGES: self.ages,
            SIMILARITIES: self.similarities,
        }

    @property
    def known(self) -> frozenset[bytes]:
        """The ids of all tasks."""
        return frozenset(id_ for id_ in self.ids if id_)

    def slot(self, id_: bytes) -> int | None:
        """Return a task's slot, or None."""
        return self.ids.index(id_) if id_ in self.ids else None

    def vector(self, id_: bytes) -> Vector:
        """Return a task's vector; zeros for one that is not here."""
        slot = self.slot(id_)
        found: Vector = np.zeros_like(self.vectors[0]) if slot is None else self.vectors[slot]
        return found

    def admitting(self, ids: Iterable[bytes]) -> "TaskTable":
        """Return the table with these tasks in it, as far as slots are free."""
        slots = list(self.ids)
        for id_ in sorted(set(ids) - self.known):
            if b"" in slots:
                slots[slots.index(b"")] = id_
        return TaskTable(tuple(slots), self.vectors, self.ages, self.similarities)

    def after(self, vectors: Mapping[int, Vector], similarities: Vector, keep: int) -> "TaskTable":
        """Return the table after a round that brought these vectors, by slot.

        The others grow older; those without a holder for more than `keep` rounds leave.
        """
        ids, table = list(self.ids), self.vectors.copy()
        ages, similar = self.ages.copy(), similarities.copy()
        for slot, id_ in enumerate(self.ids):
            if slot in vectors:
                table[slot], ages[slot] = vectors[slot], 0
            elif id_:
                ages[slot] += 1
            if ages[slot] > keep:
                ids[slot], table[slot], ages[slot] = b"", 0, 0
                similar[slot], similar[:, slot] = 0, 0
        return TaskTable(tuple(ids), table, ages, similar)
