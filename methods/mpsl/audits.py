"""Audits: now and then a second host is asked the same as the first, and their answers are compared.

The first host cannot tell an audited step from another: whether one is audited follows from bytes that it
does not have. Of a new host every step is audited. Each time that another says the same halves how many are,
down to one in twenty. A host that lies in a share d of its steps is caught in m of them with 1 - (1 - q d)^m.
"""

from hashlib import blake2b
from typing import Final

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.methods.mpsl.asked import Known
from shoal.methods.mpsl.tokens import Array

ROWS: Final = 8
"""Examples of a step that the second host is asked about."""
TOLERANCE: Final = 1e-3
"""Of the largest number: what float16 and another machine's sums may change."""
LEAST: Final = 0.05
"""Share of the steps that are audited of a host with a good record."""


def is_due(known: Known, peer: PeerId, secret: bytes) -> bool:
    """Tell whether this step of a host is audited. `secret`: bytes that the host does not know."""
    drawn = int.from_bytes(blake2b(secret + peer.encode(), digest_size=8).digest(), "big") / 2.0**64
    return drawn < max(LEAST, 0.5 ** known.audited.get(peer, 0))


def agree(one: Array, other: Array) -> bool:
    """Tell whether two hosts said the same, float32 of any shape."""
    if one.shape != other.shape:
        return False
    most = max(float(np.abs(each).max(initial=0.0)) for each in (one, other))
    return distance(one, other) <= TOLERANCE * most


def distance(one: Array, other: Array) -> float:
    """Return the largest difference of two arrays; infinite where their shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one - other).max(initial=0.0))
