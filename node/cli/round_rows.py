"""Rounds as rows: for JSON, for CSV, and for trackers."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from shoal.node.storage.database import KeptRound

COLUMNS: Final = (
    *("id", "run_id", "round", "finished_at", "outcome", "contributors", "loss"),
    *("work_seconds", "matchmaking_seconds", "exchange_seconds", "state_hash", "reason"),
    *("bytes_sent", "bytes_received", "members"),
)
"""Of CSV, before the task's own metrics."""


def flat(kept: "KeptRound") -> dict[str, Any]:
    """Return a round as one level of names; the task's metrics stand under ``metrics``."""
    return {"id": kept.id, "run_id": kept.run_id, **msgspec.structs.asdict(kept.round)}


def cells(kept: "KeptRound") -> dict[str, Any]:
    """Return a round as one row: the time as RFC 3339, and a name of its own for every metric."""
    fields = flat(kept)
    metrics = fields.pop("metrics")
    fields["members"] = " ".join(fields["members"])
    fields["finished_at"] = datetime.fromtimestamp(fields["finished_at"], UTC).isoformat(timespec="seconds")
    return {**fields, **{f"metric/{name}": value for name, value in metrics.items()}}
