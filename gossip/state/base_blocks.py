"""The frozen base of a run as a file of blocks: who lacks it fetches it by its name, block by block.

    file   [ tensor 0 | pad | tensor 1 | pad | ... ]    in the order of names; each begins at a multiple of 64
    chunk  one block of 256 KiB of one tensor, numbered through all tensors

The name is that of `pinned_hash`, and pads are no part of it. It stands in the run's name, so nobody can give
another base: the leaves of an offer must hash to the name, and each block to its leaf.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from blake3 import blake3

from shoal.gossip.run_spec import TensorSpec
from shoal.gossip.state.pinned_hash import BLOCK_BYTES, block_leaf, tensor_head
from shoal.gossip.state.tree_hash import LEAF_BYTES

ALIGNED: Final = 64
"""Every tensor begins at a multiple of so many bytes, so that it is used where it lies."""
MAX_BLOCKS: Final = (4 << 20) // LEAF_BYTES
"""Of a base that is fetched: its leaves travel in one message. That is 32 GiB."""
ITEM_BYTES: Final = {
    **{f"{kind}{bits}": bits // 8 for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    "bool": 1,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
    **{f"float8_{kind}": 1 for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz")},
}
"""Bytes of a number, by dtype, of what a file of blocks may hold."""


class NoBlocks(ValueError):
    """These tensors cannot lie in a file of blocks."""


class BaseTree:
    """Where the blocks of a base lie, and how they are hashed. See the module's docstring."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        """Lay out tensors, in the order of their names.

        Raises:
            NoBlocks: a dtype is unknown, or there are more than `MAX_BLOCKS` blocks.
        """
        for spec in specs:
            if spec.dtype not in ITEM_BYTES:
                raise NoBlocks(f"{spec.name} is {spec.dtype}, of which no blocks are made")
        self.specs = tuple(specs)
        self._sizes = [spec.numel * ITEM_BYTES[spec.dtype] for spec in specs]
        places = accumulate((-(-size // ALIGNED) * ALIGNED for size in self._sizes), initial=0)
        *self._starts, self.n_bytes = places
        *self._firsts, self.n_chunks = accumulate((-(-n // BLOCK_BYTES) for n in self._sizes), initial=0)
        if self.n_chunks > MAX_BLOCKS:
            raise NoBlocks(f"the frozen tensors have {self.n_chunks} blocks; {MAX_BLOCKS} can be fetched")

    def span(self, chunk: int) -> "slice[int, int, None]":
        """Return where a block lies in the file."""
        tensor = bisect_right(self._firsts, chunk) - 1
        at = (chunk - self._firsts[tensor]) * BLOCK_BYTES
        start, size = self._starts[tensor], self._sizes[tensor]
        return slice(start + at, start + min(at + BLOCK_BYTES, size))

    def leaf(self, data: memoryview | bytes) -> bytes:
        """Return the hash of one block."""
        return block_leaf(data)

    def root(self, leaves: bytes) -> bytes:
        """Return the base's name from the hashes of all blocks."""
        whole = blake3(b"\x03")
        ends = [*self._firsts[1:], self.n_chunks]
        for spec, size, first, end in zip(self.specs, self._sizes, self._firsts, ends, strict=True):
            whole.update(tensor_head(spec, size)).update(leaves[first * LEAF_BYTES : end * LEAF_BYTES])
        return whole.digest()

    def tensors(self) -> Iterator[tuple[TensorSpec, "slice[int, int, None]"]]:
        """Yield each tensor, and where it lies in the file."""
        for spec, start, size in zip(self.specs, self._starts, self._sizes, strict=True):
            yield spec, slice(start, start + size)


@dataclass(frozen=True, slots=True)
class BaseBlocks:
    """A base, or the place of one that is fetched."""

    name: bytes
    tree: BaseTree
    data: memoryview
    """The mapped file: its blocks are read and written there, and never copied whole."""
    leaves: bytes = b""
    """The hashes of all blocks, where they are known."""
    have: frozenset[int] = frozenset()
    """Blocks that are verified already."""
