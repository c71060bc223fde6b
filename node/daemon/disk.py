"""Disk: what a node keeps, written beside the network, which does not wait for it.

    save(state)       --> Saver --> checkpoint, then what lossy codecs owe
    record, remember  --> jobs, one after the other, in a thread: rounds, peers, trust, roster
    close             --> the state that still waits, and the number of the last message

A disk that is full or broken is a problem of the status. The node trains on without it.
"""

import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import trio

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.tensor_codecs import Feedback
from shoal.gossip.events import Vector
from shoal.gossip.net.driver import Driver
from shoal.gossip.run_spec import RunSpec
from shoal.methods.base import Array
from shoal.node.daemon.saver import Saver
from shoal.node.daemon.status_report import Problems
from shoal.node.errors import UserError
from shoal.node.failpoints import Failpoint
from shoal.node.retraining.kept_states import StateKeeper
from shoal.node.retraining.round_records import RoundRecord
from shoal.node.status import RoundStatus
from shoal.node.storage.checkpoint import KEPT, KEPT_LARGE, LARGE, Checkpoint, DiskFull, save
from shoal.node.storage.database import KnownPeer, Store
from shoal.node.storage.home import Home
from shoal.node.storage.model_file import remember_spec
from shoal.node.storage.partial_fetch import ChunkKeeper
from shoal.node.storage.private_state import PrivateState
from shoal.node.storage.run_trust import RunTrust, save_trust, trust_path

log = logging.getLogger(__name__)

MAX_JOBS: Final = 1000
"""What waits for a disk that hangs; more is not written."""
SEQUENCE_MARGIN: Final = 1_000_000
"""Messages since the last round at most: a restart goes on above them, even where the clock was set back."""


