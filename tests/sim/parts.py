"""Parts in the simulator: a pinned base that some nodes fetch before they train, and what is a node's own.

The base has six blocks of 64 bytes. Who lacks it starts without a trainer, and attaches one when its member
has fetched it, as the daemon does. A node's own numbers lie in the memory that it shares with its daemon,
behind the vector that travels.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.gossip.member.commands import BaseArriving, BaseFetched, FetchBase, HoldBase
from shoal.gossip.run_spec import TensorSpec
from shoal.gossip.state.base_blocks import BaseBlocks, BaseTree
from shoal.gossip.state.tree_hash import leaf_of

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import Sim

AGREE: Final = "a part's holders agree"
PINNED: Final = "a pinned part never changes"
HOME: Final = "own state never leaves"
BLOCKS: Final = 6
TREE: Final = BaseTree([TensorSpec(f"base.{number}", "float32", (16,)) for number in range(BLOCKS)])
BASE: Final = np.random.default_rng(11).normal(size=TREE.n_bytes // 4).astype(np.float32).tobytes()
LEAVES: Final = b"".join(TREE.leaf(BASE[TREE.span(chunk)]) for chunk in range(BLOCKS))
NAME: Final = TREE.root(LEAVES)
OWN: Final = 4
"""Numbers that are a node's own."""


@cache
def own_of(number: int) -> Any:
    """Return what is a node's own: numbers that nobody else has."""
    return np.random.default_rng([13, number]).normal(size=OWN).astype(np.float32)


class BaseOnDisk:
    """What outlives a crash of the base: blocks in their places, believed by their hashes alone."""

    def __init__(self) -> None:
        """It lies here whole."""
        self.data, self.leaves, self.is_whole = bytearray(BASE), LEAVES, True

    def lose(self) -> None:
        """Be a node that never had it."""
        self.data, self.leaves, self.is_whole = bytearray(len(BASE)), b"", False

    def begin(self) -> FetchBase | HoldBase:
        """Return what the node tells its member when it starts."""
        view = memoryview(self.data)
        chunks = range(BLOCKS) if self.leaves else ()
        have = [c for c in chunks if TREE.leaf(view[TREE.span(c)]) == leaf_of(self.leaves, c)]
        base = BaseBlocks(NAME, TREE, view, self.leaves, frozenset(have))
        return HoldBase(base) if self.is_whole else FetchBase(base)

    def noticed(self, notice: Any) -> bool:
        """Do what the daemon does; tells whether the trainer can start."""
        if isinstance(notice, BaseArriving):
            self.leaves = notice.leaves
        elif isinstance(notice, BaseFetched):
            self.is_whole = True
        return isinstance(notice, BaseFetched)


class Parts:
    """What the oracle knows of parts."""

    def __init__(self, sim: Sim) -> None:
        """Nobody holds anything yet."""
        self._sim = sim
        self._held: dict[tuple[str, bytes], bytes] = {}
        self._own = {number: own_of(number).tobytes() for number in range(sim.scenario.nodes)}

    def held(self, node: SimNode, part: str, name: bytes, data: bytes) -> None:
        """A node holds a part by this name."""
        if self._sim.oracle.is_liar(node.me):
            return
        if self._held.setdefault((part, name), data) != data:
            self._sim.oracle.violate(AGREE, f"{node.me} holds other bytes of {part} than another")
        if part == "base" and data != BASE:
            self._sim.oracle.violate(PINNED, f"{node.me} holds a base that is none")

    def sent(self, node: SimNode, data: Any) -> None:
        """A node sends bytes."""
        if self._own[node.number] in bytes(data):
            self._sim.oracle.violate(HOME, f"{node.me} sent what is its own")

    def are_waited_for(self) -> bool:
        """Tell whether a node still lacks the base that an honest one could give it."""
        live = [node for node in self._sim.nodes.values() if node.is_alive and not node.is_helper]
        givers = [n for n in live if n.disk.base.is_whole and not self._sim.oracle.is_liar(n.me)]
        return bool(givers) and not all(node.disk.base.is_whole for node in live)

    def finish(self) -> None:
        """Look at what lies on all disks."""
        for node in self._sim.nodes.values():
            if node.disk.base.is_whole:
                self.held(node, "base", NAME, bytes(node.disk.base.data))
