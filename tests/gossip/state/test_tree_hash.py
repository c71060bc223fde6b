"""The name of a state: every byte of it counts, and every chunk can be checked alone."""

import numpy as np

from shoal.gossip.state.tree_hash import CHUNK_BYTES, LEAF_BYTES, leaf, leaves, n_chunks, root, state_hash


def state(numel: int) -> memoryview:
    return np.arange(numel, dtype=np.float32).data


def test_the_hash_of_a_small_state_is_known() -> None:
    expected = "ff81d6b06f57382ffb5b02004b5c016eb5dc609bacd72ad65a0cb842128d47d0"
    assert state_hash(state(3)).hex() == expected


def test_a_state_is_named_by_its_leaves_and_its_size() -> None:
    data = state(3 * CHUNK_BYTES // 4 + 5)
    hashes = leaves(data)
    assert len(hashes) == LEAF_BYTES * n_chunks(data.nbytes) == 4 * LEAF_BYTES
    assert root(hashes, data.nbytes) == state_hash(data)
    assert root(hashes, data.nbytes - 1) != state_hash(data)
    view = data.cast("B")
    for chunk in range(4):
        piece = view[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]
        assert leaf(piece) == hashes[chunk * LEAF_BYTES : (chunk + 1) * LEAF_BYTES]


def test_any_changed_byte_changes_the_name() -> None:
    data = bytearray(state(40).cast("B"))
    name = state_hash(memoryview(data))
    for at in range(len(data)):
        data[at] ^= 1
        assert state_hash(memoryview(data)) != name
        data[at] ^= 1


def test_a_leaf_is_not_a_root() -> None:
    data = bytes(40)
    assert leaf(data) != state_hash(memoryview(data)) != root(leaf(data), 0)


def test_an_empty_state_has_a_name_and_no_chunks() -> None:
    assert n_chunks(0) == 0
    assert len(state_hash(memoryview(b""))) == 32
