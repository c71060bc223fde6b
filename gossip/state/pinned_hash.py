"""The name of tensors that never change: a root over blocks of 256 KiB, so that each can be verified alone.

    leaf_i = BLAKE3(02 | block_i)          blocks of one tensor, in its own dtype; the last one is shorter
    root   = BLAKE3(03 | msgpack [name, dtype, shape] | n_bytes as u64 | leaf_0 | leaf_1 | … of each tensor)

Tensors come in the order of their names. A state is named in another way (tree_hash.py), since it is one
vector of which only the trained part is kept.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from blake3 import blake3

from shoal.gossip.events import Data
from shoal.gossip.run_spec import TensorSpec

BLOCK_BYTES: Final = 256 << 10
_encode = msgspec.msgpack.Encoder().encode


def block_leaf(data: Data) -> bytes:
    """Return the hash of one block."""
    return blake3(b"\x02").update(data).digest()


def block_leaves(data: Data) -> bytes:
    """Return the hashes of a tensor's blocks, one after another."""
    view = memoryview(data).cast("B")
    starts = range(0, len(view), BLOCK_BYTES)
    return b"".join(block_leaf(view[at : at + BLOCK_BYTES]) for at in starts)


def tensor_head(spec: TensorSpec, n_bytes: int) -> bytes:
    """Return what the name says of a tensor before the hashes of its blocks."""
    return _encode(spec) + n_bytes.to_bytes(8, "big")


def pinned_hash(tensors: Iterable[tuple[TensorSpec, Data]]) -> bytes:
    """Return the 32-byte name of tensors, given with their bytes in the order of their names."""
    whole = blake3(b"\x03")
    for spec, data in tensors:
        whole.update(tensor_head(spec, memoryview(data).nbytes)).update(block_leaves(data))
    return whole.digest()
