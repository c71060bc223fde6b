"""Mask updates: the positions at which a peer's mask differs from the agreed one, as few bytes.

    bfuse8   a fuse filter of the positions, its bytes as a PNG where that is shorter; 1 in 256 others seem in
    rice     the sorted positions as gaps, exact
    bits     a bit for every position, exact: what a mask costs without any coding

Reading is a pure function of the bytes, the number of positions and the bounds, which all peers share: who
refuses an update, refuses it with everyone. A filter that everything is in would turn the whole mask over,
so what is in it is counted, against what was announced and against a cap on any update.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
import numpy as np

from shoal.gossip.errors import RemoteViolation
from shoal.methods.coding.bit_coding import (
    Bits,
    Indices,
    from_png,
    pack_bits,
    rice_bits,
    rice_decode,
    rice_encode,
    to_png,
    unpack_bits,
)
from shoal.methods.coding.fuse_filter import FuseFilter, build, check_geometry
from shoal.methods.coding.gathered import unpack

Coding: TypeAlias = Literal["bfuse8", "rice", "bits"]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]
SLACK: Final = 16
"""False positives above three times the expected number that are still believed: small sets vary."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What all peers know about an update before they read it."""

    positions: int
    """Of the mask."""
    most: int
    """Differences that an update may announce."""

    @property
    def false_positives(self) -> int:
        """How many positions may seem to be in a filter that were not put in: thrice what is expected."""
        return 3 * self.positions // 256 + SLACK


class _Form(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The base of the forms on the wire."""


class Filter(_Form, frozen=True, tag="f"):
    """Positions as a fuse filter."""

    count: Count
    seed: Count
    segment_length: Count
    segment_count: Count
    is_image: bool
    data: bytes


class Rice(_Form, frozen=True, tag="r"):
    """Positions as a Rice code."""

    count: Count
    k: Count
    data: bytes


class Dense(_Form, frozen=True, tag="b"):
    """A bit for every position."""

    data: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Filter | Rice | Dense).decode


def write(positions: Indices, coding: Coding, bounds: Bounds) -> bytes:
    """Return sorted positions as bytes."""
    if coding == "bits":
        bits = np.zeros(bounds.positions, np.bool_)
        bits[positions] = True
        return _encode(Dense(pack_bits(bits)))
    # No filter holds an empty set; as a Rice code it has no bits at all.
    if coding == "rice" or not positions.size:
        return _encode(_rice(positions, bounds))
    return _encode(_filter(positions))


def read(body: bytes, bounds: Bounds) -> Bits:
    """Return a mask of the positions in an update.

    Raises:
        RemoteViolation: it is damaged, or there is more in it than it announced or anyone may send.
    """
    form = unpack(body, _decode)
    match form:
        case Dense():
            bits = unpack_bits(form.data, bounds.positions)
            if bits.sum() > bounds.most:
                raise RemoteViolation("update is too large", f"{bits.sum()} of at most {bounds.most}")
            return bits
        case Filter() | Rice() if form.count > bounds.most:
            raise RemoteViolation("update is too large", f"{form.count} of at most {bounds.most}")
        case Rice():
            bits = np.zeros(bounds.positions, np.bool_)
            bits[rice_decode(form.data, form.k, form.count, bounds.positions)] = True
            return bits
    return _read_filter(form, bounds)


def _rice(positions: Indices, bounds: Bounds) -> Rice:
    k = rice_bits(positions.size, bounds.positions)
    return Rice(positions.size, k, rice_encode(positions, k))


def _filter(positions: Indices) -> Filter:
    built = build(positions.astype(np.uint64))
    raw, image = built.fingerprints.tobytes(), to_png(built.fingerprints.view(np.uint8))
    is_image = len(image) < len(raw)
    form = (positions.size, built.seed, built.segment_length, built.segment_count)
    return Filter(*form, is_image, image if is_image else raw)


def _read_filter(form: Filter, bounds: Bounds) -> Bits:
    length = check_geometry(form.seed, form.segment_length, form.segment_count, form.count)
    if form.is_image:
        array = from_png(form.data, length)
    elif len(form.data) == length:
        array = np.frombuffer(form.data, np.uint8)
    else:
        raise RemoteViolation("filter of another length", f"{len(form.data)} bytes, not {length}")
    filter_ = FuseFilter(form.seed, form.segment_length, form.segment_count, array)
    bits = filter_.contains(np.arange(bounds.positions, dtype=np.uint64))
    found = int(bits.sum())
    if not form.count <= found <= form.count + bounds.false_positives:
        raise RemoteViolation("filter holds other than it announced", f"{found}, not {form.count}")
    return bits
