"""Codec ladder: which codec fits a line, by what an exchange takes on it.

Of n peers each sends 2 (n - 1) / n vectors in an all-reduce, and receives as much: its contributions to the
parts of the others, and the mean of its own part. A codec fits where that takes no longer than the local
work of a round, or than `PATIENT` seconds. The ladder goes down from the exact one; the first that fits is
named. Nothing is measured here: what a line carries is told by its owner or by the rounds before.
"""

from collections.abc import Sequence
from typing import Final

from shoal.gossip.averaging.tensor_codecs import CODECS
from shoal.gossip.run_spec import NATIVE, RunSettings
from shoal.methods.base import Method, averages_changes, gathers, largest_exchange
from shoal.node.config.engine_preflight import COMPRESSIONS

LADDER: Final = ("float32", "int8", "int4", "int2", "sign")
"""From the exact one down. topk is not on it: it sends least and learns slowest (docs/codecs.md)."""
PATIENT: Final = 60.0
"""Seconds of an exchange that nobody minds, however short the local work is. A guess."""
TYPICAL_PEERS: Final = 4
"""Where it is not known with how many a node averages; with more it takes a third longer at most."""


def bytes_sent(codec: str, numel: int, peers: int = TYPICAL_PEERS) -> float:
    """Return the bytes that each of so many peers sends in an all-reduce of `numel` numbers."""
    return 2 * (peers - 1) / peers * CODECS[codec].size(numel)


def exchange_seconds(codec: str, numel: int, mbit: float, peers: int = TYPICAL_PEERS) -> float:
    """Return what an all-reduce takes at least on lines that carry `mbit` Mbit per second either way."""
    return bytes_sent(codec, numel, peers) * 8 / (mbit * 1e6)


def fitting_codec(
    numel: int,
    mbit: float,
    codecs: Sequence[str] = LADDER,
    *,
    peers: int = TYPICAL_PEERS,
    seconds: float = PATIENT,
) -> str:
    """Return the first of these codecs whose exchange takes no longer; if none does, the last."""
    for codec in codecs:
        if exchange_seconds(codec, numel, mbit, peers) <= seconds:
            return codec
    return codecs[-1]


def codecs_for(run: RunSettings, method: Method) -> list[str]:
    """Return the part of the ladder that a run can take."""
    return [
        name
        for name in LADDER
        if (run.engine == NATIVE or name in COMPRESSIONS)
        and (averages_changes(method) or not CODECS[name].deltas_only)
    ]


def codec_advice(
    run: RunSettings,
    method: Method,
    params_numel: int,
    mbit: float,
    *,
    peers: int = TYPICAL_PEERS,
    work_seconds: float = 0.0,
) -> str:
    """Return a line for who should take another codec; empty where the run's own fits.

    `work_seconds`: of a round's local work, 0 where that is not known.
    """
    numel, longest = largest_exchange(method, params_numel), max(PATIENT, work_seconds)
    if gathers(method) or numel == 0 or mbit <= 0 or run.codec not in CODECS:
        return ""
    taken = exchange_seconds(run.codec, numel, mbit, peers)
    if taken <= longest:
        return ""
    said = (
        f"a round sends {bytes_sent(run.codec, numel, peers) / 1e6:.3g} MB and takes about {taken:.0f} s at"
        f" {mbit:g} Mbit/s"
    )
    own = CODECS[run.codec].size(numel)
    smaller = [name for name in codecs_for(run, method) if CODECS[name].size(numel) < own]
    if not smaller:
        return f"{said}, and no codec that fits {run.method} is smaller: train more steps in a round"
    best = fitting_codec(numel, mbit, smaller, peers=peers, seconds=longest)
    words = f"--codec {best}"
    if CODECS[best].deltas_only:
        words += " --option outer_lr=1 --option outer_momentum=0"
    least = exchange_seconds(best, numel, mbit, peers)
    more = "" if least <= longest else ", and train more steps in a round"
    return f"{said}; on all peers, take {words}, which takes {least:.0f} s{more}"
