"""Codebooks: tensors of few distinct values, as bytes between peers and in a file.

    body     "SHC1" | uint16 tensors | tensor...
    tensor   uint8 kind | uint8 dimensions | uint32[dimensions] | content
      raw 0      float32[numel]
      packed 1   uint8 kappa - 1 | float32[kappa] | indices of ceil(log2 kappa) bits, the lowest bit first
      coded 2    uint8 kappa - 1 | float32[kappa] | uint32 length | DEFLATE of one byte per index

Everything is little-endian. A codebook ascends strictly and holds no value that no index names, so equal
tensors have equal bytes whatever order their clusters had; of the three kinds the shortest is written.

DEFLATE is given a byte per index and told not to look for repetitions: its Huffman codes then come within
a few percent of the entropy. (Bits packed first, as one might, have hardly any order left: at 8 and 16
clusters of a Gaussian it gains nothing, this 10 to 20 %.)

What a peer sent is never trusted: shapes are those of the run's manifest, so that every size is known
before anything is inflated or allocated; an index without a value, a codebook that is not finite, is too
large or does not ascend, and bytes left over are refused.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Vector
from shoal.gossip.run_spec import TensorSpec
from shoal.methods.coding.kmeans1d import MAX_CLUSTERS, Clusters, cluster
from shoal.methods.params import views

MAGIC: Final = b"SHC1"
RAW: Final = 0
PACKED: Final = 1
CODED: Final = 2
MAX_VALUE: Final = 2.0**20
"""Larger numbers are no parameters; fixed-point sums could overflow."""

Shapes = Sequence[tuple[int, ...]]
Bytes = npt.NDArray[np.uint8]


def encode(tensors: Sequence[Clusters | Vector], shapes: Shapes) -> bytes:
    """Return tensors as bytes; a tensor without clusters is written raw."""
    head = MAGIC + struct.pack("<H", len(shapes))
    return head + b"".join(_encode(tensor, shape) for tensor, shape in zip(tensors, shapes, strict=True))


def encode_vector(vector: Vector, specs: Sequence[TensorSpec], kappa: int) -> bytes:
    """Return a model's vector as bytes, every tensor in at most `kappa` clusters."""
    flat = [view.reshape(-1) for view in views(vector, specs).values()]
    return encode([cluster(values, kappa) for values in flat], [spec.shape for spec in specs])


def decode(body: bytes, specs: Sequence[TensorSpec], *, kappa: int = MAX_CLUSTERS) -> Vector:
    """Return the vector of a model in a peer's bytes; no tensor has more than `kappa` distinct values.

    Raises:
        RemoteViolation: no correct peer writes these bytes.
    """
    reader = _Reader(body)
    if reader.take(4) != MAGIC or reader.number("<H") != len(specs):
        raise RemoteViolation("body is no model of ours")
    parts = [_decode(reader, spec.shape, spec.numel, kappa) for spec in specs]
    if reader.left:
        raise RemoteViolation("bytes are left over")
    return np.concatenate(parts)


def read_floats(body: bytes, count: int) -> Vector:
    """Return the float32 numbers in a peer's bytes.

    Raises:
        RemoteViolation: they are not so many, not finite or too large.
    """
    reader = _Reader(body)
    values = reader.floats(count)
    if reader.left:
        raise RemoteViolation("bytes are left over")
    return values


