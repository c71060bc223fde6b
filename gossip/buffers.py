"""Buffers: memory for bulk that is used again when nothing refers to it any more.

Fresh memory costs the kernel's zeroing and a page fault per 4 KiB, a third of the time of receiving a frame.
Each buffer is lent through an array of its own; every view of the data keeps that array alive, and its end
brings the buffer back.
"""

import weakref
from typing import Final

import numpy as np
import numpy.typing as npt

KEEP_BYTES: Final = 64 << 20
"""Free memory that a process keeps for its next round."""


class Buffers:
    """See the module's docstring."""

    def __init__(self, keep_bytes: int = KEEP_BYTES) -> None:
        """`keep_bytes`: free memory above this goes back to the system."""
        self._free: dict[int, list[bytearray]] = {}
        self._keep_bytes = keep_bytes
        self._lent: dict[int, weakref.ref[npt.NDArray[np.uint8]]] = {}

    def take(self, size: int) -> memoryview:
        """Return memory of this size; what stands in it is anybody's."""
        try:
            buffer = self._free[size].pop()
        except (KeyError, IndexError):
            buffer = bytearray(size)
        lease = np.frombuffer(buffer, np.uint8)
        key = id(lease)

        def take_back(_: object) -> None:  # in whichever thread the last view ends: no counters, no locks
            self._lent.pop(key, None)
            # Not of the items: their tuples may set off the garbage collector, and it another call of this.
            sizes = list(self._free)
            if sum(each * len(self._free.get(each, ())) for each in sizes) + size > self._keep_bytes:
                for other in sizes:
                    if other != size:
                        self._free.pop(other, None)
                if (len(self._free.get(size, ())) + 1) * size > self._keep_bytes:
                    return
            self._free.setdefault(size, []).append(buffer)

        self._lent[key] = weakref.ref(lease, take_back)
        return lease.data


BUFFERS: Final = Buffers()
"""Of this process: what an exchange gives back, the next frame takes."""
