"""RoundLog: what became of each round, for the status, the journal and the metrics.

The history is of the last rounds alone. `RoundCounts` only grow, so that whoever reads them from time to time
can tell what happened between two looks.
"""

import math
import time
from bisect import bisect_left
from collections import Counter, deque
from typing import Final

import msgspec

from shoal.crypto.keys import PeerId, short
from shoal.gossip.member.commands import Averaged, Gathered
from shoal.node.daemon.surroundings import Surroundings
from shoal.node.status import RoundStatus, RoundTotals
from shoal.node.trainer.ipc import Finished

MAX_HISTORY: Final = 200
MAX_MEMBERS: Final = 16
"""Contributors of a round that are told by name."""
MAX_REASON: Final = 200
"""Characters of why a round failed."""
REFUSED: Final = {
    "refused": "a body that the method refused",
    "left_out": "a vector that holders of its task found harmful",
}
"""Metric of a method's round, in which it counts what it refused -> the reason, as a node's status has it."""

BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 400.0, 900.0, 1800.0)
"""Seconds: the upper bounds of the buckets; a last one has no bound."""
PARTS: Final = ("work", "matchmaking", "exchange")
MADE: Final = ("averaged", "alone")
"""Outcomes of rounds whose parts were timed."""


class RoundCounts:
    """How many rounds have ended, and how long their parts took, since the start of the node."""

    def __init__(self) -> None:
        """No round has ended."""
        self._outcomes: Counter[str] = Counter()
        self._buckets = {part: [0] * (len(BOUNDS) + 1) for part in PARTS}
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def add(self, done: RoundStatus) -> None:
        """Count a round that ended."""
        self._outcomes[done.outcome] += 1
        if done.outcome not in MADE:
            return
        for part in PARTS:
            seconds = max(0.0, float(getattr(done, f"{part}_seconds")))
            self._buckets[part][bisect_left(BOUNDS, seconds)] += 1
            self._seconds[part] += seconds

    @property
    def totals(self) -> RoundTotals:
        """All that was counted."""
        return RoundTotals(
            outcomes=dict(self._outcomes),
            bounds=list(BOUNDS),
            buckets={part: list(counts) for part, counts in self._buckets.items()},
            seconds=dict(self._seconds),
        )


class RoundLog:
    """Notes each round as it ends, with what its asks took and whom its last answer names."""

    def __init__(self, surroundings: Surroundings) -> None:
        """No round has ended."""
        self._around = surroundings
        self.history: deque[RoundStatus] = deque(maxlen=MAX_HISTORY)
        self.counts = RoundCounts()
        self.refused: Counter[str] = Counter()
        """What peers told in rounds and the method refused, by reason."""
        self._answer: Averaged | Gathered | None = None
        self._searched = self._exchanged = 0.0
        """Seconds of all asks of the round: of their search for a group, and of their exchanges."""
        self.members: set[PeerId] = set()
        """All whose contribution may have come in by any ask of the round."""
        self.mixes = False
        """Whether others' came with them, from groups that mix."""
        self._moved = (0, 0)
        """Bytes sent and received when the last round ended."""

    def begin(self) -> None:
        """A round begins: nothing was asked in it."""
        self._answer = None
        self._searched = self._exchanged = 0.0
        self.members, self.mixes = set(), False

    def take_answer(self, answer: Averaged | Gathered) -> None:
        """Keep the answer to an ask, and add what it took to that of the round's other asks."""
        self._answer = answer
        self.members.update(self.contributors)
        self.mixes = self.mixes or answer.mixes
        if isinstance(answer, Averaged):
            self.members.update(answer.members)
        self._searched += answer.matchmaking_seconds
        self._exchanged += answer.exchange_seconds

    @property
    def contributors(self) -> tuple[PeerId, ...]:
        """The peers in the answer to the last ask of this round."""
        match self._answer:
            case Averaged(exchanged=exchanged):
                return tuple(exchanged.contributors)
            case Gathered(bodies=bodies):
                return tuple(peer for peer, _ in bodies)
        return ()

    def note(self, run: bytes, message: Finished, state: bytes) -> None:
        """Note a round that came to a state."""
        contributors = max(1, len(self.contributors))
        for name, reason in REFUSED.items():
            # Metrics are the task's too, which may give anything this name.
            if math.isfinite(found := message.metrics.get(name, 0.0)) and found > 0:
                self.refused[reason] += int(found)
        self._append(
            run,
            RoundStatus(
                round=message.round,
                outcome="averaged" if contributors > 1 else "alone",
                contributors=contributors,
                loss=message.loss,
                metrics=message.metrics,
                work_seconds=message.work_seconds,
                matchmaking_seconds=self._searched,
                exchange_seconds=self._exchanged,
                finished_at=time.time(),
                state_hash=state.hex()[:12],
                members=[short(peer) for peer in self.contributors[:MAX_MEMBERS]],
            ),
        )

    def note_stateless(self, run: bytes, round_: int, outcome: str, state: bytes, reason: str = "") -> None:
        """Note a round in which this node made no state: it failed, or the swarm's was taken over."""
        self._append(
            run,
            RoundStatus(
                round=round_,
                outcome=outcome,
                contributors=0,
                loss=float("nan"),
                metrics={},
                work_seconds=0.0,
                matchmaking_seconds=0.0,
                exchange_seconds=0.0,
                finished_at=time.time(),
                state_hash=state.hex()[:12],
                reason=reason[:MAX_REASON],
            ),
        )

    def _append(self, run: bytes, status: RoundStatus) -> None:
        before, self._moved = self._moved, self._around.moved()
        sent, received = (now - then for now, then in zip(self._moved, before, strict=True))
        status = msgspec.structs.replace(status, bytes_sent=sent, bytes_received=received)
        self.history.append(status)
        self.counts.add(status)
        self._around.record(run, status)