def max_bytes(specs: Sequence[TensorSpec], kappa: int) -> int:
    """Return a bound on the bytes of a model with at most `kappa` values per tensor."""
    bits = (kappa - 1).bit_length()
    return 6 + sum(2 + 4 * len(s.shape) + 1 + 4 * kappa + -(-s.numel * bits // 8) for s in specs)


def _encode(tensor: Clusters | Vector, shape: tuple[int, ...]) -> bytes:
    dimensions = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    if not isinstance(tensor, Clusters):
        return bytes([RAW]) + dimensions + tensor.astype("<f4").tobytes()
    canonical = Clusters.of(tensor.values)
    assert canonical is not None, "a codebook has at most as many values as an index has names"
    codebook, indices = canonical.codebook, canonical.indices
    head = dimensions + bytes([codebook.size - 1]) + codebook.astype("<f4").tobytes()
    bits = (codebook.size - 1).bit_length()
    packed = np.packbits(_bits(indices, bits), bitorder="little").tobytes()
    deflated = _deflate(indices.tobytes())
    kinds = [
        bytes([RAW]) + dimensions + canonical.values.astype("<f4").tobytes(),
        bytes([PACKED]) + head + packed,
        bytes([CODED]) + head + struct.pack("<I", len(deflated)) + deflated,
    ]
    # The shortest; the first of equals.
    return min(kinds, key=len)


def _bits(indices: Bytes, bits: int) -> Bytes:
    """Return the lowest `bits` of each index, one per element."""
    return np.unpackbits(indices[:, None], axis=1, count=bits, bitorder="little").reshape(-1)


def _deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


class _Reader:
    """Bytes, from the front."""

    def __init__(self, body: bytes) -> None:
        self._view = memoryview(body)

    @property
    def left(self) -> int:
        return len(self._view)

    def take(self, count: int) -> bytes:
        if count > len(self._view):
            raise RemoteViolation("body is too short")
        taken, self._view = bytes(self._view[:count]), self._view[count:]
        return taken

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def floats(self, count: int) -> Vector:
        values = np.frombuffer(self.take(4 * count), "<f4").astype(np.float32)
        if not (np.abs(values) <= MAX_VALUE).all():
            raise RemoteViolation("a value is not finite, or too large")
        return values


def _decode(reader: _Reader, shape: tuple[int, ...], numel: int, kappa: int) -> Vector:
    kind = reader.number("<B")
    dimensions = reader.number("<B")
    if dimensions != len(shape) or reader.take(4 * dimensions) != struct.pack(f"<{dimensions}I", *shape):
        raise RemoteViolation("a shape is not the model's")
    if kind == RAW:
        values = reader.floats(numel)
        if np.unique(values).size > kappa:
            raise RemoteViolation("a tensor has too many values")
        return values
    if kind not in (PACKED, CODED):
        raise RemoteViolation("a tensor is of no known kind")
    size = reader.number("<B") + 1
    if size > kappa:
        raise RemoteViolation("a codebook is too large")
    codebook = reader.floats(size)
    if not (np.diff(codebook) > 0).all():
        raise RemoteViolation("a codebook does not ascend")
    indices = _unpack(reader, numel, size) if kind == PACKED else _inflate(reader, numel)
    used = np.zeros(MAX_CLUSTERS, bool)
    used[indices] = True
    if used[size:].any() or not used[:size].all():
        raise RemoteViolation("an index names no value, or a value has no index")
    return codebook[indices]


def _unpack(reader: _Reader, numel: int, size: int) -> Bytes:
    bits = (size - 1).bit_length()
    packed = np.frombuffer(reader.take(-(-numel * bits // 8)), np.uint8)
    flat = np.unpackbits(packed, bitorder="little")
    if flat[numel * bits :].any():
        raise RemoteViolation("bits are left over")
    table = flat[: numel * bits].reshape(numel, bits)
    return np.packbits(table, axis=1, bitorder="little").reshape(-1) if bits else np.zeros(numel, np.uint8)


def _inflate(reader: _Reader, numel: int) -> Bytes:
    data = reader.take(reader.number("<I"))
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than is allowed, so that a stream that holds more is seen, never held.
        inflated = decoder.decompress(data, numel + 1)
    except zlib.error as error:
        raise RemoteViolation("indices do not inflate") from error
    if len(inflated) != numel or not decoder.eof or decoder.unused_data:
        raise RemoteViolation("indices are not as many as the tensor has numbers")
    return np.frombuffer(inflated, np.uint8)
