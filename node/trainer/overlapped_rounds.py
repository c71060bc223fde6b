"""Overlapped rounds: the trainer's side of `delay = 1`, where work goes on while a mean travels. Torch-free.

    resting --contribute--> asked --Averaged, Finished--> told --Begin of that state--> resting
                              '----failed, Idle---------->   '--Begin of another-----> replaced

Between steps, `poll` takes what the daemon has said, without waiting; so a mean becomes the node's state,
and is told, a step after it came, however long the local work still takes. What is polled while `asked` is
the answer, while `told` the next `Begin`, which the daemon sends at once or, where this node has fallen
behind, when it has fetched the state of the others. The theory stands in methods/overlap.py.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from typing import Never

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.errors import GossipError
from shoal.gossip.events import Vector
from shoal.methods.base import OuterMethod, Report, State
from shoal.methods.errors import Interrupted
from shoal.methods.overlap import Carrying, Moved, Overlaps
from shoal.methods.params import copied
from shoal.node.trainer import ipc
from shoal.node.trainer.session import Asking, RunOver, Session


class Place(Enum):
    """Where the round is; see the module's docstring."""

    RESTING = "resting"
    ASKED = "asked"
    TOLD = "told"
    REPLACED = "replaced"


class Overlap:
    """The rounds of one node, one of which may be on its way. See the module's docstring."""

    def __init__(
        self, session: Session, method: OuterMethod, measured: Callable[[State, Report], Report]
    ) -> None:
        """Wait for the first round. `measured` is told each new state, before anyone else learns of it.

        Raises:
            LineLost: the daemon is gone, or wants no rounds.
        """
        self._session, self._method, self._measured = session, method, measured
        self._place = Place.TOLD
        self._asking: Asking[tuple[State, tuple[PeerId, ...]]] | None = None
        self._contributed: tuple[Vector, Report] | None = None
        self._working_since: float | None = None
        self._begin: ipc.Begin | None = None
        self.state: State | None = None
        """What all peers hold that are where we are."""
        self.restart()

    @property
    def round(self) -> int:
        """The round that the next contribution is for."""
        assert self._begin is not None
        return self._begin.round

    @property
    def agreed(self) -> State:
        """What all peers hold that are where we are."""
        assert self.state is not None
        return self.state

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the time as spent computing, but for what `poll` needs."""
        self._working_since = time.monotonic()
        try:
            yield
        finally:
            self._note_work()
            self._working_since = None

    def is_hurried(self) -> bool:
        """Whether peers wait for the local work at hand; what was said before a round began is past."""
        return self._place is Place.RESTING and self._session.is_hurried()

    def poll(self) -> Moved | None:
        """Return from where local work goes on if a mean has come, without waiting for one.

        Raises:
            Interrupted: the swarm's state has taken the place of ours: see `restart`.
            LineLost: the daemon is gone, or stops.
        """
        moved = None
        while self._place in (Place.ASKED, Place.TOLD) and self._session.has_word():
            moved = self._take() or moved
        return moved

    def settle(self) -> Moved | None:
        """Wait until nothing is on its way; return from where local work goes on if that changed.

        Raises:
            Interrupted: the swarm's state has taken the place of ours: see `restart`.
            LineLost: the daemon is gone, or stops.
        """
        moved = None
        while self._place is not Place.RESTING:
            moved = self._take() or moved
        return moved

    def contribute(
        self, trained: Vector, weight: float, report: Report, private: Mapping[str, Vector]
    ) -> None:
        """Send on its way what local work led to. `private`: what it leaves for the next.

        Raises:
            LineLost: the daemon is gone.
        """
        assert self._place is Place.RESTING
        assert self._begin is not None
        base = replace(self.agreed, private=private)
        self._contributed = (trained, report)
        self._place = Place.ASKED
        self._asking = Asking(self._session, self._begin, self._method.outer(base, trained.copy(), weight))
        if self._asking.is_over:
            self._agree(self._asking)

    def run(self, learner: Carrying) -> Never:
        """Run the method's local work round after round, until the line ends.

        Raises:
            LineLost: the daemon is gone, or wants no more rounds.
        """
        method = self._method
        assert isinstance(method, Overlaps)
        learner.arrived = self.poll
        start, work = self.agreed, self.round
        while True:
            try:
                with self.working():
                    trained = method.local(start, learner, work)
                moved = self.settle()
            except Interrupted:
                start, work = self.restart(), self.round
                continue
            params = learner.carry(trained.params, moved) if moved is not None else trained.params
            self.contribute(params, learner.examples, Report.of(trained), trained.memory)
            # Batches are chosen by what was worked, not by the round, which has not ended.
            start, work = State(params, self.agreed.shared, trained.memory), work + 1

    def restart(self) -> State:
        """Throw local work away; wait for the next round and return the state that it begins from.

        Raises:
            LineLost: the daemon is gone, or stops.
        """
        if self._place is Place.RESTING:
            self._idle("interrupted")
        while self._place in (Place.ASKED, Place.TOLD):
            try:
                self._take()
            except Interrupted:
                break
        self._place = Place.RESTING
        return self.agreed

    # --- what the daemon says ---------------------------------------------------------------------

    def _take(self) -> Moved | None:
        self._note_work()
        try:
            if self._place is Place.ASKED:
                return self._take_answer()
            self._take_begin()
            return None
        finally:
            if self._working_since is not None:
                self._working_since = time.monotonic()

    def _take_answer(self) -> Moved | None:
        asking = self._asking
        assert asking is not None
        try:
            asking.take()
        except GossipError as error:
            # Nothing is lost: what was contributed is still in our params, and goes into the next mean.
            self._idle(f"{type(error).__name__}: {error}")
            return None
        return self._agree(asking) if asking.is_over else None

    def _agree(self, asking: Asking[tuple[State, tuple[PeerId, ...]]]) -> Moved:
        assert self._begin is not None
        assert self._contributed is not None
        since, report = self._contributed
        self.state, contributors = asking.result
        measured = self._measured(self.state, replace(report, contributors=contributors))
        self._session.finish(self._begin, self.state, measured)
        self._begin = ipc.Begin(round=self._begin.round + 1, slot=1 - self._begin.slot)
        self._place = Place.TOLD
        return Moved(self.state.params, since)

    def _idle(self, reason: str) -> None:
        assert self._begin is not None
        self._session.idle(self._begin, reason)
        self._place = Place.TOLD

    def _take_begin(self) -> None:
        expected, begin = self._begin, self._session.wait_begin()
        if begin is None:
            raise RunOver("the run is over")
        # Local work goes on while the slots change.
        state, known = copied(self._session.state(begin)), self.state
        self._begin, self.state, self._place = begin, state, Place.RESTING
        if expected is None or known is None:
            return
        if begin.round != expected.round or not _are_equal(state, known):
            self._place = Place.REPLACED
            raise Interrupted("the swarm's state has taken the place of ours")

    def _note_work(self) -> None:
        if self._working_since is not None:
            now = time.monotonic()
            self._session.work_seconds += now - self._working_since
            self._working_since = now


def _are_equal(one: State, other: State) -> bool:
    """Tell whether two states are the same bytes to all peers."""
    return np.array_equal(one.params, other.params) and all(
        np.array_equal(vector, other.shared[name]) for name, vector in one.shared.items()
    )
