"""The real trainer, but for what its method tells the others: for tests of what the others make of it.

    shoal start ...    with SHOAL_TESTING_TRAINER=liar LIES=bomb,giant

What it gathers is replaced by one lie after the other, from the first body on; then it is honest. The lie
``labels`` is another: it trains under wrong labels and says nothing of it.
"""

import os
import struct
import sys
import zlib
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np

import shoal.methods.coding.gathered
from shoal.methods.base import Steps
from shoal.methods.coding.fuse_filter import build
from shoal.methods.deltamask import method as deltamask
from shoal.methods.deltamask.mask_update import Filter
from shoal.methods.fedcompress import method as fedcompress
from shoal.methods.fedln import method as fedln
from shoal.methods.fedstar import method as fedstar
from shoal.methods.matu import method as matu
from shoal.methods.tasks import digits_multitask
from shoal.node.trainer import process as trainer

POSITIONS: Final = 49_152
"""Of the mask of the task digits_body."""
BOMB: Final = 64 << 20


def everything(_: bytes) -> bytes:
    """Return a filter that announces ten members, and has all positions in it."""
    built = build(np.arange(POSITIONS, dtype=np.uint64))
    form = (10, built.seed, built.segment_length, built.segment_count)
    return msgspec.msgpack.encode(Filter(*form, False, built.fingerprints.tobytes()))


def bomb(_: bytes) -> bytes:
    """Return a filter whose image of a few bytes has 64 MB of pixels."""
    built = build(np.arange(100, dtype=np.uint64))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    side = struct.pack("!II", 1 << 13, 1 << 13) + bytes([8, 0, 0, 0, 0])
    image = chunk(b"IHDR", side) + chunk(b"IDAT", zlib.compress(bytes(BOMB), 9)) + chunk(b"IEND", b"")
    form = (100, built.seed, built.segment_length, built.segment_count)
    return msgspec.msgpack.encode(Filter(*form, True, b"\x89PNG\r\n\x1a\n" + image))


def giant(_: bytes) -> bytes:
    """Return a filter that announces 2^40 members."""
    return msgspec.msgpack.encode(Filter(1 << 40, 0, 1 << 18, 1 << 30, True, b""))


def nan(body: bytes) -> bytes:
    """Return a clustered model whose first codebook begins with no number, or a task without a scale."""
    parts = msgspec.msgpack.decode(body)
    if isinstance(parts[2], list):
        parts[2][0][3] = float("nan")
    else:
        model = bytearray(parts[4])
        dimensions = model[7]
        place = 8 + 4 * dimensions + 1
        model[place : place + 4] = struct.pack("<f", float("nan"))
        parts[4] = bytes(model)
    return msgspec.msgpack.encode(parts)


def examples(body: bytes) -> bytes:
    """Return an update on 2^40 examples."""
    parts = msgspec.msgpack.decode(body)
    return msgspec.msgpack.encode([1 << 40, *parts[1:]])


def scale(body: bytes) -> bytes:
    """Return a task message whose first scale is a million."""
    parts = msgspec.msgpack.decode(body)
    parts[2][0][3] = 1e6
    return msgspec.msgpack.encode(parts)


def noise(_: bytes) -> bytes:
    """Return what is no message at all."""
    return b"noise"


LIES: Final[dict[str, Callable[[bytes], bytes]]] = {
    each.__name__: each for each in (everything, bomb, giant, nan, examples, scale, noise)
}


def main() -> int:
    """Run a trainer that lies as LIES says."""
    named = [name for name in os.environ["LIES"].split(",") if name]
    if "labels" in named:
        digits_multitask.LABELS = {**digits_multitask.LABELS, "upright": lambda labels: (labels + 3) % 10}  # type: ignore[misc]
    lies = [LIES[name] for name in named if name != "labels"]

    def exchange(body: bytes, read: Callable[[bytes], Any], *, tag: str, **bounds: Any) -> Steps[Any]:
        if lies and tag != "ballots":
            body = lies.pop(0)(body)
        return shoal.methods.coding.gathered.exchange(body, read, tag=tag, **bounds)

    for module in (deltamask, fedcompress, fedln, fedstar, matu):
        module.exchange = exchange  # type: ignore[attr-defined]
    return trainer.main()


if __name__ == "__main__":
    sys.exit(main())
