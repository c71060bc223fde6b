"""Ballots: the holders of a task say whose vector does it harm, and all count alike.

    cells      every (task, holder) of the tasks with at least three holders, in an order that all know
    ballot     a bit for each cell, set where the voter finds that holder's vector harmful; and one for mixing
    accused    whom more than half of the task's other holders, of those who voted, find harmful

With two holders each could only accuse the other, so nobody is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.methods.coding.bit_coding import Bits, pack_bits, unpack_bits

LEAST_HOLDERS: Final = 3


@dataclass(frozen=True, slots=True)
class Cells:
    """What can be voted on."""

    cells: tuple[tuple[bytes, PeerId], ...]
    """(Task id, holder)."""
    holders: Mapping[bytes, frozenset[PeerId]]
    """Of each task in the cells."""

    @classmethod
    def of(cls, holders: Mapping[bytes, Sequence[PeerId]]) -> "Cells":
        """Return the cells of a round whose tasks have these holders."""
        asked = {id_: each for id_, each in sorted(holders.items()) if len(each) >= LEAST_HOLDERS}
        cells = tuple((id_, peer) for id_, each in asked.items() for peer in sorted(each))
        return cls(cells, {id_: frozenset(each) for id_, each in asked.items()})


def write_ballot(cells: Cells, harmful: set[tuple[bytes, PeerId]], *, mixing_harms: bool) -> bytes:
    """Return a ballot."""
    return pack_bits(np.array([*(cell in harmful for cell in cells.cells), mixing_harms], np.bool_))


def read_ballot(body: bytes, cells: Cells) -> Bits:
    """Return a bit for each cell, and the one for mixing at the end.

    Raises:
        RemoteViolation: it is a ballot on other cells.
    """
    return unpack_bits(body, len(cells.cells) + 1)


def accused(cells: Cells, ballots: Sequence[tuple[PeerId, Bits]]) -> set[tuple[bytes, PeerId]]:
    """Return the cells that more than half of those entitled find harmful."""
    found = set()
    for i, (id_, peer) in enumerate(cells.cells):
        entitled = [bits[i] for voter, bits in ballots if voter in cells.holders[id_] and voter != peer]
        if 2 * sum(map(int, entitled)) > len(entitled):
            found.add((id_, peer))
    return found


def is_mixing_harmful(ballots: Sequence[tuple[PeerId, Bits]]) -> bool:
    """Return whether more than half find that mixing does harm."""
    return 2 * sum(int(bits[-1]) for _, bits in ballots) > len(ballots)
