"""Surroundings: what the loop of rounds (rounds.py) needs of its node.

The daemon, the simulator and tests each have their own. What only some need does nothing here.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from shoal.gossip.events import Vector
from shoal.gossip.member.commands import Event
from shoal.gossip.run_spec import RunSpec
from shoal.node.private_asks import Budget
from shoal.node.retraining.round_records import RoundRecord
from shoal.node.status import RoundStatus
from shoal.node.storage.checkpoint import Checkpoint, load_newest
from shoal.node.storage.run_trust import RunTrust, load_trust
from shoal.node.trainer import ipc

T = TypeVar("T")


class Surroundings:
    """See the module's docstring. Nothing here waits."""

    has_engine = False
    """Whether the run has an engine of its own, which makes means in place of the member."""
    privacy_budget = Budget()
    """How much the node's data may tell."""

    def now(self) -> float:
        """Return seconds on a clock that never goes back."""
        return time.monotonic()

    def moved(self) -> tuple[int, int]:
        """Return the bytes that this node sent and received since it began."""
        return 0, 0

    def command(self, event: Event) -> None:
        """Tell the member."""
        raise NotImplementedError

    def save(self, checkpoint: Checkpoint, spec: RunSpec) -> None:
        """Keep a state, soon."""
        raise NotImplementedError

    def record(self, run: bytes, status: RoundStatus) -> None:
        """Keep what became of a round."""

    def note_members(self, record: RoundRecord) -> None:
        """Keep whose contributions made a state, where states are kept to train anew."""

    def set_run(self, run: bytes) -> None:
        """Take note of the run that the trainer is in; `Rounds.spec` has been set."""

    def load(
        self, directory: Path, run: bytes, *, numel: int, before: int | None = None
    ) -> Checkpoint | None:
        """Return the newest state that was kept, or the newest of an earlier round."""
        return load_newest(directory, run, numel=numel, before=before)

    def recall(self, directory: Path, run: bytes) -> RunTrust:
        """Return what was known of peers in a run."""
        return load_trust(directory, run)

    def remember(self, trust: RunTrust) -> None:
        """Keep what is known of peers in the run, soon."""

    def compute(self, work: Callable[[], T], then: Callable[[T], None], n_bytes: int) -> None:
        """Go through so many bytes, here or elsewhere, and hand over what comes of it."""
        del n_bytes
        then(work())

    def average(self, ask: ipc.AskAllReduce, vector: Vector) -> None:
        """Have the engine make a mean, which ends in a notice."""
        raise NotImplementedError

    def problem(self, source: str, text: str) -> None:
        """Show what a person should see to, until the text is empty."""
