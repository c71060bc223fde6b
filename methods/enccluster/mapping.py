"""Mapping: which cluster each weight is in, as packed indices or, as in the paper, as a fuse filter.

    packed   ceil(log2 kappa) bits a weight
    bfuse8   the set {(j, i): weight i is in cluster j} as a filter of 8-bit fingerprints: 9 bits a weight
    bfuse16  the same with 16-bit fingerprints, as the paper's code: 18 bits a weight

A filter is longer than what it holds, and hides nothing: whoever has it looks up all kappa d pairs. At 16
clusters one weight in 17 has two candidates by false members with 8 bits, and one in 4,400 with 16. The lower
one is taken, as in the paper.
"""

from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from shoal.gossip.errors import RemoteViolation
from shoal.methods.coding.fuse_filter import Bits, FuseFilter, build, check_geometry, largest_array
from shoal.methods.coding.gathered import unpack
from shoal.methods.enccluster.grid import pack_words, unpack_words

Indices: TypeAlias = npt.NDArray[np.int64]
Form: TypeAlias = Literal["packed", "bfuse8", "bfuse16"]


class _Filter(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    seed: int
    segment_length: int
    segment_count: int
    fingerprints: bytes


_DTYPES: Final = {"bfuse8": "u1", "bfuse16": "<u2"}
_FILTER = msgspec.msgpack.Decoder(_Filter)


def write_mapping(indices: Indices, kappa: int, form: Form) -> bytes:
    """Return indices below kappa as bytes."""
    if form == "packed":
        return pack_words(indices.astype(np.uint64), (kappa - 1).bit_length())
    keys = (indices * len(indices) + np.arange(len(indices))).astype(np.uint64)
    made = build(keys, _bits(form))
    # Fingerprints of 16 bits are little endian.
    data = made.fingerprints.astype(_DTYPES[form]).tobytes()
    return msgspec.msgpack.encode(_Filter(made.seed, made.segment_length, made.segment_count, data))


def read_mapping(data: bytes, count: int, kappa: int, form: Form) -> Indices:
    """Return the index of each of `count` weights, int64 [count].

    Raises:
        RemoteViolation: it has another form, or a weight is in no cluster.
    """
    if form == "packed":
        indices = unpack_words(data, count, (kappa - 1).bit_length()).astype(np.int64)
        if (indices >= kappa).any():
            raise RemoteViolation("a weight is in no cluster")
        return indices
    told = unpack(data, _FILTER.decode)
    length = check_geometry(told.seed, told.segment_length, told.segment_count, count)
    n_bytes = length * _bits(form) // 8
    if len(told.fingerprints) != n_bytes:
        raise RemoteViolation("filter of another length", f"{len(told.fingerprints)} bytes, not {n_bytes}")
    array = np.frombuffer(told.fingerprints, _DTYPES[form])
    made = FuseFilter(told.seed, told.segment_length, told.segment_count, array)
    found = made.contains(np.arange(kappa * count, dtype=np.uint64)).reshape(kappa, count)
    if not found.any(axis=0).all():
        raise RemoteViolation("a weight is in no cluster")
    lowest: Indices = found.argmax(axis=0)
    return lowest


def mapping_bound(count: int, kappa: int, form: Form) -> int:
    """Return the most bytes that a mapping has."""
    if form == "packed":
        return -(-count * (kappa - 1).bit_length() // 8)
    return largest_array(count) * _bits(form) // 8 + 64


def _bits(form: Form) -> Bits:
    return 16 if form == "bfuse16" else 8
