"""The arithmetic of a bad line: when what a node sends arrives, if the line were like that.

    node --Egress: bandwidth, shared by all its links--> Course: latency, jitter, loss; in order --> peer

TCP hides loss: a lost segment comes again after the retransmission time, and everything behind it waits,
since a stream is delivered in order. So a loss is a stall here, not a hole. What is left out is the
sender's congestion window: with much loss a real connection is slower than this one.

Pure: the clock and the dice are handed in. node/testnet/network/proxy.py moves bytes by it.

What the proxy of a testnet says it has done, in a file that it writes again every second.
"""

import math
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from shoal.node.storage.files import write_whole
from shoal.node.testnet.faults import Link

SEGMENT_BYTES: Final = 1448
"""What a TCP segment carries over Ethernet."""
LEAST_RETRANSMISSION: Final = 0.2
"""Seconds; the shortest retransmission timeout of Linux."""
QUEUE_SECONDS: Final = 0.25
"""How much may wait before a slow line until its sender is held back, as in the queue of a router."""


class Egress:
    """The one line by which a node sends to all others: a bucket that drains at its bandwidth."""

    def __init__(self, link: Link = Link()) -> None:  # noqa: B008 - it is frozen
        """Nothing waits yet."""
        self.link = link
        self._free_at = 0.0

    def leave(self, n_bytes: int, now: float) -> float:
        """Queue bytes; return when the last of them has left."""
        if not self.link.bandwidth_mbit:
            return now
        self._free_at = max(self._free_at, now) + 8 * n_bytes / (1e6 * self.link.bandwidth_mbit)
        return self._free_at

    def has_room_at(self, now: float) -> float:
        """Return from when on more may be queued."""
        return max(now, self._free_at - QUEUE_SECONDS) if self.link.bandwidth_mbit else now


class Course:
    """One direction of one connection."""

    def __init__(self, egress: Egress, other: Egress, dice: Random) -> None:
        """`egress`: the sender's; `other`: that of the receiver, whose acknowledgements take their time."""
        self.stalls = 0
        self._egress, self._other, self._dice = egress, other, dice
        self._last = 0.0

    def arrival(self, n_bytes: int, now: float) -> float:
        """Return when bytes that are sent now arrive, never before those sent earlier."""
        link = self._egress.link
        late = link.latency + link.jitter * (2 * self._dice.random() - 1)
        if link.loss and self._dice.random() < self._odds(n_bytes, link.loss):
            self.stalls += 1
            late += max(LEAST_RETRANSMISSION, self.round_trip())
        self._last = max(self._last, self._egress.leave(n_bytes, now) + max(0.0, late))
        return self._last

    def round_trip(self) -> float:
        """Return the seconds to the peer and back."""
        return self._egress.link.latency + self._other.link.latency

    def _odds(self, n_bytes: int, loss: float) -> float:
        """Return how likely it is that at least one of the segments is lost."""
        return 1.0 - (1.0 - loss) ** math.ceil(n_bytes / SEGMENT_BYTES)


REPORT_NAME: Final = "shaper.json"


class ShaperReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything since the proxy began."""

    pid: int
    connections: int
    """That were opened through it."""
    open: int
    """Of these, those that are now."""
    strangers: int
    """Connections of which no node was found to be the dialler."""
    stalls: int
    """Losses: pieces that came a retransmission later."""
    sent_bytes: dict[int, int]
    """By node, what it sent to all others."""


def write_report(directory: Path, report: ShaperReport) -> None:
    """Write it, whole or not at all.

    Raises:
        FileNotFoundError: the testnet has been removed.
    """
    write_whole(directory / REPORT_NAME, msgspec.json.encode(report), is_durable=False)


def read_report(directory: Path) -> ShaperReport | None:
    """Return what the proxy of a testnet wrote last, if it wrote anything."""
    try:
        return msgspec.json.decode((directory / REPORT_NAME).read_bytes(), type=ShaperReport)
    except (OSError, msgspec.MsgspecError):
        return None
