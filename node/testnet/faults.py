"""What a testnet is put through: how its links are, what befalls its nodes and when, and what must hold.

Plain data, read from the command line or from a scenario file (node/testnet/plan.py). The same words
serve processes and simulated nodes: nothing here knows how a node is killed or a link is cut.
"""

import re
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from shoal.node.errors import UserError

FaultKind: TypeAlias = Literal["kill", "pause", "split", "slow"]

_UNITS: Final = {
    "seconds": {"": 1.0, "s": 1.0, "ms": 1e-3},
    "share": {"": 1.0, "%": 0.01},
    "mbit": {"": 1.0, "kbit": 1e-3, "mbit": 1.0, "gbit": 1e3},
}
_EXAMPLES: Final = {"seconds": "80ms or 0.08", "share": "1% or 0.01", "mbit": "20mbit"}
_QUANTITY: Final = re.compile(r"([0-9]*\.?[0-9]+)\s*([a-z%]*)")


class BadQuantity(UserError):
    """A number with a unit was not understood; the message shows right ones."""

    exit_code = 2


def quantity(text: str, kind: Literal["seconds", "share", "mbit"]) -> float:
    """Return the number that a text such as 80ms, 1% or 20mbit stands for.

    Raises:
        BadQuantity: no number, or a unit of something else.
    """
    found = _QUANTITY.fullmatch(text.strip().lower())
    if found is None or found[2] not in _UNITS[kind]:
        raise BadQuantity(f"{text!r} is not understood; write {_EXAMPLES[kind]}")
    return float(found[1]) * _UNITS[kind][found[2]]


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The line by which a node reaches all others. It shapes what the node sends."""

    latency: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    """Seconds one way. An answer takes those of both nodes."""
    jitter: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    """Seconds by which the latency differs at most, up and down, from packet to packet."""
    loss: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.0
    """Share of the packets that are lost. Above a half no TCP connection lives."""
    bandwidth_mbit: Annotated[float, msgspec.Meta(ge=0, le=1e5)] = 0.0
    """Millions of bits per second; 0: as the machine can."""

    @property
    def is_shaped(self) -> bool:
        """Whether it differs from the bare line."""
        return self != Link()

    def __str__(self) -> str:
        """Print as ``80 ms ± 20 ms, 1 % loss, 20 Mbit/s``."""
        parts = []
        if self.latency or self.jitter:
            spread = f" ± {1000 * self.jitter:g} ms" if self.jitter else ""
            parts.append(f"{1000 * self.latency:g} ms{spread}")
        if self.loss:
            parts.append(f"{100 * self.loss:g} % loss")
        if self.bandwidth_mbit:
            parts.append(f"{self.bandwidth_mbit:g} Mbit/s")
        return ", ".join(parts) or "bare"


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that befalls nodes, once or again and again."""

    kind: FaultKind
    """kill (and start again), pause (and thaw), split (and heal), slow (another link, and back)."""
    at: Annotated[float, msgspec.Meta(ge=0)]
    """Seconds after the first round of the swarm."""
    nodes: tuple[Annotated[int, msgspec.Meta(ge=1)], ...] = ()
    """Whom, counted from 1; empty: as many as `pick` says, drawn by the seed."""
    pick: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How many are drawn each time."""
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    """How long it lasts; 0: to the end."""
    every: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds between two of its kind; 0: once."""
    until: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """None begins later than this many seconds; 0: as long as the swarm runs."""
    link: Link = Link(latency=0.3, bandwidth_mbit=2.0)
    """The link while it lasts, where the kind is slow."""


class Holds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must hold all the same, beside what always must (node/testnet/invariants.py)."""

    lost_rounds: Annotated[int, msgspec.Meta(ge=0)] = 0
    """At most so many rounds are lost by any node that nothing happened to."""
    starved_rounds: Annotated[int, msgspec.Meta(ge=1)] = 3
    """A node that lives and is linked misses at most so many rounds in a row."""
    back_within: Annotated[int, msgspec.Meta(ge=0)] = 2
    """A node that came back and has the swarm's state takes part within so many rounds."""
    rejoin_seconds: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    """A node that was cut off or frozen has the swarm's state again after so many seconds. Dials that failed
    are tried again every 20 s at least."""
    accuracy_drop: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.02
    """The mean accuracy is at most this much below that of the same plan left in peace."""
