"""Fuse filters: a set of numbers in about 8.6 bits per member, with one false member in 256 others.

With fingerprints of 16 bits it takes twice that, and one in 65,536 others is a false member.

Graf, Lemire, "Binary Fuse Filters: Fast and Smaller Than Xor Filters", ACM Journal of Experimental
Algorithmics 27, 2022, https://arxiv.org/abs/2201.01174; here with four cells per key.

    | segment 0 | segment 1 | segment 2 | segment 3 | ... |       an array of bytes
          x           x           x           x                   a key's cells, in four neighbours
    key is in the set  <=>  the xor of its four cells is its fingerprint

The cells are found by peeling: a cell that only one key uses can be set last, whatever the others hold, so
that key is taken away, which frees further cells. The keys get their cells set in the reverse order. Where
a core remains that cannot be peeled, another seed is tried. All keys that can go at once go in one step,
so that the work is numpy's; the result depends on the set alone, not on the order of the keys.

Why not a library: those on the package index have three cells per key, and read a filter from bytes whose
length they do not check. A filter of ours comes from a peer, so its reader is told how large it may be.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from shoal.gossip.errors import RemoteViolation

Keys: TypeAlias = npt.NDArray[np.uint64]
Cells: TypeAlias = npt.NDArray[np.int64]
Prints: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Bits: TypeAlias = Literal[8, 16]
"""Of a fingerprint."""

ARITY: Final = 4
MAX_SEGMENT_BITS: Final = 18
MAX_SEEDS: Final = 256
"""A seed works with a chance of well over one half."""
MIN_SEGMENT: Final = 4
CHUNK: Final = 1 << 18
"""Keys that are looked up at once."""
_SHIFT32: Final = np.uint64(32)


@dataclass(frozen=True, slots=True)
class FuseFilter:
    """A set. All that `contains` looks at is in these fields: nothing is computed anew from a logarithm."""

    seed: int
    segment_length: int
    """A power of two."""
    segment_count: int
    """How many segments a key's first cell may lie in; there are three more."""
    fingerprints: Prints
    """uint8 or uint16."""

    def contains(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Say for each key whether it is in the set: always true for a member, once in 2^bits for another."""
        # In parts, since the cells of a key take forty times as much memory as the answer.
        parts = [keys[start : start + CHUNK] for start in range(0, keys.size, CHUNK)]
        return np.concatenate([np.zeros(0, np.bool_), *(self._contains(part) for part in parts)])

    def _contains(self, keys: Keys) -> npt.NDArray[np.bool_]:
        cells, hashes = _places(keys, self.seed, self.segment_length, self.segment_count)
        most = np.uint64((1 << 8 * self.fingerprints.itemsize) - 1)
        prints = hashes.copy()
        for column in cells.T:
            prints ^= self.fingerprints[column].astype(np.uint64)
        is_member: npt.NDArray[np.bool_] = prints & most == 0
        return is_member


def array_length(segment_length: int, segment_count: int) -> int:
    """Return how many fingerprints a filter's array has."""
    return (segment_count + ARITY - 1) * segment_length


def largest_array(members: int) -> int:
    """Return the most fingerprints of a filter of so many members, with room for other builders."""
    return 4 * members + 64


def build(keys: Keys, bits: Bits = 8) -> FuseFilter:
    """Return the filter of a set; what comes twice is in it once. `bits`: of a fingerprint.

    Raises:
        ValueError: the set is empty, or no seed works, which does not happen.
    """
    members = np.unique(keys)
    if members.size == 0:
        raise ValueError("an empty set needs no filter")
    segment_length, segment_count = _geometry(members.size)
    size = array_length(segment_length, segment_count)
    for seed in range(MAX_SEEDS):
        cells, hashes = _places(members, seed, segment_length, segment_count)
        order = _peel(cells, size)
        if order is not None:
            prints: Prints = hashes.astype(np.uint8) if bits == 8 else hashes.astype(np.uint16)
            return FuseFilter(seed, segment_length, segment_count, _assign(order, cells, prints, size))
    raise ValueError(f"no seed out of {MAX_SEEDS} gives a filter of {members.size} keys")


def check_geometry(seed: int, segment_length: int, segment_count: int, members: int) -> int:
    """Return how many fingerprints an announced filter has, before anything is allocated for it.

    Raises:
        RemoteViolation: no filter of so many members looks like this.
    """
    is_power = segment_length > 0 and segment_length & (segment_length - 1) == 0
    if (
        not is_power
        or segment_length > 1 << MAX_SEGMENT_BITS
        or segment_count < 1
        or not 0 <= seed < MAX_SEEDS
    ):
        raise RemoteViolation("filter of no known form", f"segments of {segment_length}, seed {seed}")
    length = array_length(segment_length, segment_count)
    if length > largest_array(members):
        raise RemoteViolation("filter is too large", f"{length} bytes for {members} members")
    return length


def _geometry(members: int) -> tuple[int, int]:
    """Return segment length and count; the formulas and their constants are the paper's, for four cells."""
    log = math.log(members) if members > 1 else 0.0
    bits = min(max(math.floor(log / math.log(2.91) - 0.5), MIN_SEGMENT.bit_length() - 1), MAX_SEGMENT_BITS)
    factor = max(1.075, 0.77 + 0.305 * math.log(600_000) / log) if log else 1.0
    capacity = math.ceil(members * factor)
    return 1 << bits, max(1, -(-capacity // (1 << bits)) - (ARITY - 1))


def _mix(words: Keys) -> Keys:
    """Permute 64-bit words so that every bit depends on all: the finisher of MurmurHash3."""
    words = words ^ (words >> np.uint64(33))
    words = words * np.uint64(0xFF51AFD7ED558CCD)
    words = words ^ (words >> np.uint64(33))
    words = words * np.uint64(0xC4CEB9FE1A85EC53)
    return words ^ (words >> np.uint64(33))


def _places(keys: Keys, seed: int, segment_length: int, segment_count: int) -> tuple[Cells, Keys]:
    """Return each key's four cells [n, 4] and its hash, whose lowest bits are its fingerprint."""
    start = np.uint64((seed + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    first = _mix(keys + start)
    second = _mix(first ^ start)
    cells = np.empty((keys.size, ARITY), np.int64)
    cells[:, 0] = ((first >> _SHIFT32) * np.uint64(segment_count * segment_length)) >> _SHIFT32
    low = np.int64(segment_length - 1)
    for i in range(1, ARITY):
        offset = (second >> np.uint64((i - 1) * MAX_SEGMENT_BITS)).astype(np.int64) & low
        cells[:, i] = (cells[:, 0] + i * segment_length) ^ offset
    return cells, first


def _peel(cells: Cells, size: int) -> list[tuple[Cells, Cells]] | None:
    """Return (keys, the cell of each) step by step, or None where keys remain that no step can take."""
    keys_of_cells = np.repeat(np.arange(len(cells)), ARITY)
    counts = np.bincount(cells.reshape(-1), minlength=size)
    # Where one key uses a cell, the sum of the keys that use it is that key.
    sums = np.zeros(size, np.int64)
    np.add.at(sums, cells.reshape(-1), keys_of_cells)
    order = []
    left = len(cells)
    free = np.flatnonzero(counts == 1)
    while free.size:
        keys, first = np.unique(sums[free], return_index=True)
        order.append((keys, free[first]))
        touched = cells[keys].reshape(-1)
        np.subtract.at(counts, touched, 1)
        np.subtract.at(sums, touched, np.repeat(keys, ARITY))
        left -= keys.size
        free = np.unique(touched[counts[touched] == 1])
    return order if left == 0 else None


def _assign(order: list[tuple[Cells, Cells]], cells: Cells, prints: Prints, size: int) -> Prints:
    array: Prints = np.zeros(size, prints.dtype)
    for keys, slots in reversed(order):
        # No other key of this step uses one of these slots, so they can all be set at once.
        array[slots] = np.bitwise_xor.reduce(array[cells[keys]], axis=1) ^ prints[keys]
    return array
