"""The line: what a round takes on it with each codec. Nothing is sent to measure it.

How many Mbit per second it carries up is told by its owner, or by the rounds that the running node made.
"""

from typing import Final

import msgspec

from shoal.gossip.run_spec import RunSettings
from shoal.methods.base import Method, largest_exchange
from shoal.node.config.codec_ladder import (
    LADDER,
    PATIENT,
    TYPICAL_PEERS,
    bytes_sent,
    codec_advice,
    codecs_for,
    exchange_seconds,
    fitting_codec,
)
from shoal.node.doctor.findings import Finding, finding_of
from shoal.node.text import duration, size

HOW: Final = "shoal doctor --line --mbit 20 --parameters 124000000"


class LineRow(msgspec.Struct, frozen=True):
    """What an exchange takes with one codec."""

    codec: str
    bytes_sent: int
    """By each peer, in a round."""
    seconds: float
    fits: bool
    """Whether it takes no longer than `PATIENT` seconds."""
    is_used: bool
    """Whether the run has it."""


class Line(msgspec.Struct, frozen=True):
    """A line, and a model that is averaged over it."""

    mbit: float
    """Mbit per second up."""
    origin: str
    """Who says so."""
    numel: int
    """Numbers that travel."""
    rows: list[LineRow]


def line_of(run: RunSettings, method: Method | None, numel: int, mbit: float, origin: str) -> Line:
    """Return what a round of `numel` params takes at so many Mbit per second, for each codec of the run.

    `method`: of the run, where it is known here.
    """
    travels = largest_exchange(method, numel) if method is not None else numel
    codecs = codecs_for(run, method) if method is not None else list(LADDER)
    rows = [
        LineRow(
            codec,
            round(bytes_sent(codec, travels)),
            exchange_seconds(codec, travels, mbit),
            exchange_seconds(codec, travels, mbit) <= PATIENT,
            codec == run.codec,
        )
        for codec in codecs
    ]
    return Line(mbit, origin, travels, rows)


def check_line(run: RunSettings, method: Method | None, numel: int, mbit: float, origin: str) -> Finding:
    """Say which codec fits a line.

    `numel`: of the model's params, 0 where no model is known. `mbit`: 0 where nobody says.
    """
    if not mbit:
        return Finding(
            "line", "note", "nothing tells what your line carries up, and no round has shown it", HOW
        )
    if not numel:
        return Finding("line", "note", f"{mbit:g} Mbit/s up ({origin}), and no model is known here", HOW)
    advice = codec_advice(run, method, numel, mbit) if method is not None else ""
    if advice:
        return finding_of("line", "note", advice)
    line = line_of(run, method, numel, mbit, origin)
    used = next((row for row in line.rows if row.is_used), line.rows[0])
    text = f"{mbit:g} Mbit/s up ({origin}): a round of {TYPICAL_PEERS} peers sends {size(used.bytes_sent)}"
    text += f" each with {used.codec}, which takes {duration(used.seconds)}"
    if used.fits:
        return Finding("line", "ok", text)
    best = fitting_codec(line.numel, mbit, [row.codec for row in line.rows])
    return Finding("line", "note", text, f"on all peers: shoal start --codec {best}")
