"""Utilisation: the share of wall time in which a node's trainer computes, in place of waiting for peers.

Counted from the end of the trainer's first round on, so that what nodes wait for each other at their
start is no part of it. Measuring the new model on test data, between rounds, counts as waiting.
"""


class Utilisation:
    """Two growing sums and their ratio."""

    def __init__(self) -> None:
        """Nothing was counted yet."""
        self.work_seconds = 0.0
        """Computing."""
        self.wall_seconds = 0.0
        """Computing, waiting and all else."""
        self._since: float | None = None

    def round_ended(self, work_seconds: float, now: float) -> None:
        """Count the time since the last call, of which the trainer says that it computed so long.

        `now`: seconds on a clock that never goes back.
        """
        if self._since is not None:
            self.wall_seconds += now - self._since
            self.work_seconds += min(max(0.0, work_seconds), now - self._since)
        self._since = now

    def pause(self) -> None:
        """The trainer is gone: nothing is counted until its successor's first round has ended."""
        self._since = None

    @property
    def share(self) -> float | None:
        """From 0 to 1; None before there is anything to divide."""
        return self.work_seconds / self.wall_seconds if self.wall_seconds > 0 else None
