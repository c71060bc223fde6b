"""What the proxy of a testnet says it has done, in a file that it writes again every second."""

from pathlib import Path
from typing import Final

import msgspec

from shoal.node.storage.files import write_whole

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
