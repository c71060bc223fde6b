"""A base as blocks: where they lie, and that their tree has the name that `pinned_hash` gives."""

from itertools import pairwise

import numpy as np
import pytest

from shoal.gossip.run_spec import TensorSpec
from shoal.gossip.state.base_blocks import ALIGNED, BaseTree, NoBlocks
from shoal.gossip.state.pinned_hash import BLOCK_BYTES, pinned_hash

SPECS = (
    TensorSpec("a.bias", "float16", (3,)),
    TensorSpec("b.empty", "float32", (0, 4)),
    TensorSpec("c.weight", "float32", (3, BLOCK_BYTES // 4)),
    TensorSpec("d.weight", "int8", (BLOCK_BYTES + 5,)),
)
SIZES = (6, 0, 3 * BLOCK_BYTES, BLOCK_BYTES + 5)


def bytes_of(seed: int) -> list[bytes]:
    dice = np.random.default_rng(seed)
    return [dice.bytes(size) for size in SIZES]


def test_the_tree_has_the_name_that_the_run_has() -> None:
    tree, tensors = BaseTree(SPECS), bytes_of(1)
    file = bytearray(tree.n_bytes)
    for (_, where), data in zip(tree.tensors(), tensors, strict=True):
        file[where] = data
    blocks = [memoryview(file)[tree.span(chunk)] for chunk in range(tree.n_chunks)]
    assert tree.root(b"".join(map(tree.leaf, blocks))) == pinned_hash(zip(SPECS, tensors, strict=True))


def test_blocks_cover_every_tensor_and_nothing_else() -> None:
    tree = BaseTree(SPECS)
    spans = [tree.span(chunk) for chunk in range(tree.n_chunks)]
    assert [span.stop - span.start for span in spans] == [6, *[BLOCK_BYTES] * 4, 5]
    assert [where.start % ALIGNED for _, where in tree.tensors()] == [0] * 4
    assert all(one.stop <= other.start for one, other in pairwise(spans))
    assert spans[-1].stop <= tree.n_bytes < spans[-1].stop + ALIGNED


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (TensorSpec("w", "qint8", (4,)), "w is qint8, of which no blocks are made"),
        (TensorSpec("w", "float32", (1 << 40,)), "have 16777216 blocks; 131072 can be fetched"),
    ],
)
def test_what_no_file_can_hold_is_refused(spec: TensorSpec, why: str) -> None:
    with pytest.raises(NoBlocks, match=why):
        BaseTree((spec,))
