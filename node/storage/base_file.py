"""Base files: the frozen tensors of a run on a node's disk, for its own trainer and for newcomers.

    base-NAME.data      the tensors as gossip/state/base_blocks.py lays them out, whole
    base-NAME.leaves    the hashes of its blocks
    base-NAME.part      the same while it is fetched: blocks lie in their places, the rest is anything

A block counts by its hash alone, so that a fetch goes on after a kill with what lies in the .part file.
Both files are mapped, and never read into memory as a whole. They may be deleted while the node is down.
"""

import errno
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from shoal.gossip.events import Data
from shoal.gossip.run_spec import TensorSpec
from shoal.gossip.state.base_blocks import BaseBlocks, BaseTree
from shoal.gossip.state.pinned_hash import block_leaves
from shoal.gossip.state.tree_hash import leaf_of
from shoal.node.storage.files import write_whole
from shoal.node.text import size

ROOM: Final = 2
"""A base that is here already gets a file only if the disk has so many times its bytes free."""


class BaseFile:
    """The files of one base in a node's folder. All methods block, and may raise OSError."""

    def __init__(self, folder: Path, name: bytes, specs: Sequence[TensorSpec]) -> None:
        """Nothing is read or made yet.

        Raises:
            NoBlocks: there are no blocks of such tensors.
        """
        self.name, self.tree = name, BaseTree(specs)
        self.path = folder / f"base-{name.hex()}.data"
        self._leaves, self._part = self.path.with_suffix(".leaves"), self.path.with_suffix(".part")

    @property
    def is_whole(self) -> bool:
        """Whether the base lies here; its numbers are verified by whoever uses them."""
        return self.path.is_file() and self.path.stat().st_size == self.tree.n_bytes

    def open(self) -> BaseBlocks | None:
        """Map the base as it lies here, if it does."""
        leaves = self._known_leaves()
        if not self.is_whole or not leaves:
            return None
        with self.path.open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return BaseBlocks(self.name, self.tree, view, leaves, frozenset(range(self.tree.n_chunks)))

    def begin(self) -> BaseBlocks:
        """Map the place of a base that is fetched, with the blocks that are here from an earlier start.

        Raises:
            OSError: there is no room for it.
        """
        self._part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # Without room a write into a mapped file ends the process.
            _reserve(descriptor, self.tree.n_bytes)
            view = memoryview(mmap.mmap(descriptor, self.tree.n_bytes))
        finally:
            os.close(descriptor)
        leaves = self._known_leaves()
        return BaseBlocks(self.name, self.tree, view, leaves, self._verified(view, leaves))

    def keep_leaves(self, leaves: bytes) -> None:
        """Keep the hashes, by which a later start finds out what is here."""
        write_whole(self._leaves, leaves)

    def finish(self, base: BaseBlocks) -> None:
        """Make a file of a base of which all blocks are here."""
        mapped = base.data.obj
        assert isinstance(mapped, mmap.mmap)
        mapped.flush()
        self._part.replace(self.path)

    def write(self, tensors: Iterator[Data]) -> None:
        """Make a file of tensors that this node has already, given in the order of their names.

        Raises:
            OSError: the disk has no room for it, or cannot be written.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(self.path.parent).free < ROOM * self.tree.n_bytes:
            raise OSError(errno.ENOSPC, f"less than {size(ROOM * self.tree.n_bytes)} are free")
        hashes: list[bytes] = []
        write_whole(self.path, self._pieces(tensors, hashes), is_durable=False)
        self.keep_leaves(b"".join(hashes))

    def remove(self) -> None:
        """Delete a base whose numbers are damaged."""
        self.path.unlink(missing_ok=True)

    # --- inside -----------------------------------------------------------------------------------

    def _pieces(self, tensors: Iterator[Data], hashes: list[bytes]) -> Iterator[bytes | memoryview]:
        at = 0
        for (_, where), data in zip(self.tree.tensors(), tensors, strict=True):
            view = memoryview(data).cast("B")
            assert len(view) == where.stop - where.start
            hashes.append(block_leaves(view))
            yield memoryview(bytes(where.start - at))
            yield view
            at = where.stop
        yield memoryview(bytes(self.tree.n_bytes - at))

    def _known_leaves(self) -> bytes:
        try:
            leaves = self._leaves.read_bytes()
        except OSError:
            return b""
        is_right = len(leaves) == 32 * self.tree.n_chunks and self.tree.root(leaves) == self.name
        return leaves if is_right else b""

    def _verified(self, view: memoryview, leaves: bytes) -> frozenset[int]:
        if not leaves:
            return frozenset()
        tree = self.tree
        chunks = range(tree.n_chunks)
        return frozenset(c for c in chunks if tree.leaf(view[tree.span(c)]) == leaf_of(leaves, c))


def _reserve(descriptor: int, n_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
    os.ftruncate(descriptor, n_bytes)
