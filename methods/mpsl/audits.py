"""Audits: now and then a second host is asked the same as the first, and their answers are compared.

The first host cannot tell an audited step from another: whether one is audited follows from bytes that it
does not have. Of a new host every step is audited. Each time that another says the same halves how many are,
down to one in twenty. A host that lies in a share d of its steps is caught in m of them with 1 - (1 - q d)^m.
"""

from hashlib import blake2b
from typing import Final

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.calls.forms import Tensors
from shoal.gossip.errors import Unanswered
from shoal.methods.base import Steps
from shoal.methods.mpsl.asked import Asked, Known
from shoal.methods.mpsl.tokens import Array
from shoal.methods.mpsl.wire import NO_STAGE
from shoal.methods.roles.serves import call

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


def compare(asked: Asked, tensors: Tensors, step: bytes) -> Steps[bool]:
    """Ask two holders of a body for outputs; tells whether they could be compared.

    They can where both say that they hold the same params, `v`, as they do after each averaging. Where their
    outputs differ, a third one that holds the same says which of them lies.
    """
    told = dict[PeerId, Tensors]()
    for peer in asked.trusted:
        try:
            answer = yield from call((peer,), asked.names.predict, tensors, step=step, is_last=True)
        except Unanswered as error:
            if NO_STAGE not in str(error):
                asked.unanswered(peer)
            continue
        told[peer] = answer.tensors
        if len(told) == 2 and (done := _judged(asked, told)) is not None:
            return done
        if len(told) == 3:
            return _named(asked, told)
    asked.known.doubted = tuple(told) if len(told) == 2 else ()
    return len(told) == 2


def _judged(asked: Asked, told: dict[PeerId, Tensors]) -> bool | None:
    """Return whether two could be compared; None: they say unlike things of the same params."""
    one, other = told.values()
    if one["v"].shape != (1,) or not np.array_equal(one["v"], other["v"]):
        return False
    if not agree(one["y"], other["y"]):
        return None
    for peer in told:
        asked.known.audited[peer] = asked.known.audited.get(peer, 0) + 1
    asked.known.doubted = ()
    return True


def _named(asked: Asked, told: dict[PeerId, Tensors]) -> bool:
    """Name whoever of the first two says something else than the third of the same params."""
    *two, third = told
    if not np.array_equal(told[third]["v"], told[two[0]]["v"]):
        asked.known.doubted = tuple(two)
        return True
    wrong = [peer for peer in two if not agree(told[peer]["y"], told[third]["y"])]
    asked.known.doubted = tuple(two) if len(wrong) == 2 else ()
    if len(wrong) == 1:
        asked.answered_wrongly(wrong[0])
    return True