class Disk:
    """What one node keeps. See the module's docstring."""

    def __init__(
        self,
        home: Home,
        store: Store,
        driver: Driver,
        problems: Problems,
        failpoint: Failpoint,
        *,
        seconds: float,
        keeper: StateKeeper | None = None,
    ) -> None:
        """`driver` holds what is kept of the member and its messages. `seconds`: between two large states.

        `keeper`: of earlier states, where some are kept.
        """
        self._keeper = keeper
        self._home, self._store, self._driver = home, store, driver
        self._problems, self._failpoint = problems, failpoint
        self.fetching = ChunkKeeper(home.state_dir / "fetching", driver.command)
        """The states that are fetched."""
        self._saver = Saver(self._save_state, seconds)
        self.saved_at = 0.0
        """When a state was saved, Unix seconds."""
        self.saved_bytes = 0
        self._feedback: PrivateState | None = None
        """Of the run, once there is one."""
        self._jobs_in, self._jobs = trio.open_memory_channel[Callable[[], None]](MAX_JOBS)
        # At once: a node that is killed before its first round has said something too.
        self._keep_sequence()

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._do_jobs)
            nursery.start_soon(self._saver.run)
            nursery.start_soon(self.fetching.run)

    def close(self) -> None:
        """Write what still waits; this blocks."""
        if (last := self._saver.take()) is not None:
            self._save(*last)
        if self._feedback is not None:
            self._feedback.save(self._owed())
        try:
            self._put_sequence(self._last_sequence())
        except (UserError, sqlite3.Error) as error:
            # Missed only by a node whose clock is set back before its next start.
            log.error("%s", disk_advice(self._home.database, error))
        self._store.close()

    # --- jobs -------------------------------------------------------------------------------------

    def job(self, job: Callable[[], None]) -> None:
        """Do this in a thread when the disk is free."""
        with suppress(trio.WouldBlock):  # a disk that hangs must not hold up the network
            self._jobs_in.send_nowait(job)

    async def _do_jobs(self) -> None:
        async for job in self._jobs:
            try:
                await trio.to_thread.run_sync(job)
            except (UserError, OSError, sqlite3.Error) as error:
                # Records of rounds and peers; a node that lacks them still trains.
                self._problems.tell("database", disk_advice(self._home.database, error))
            else:
                self._problems.tell("database", "")

    def record(self, run: bytes, status: RoundStatus) -> None:
        """Keep what became of a round."""
        self.job(partial(self._store.add_round, run.hex(), status))
        self._keep_sequence()

    def note_members(self, record: RoundRecord) -> None:
        """Keep whose contributions made a state, where states are kept."""
        if self._keeper is not None:
            self.job(partial(self._keeper.note, record))

    def remember_peer(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Keep where a peer was met."""
        if addresses:
            known = KnownPeer(peer, tuple(addresses), "exchange", time.time())
            self.job(partial(self._store.remember_peer, known))

    def remember_trust(self, trust: RunTrust, run: bytes) -> None:
        """Keep what is known of peers in the run."""
        self.job(partial(self._save_trust, trust, run))

    def _save_trust(self, trust: RunTrust, run: bytes) -> None:
        try:
            save_trust(self._home.state_dir, trust)
        except OSError as error:
            self._problems.tell("trust", disk_advice(trust_path(self._home.state_dir, run), error))
        else:
            self._problems.tell("trust", "")

    # --- states -----------------------------------------------------------------------------------

    def save(self, checkpoint: Checkpoint, spec: RunSpec, *, is_urgent: bool) -> None:
        """Save a state when the disk is free."""
        self._saver.soon(checkpoint, spec, is_urgent=is_urgent)

    def hurry(self) -> None:
        """Save the state that waits without a rest."""
        self._saver.hurry()

    async def _save_state(self, checkpoint: Checkpoint, spec: RunSpec) -> None:
        owed = self._owed()
        await trio.to_thread.run_sync(self._save, checkpoint, spec)
        self.fetching.saved(checkpoint.state_hash)
        if owed and self._feedback is not None:
            await trio.to_thread.run_sync(self._feedback.save, owed)

    def _save(self, checkpoint: Checkpoint, spec: RunSpec) -> None:
        shared = [(tensor.name, tensor.numel) for tensor in spec.shared]
        try:
            before_rename = partial(self._failpoint.hit, "save", checkpoint.round)
            keep = KEPT_LARGE if checkpoint.vector.nbytes >= LARGE else KEPT
            saved = save(
                self._home.state_dir, checkpoint, shared=shared, keep=keep, before_rename=before_rename
            )
            if self._keeper is not None:
                self._keeper.keep(saved, checkpoint)
        except (DiskFull, OSError) as error:
            self._problems.tell("state", disk_advice(self._home.state_dir, error))
        else:
            self.saved_at, self.saved_bytes = time.time(), checkpoint.vector.nbytes
            self._problems.tell("state", "")

    # --- what lossy codecs owe --------------------------------------------------------------------

    def set_run(self, run: bytes, spec: RunSpec) -> None:
        """Keep the run's settings, and find what lossy codecs owe from before a restart."""
        self.job(partial(remember_spec, self._store, run, spec))
        self._feedback = PrivateState(self._home.state_dir, spec, "feedback")
        found = self._feedback.load() or {}
        if reason := next((name for name, vector in found.items() if not _is_owed(name, vector)), ""):
            self._feedback.set_aside(f"is of no use: {reason} is nothing that a codec owes")
            found = {}
        for name, vector in found.items():
            index, _, side = name.partition(".")
            feedback = self._driver.member.feedback.setdefault(int(index), Feedback(vector.size))
            if feedback.sent.size == vector.size:
                setattr(feedback, side, vector)

    def _owed(self) -> dict[str, Vector]:
        """Return copies of what lossy codecs owe, by ask and direction."""
        return {
            f"{index}.{side}": getattr(feedback, side).copy()
            for index, feedback in self._driver.member.feedback.items()
            for side in ("sent", "made")
        }

    # --- the number of the last message -----------------------------------------------------------

    def _keep_sequence(self) -> None:
        self.job(partial(self._put_sequence, self._last_sequence()))

    def _last_sequence(self) -> int:
        return max(self._driver.member.sequence, self._driver.codec.sequence)

    def _put_sequence(self, sequence: int) -> None:
        self._store.put("sequence", str(sequence).encode())


def first_sequence(store: Store) -> int:
    """Return a number for the first message of this start, above all of earlier ones."""
    stored = store.get("sequence")
    last = int(stored) if stored is not None and stored.isdigit() else 0
    return max(time.time_ns() // 1000, last + SEQUENCE_MARGIN)


def disk_advice(path: Path, error: Exception) -> str:
    """Say what is wrong with the disk, and what to do."""
    if isinstance(error, UserError):
        return str(error)
    return f"cannot write {path}: {error}; see to the disk, or start with --home on another one"


def _is_owed(name: str, vector: Array) -> bool:
    """Tell whether this may be what lossy codecs owe, as `Feedback` holds it."""
    index, _, side = name.partition(".")
    is_known = index.isdigit() and len(index) < 4 and side in ("sent", "made")
    return is_known and vector.dtype == np.float32 and vector.ndim == 1 and bool(np.isfinite(vector).all())
