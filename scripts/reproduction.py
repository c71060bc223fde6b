"""What the reproduce_*.py scripts share: whole runs in one process, without a network, and what they cost.

A run has all its peers in lockstep: every ask is answered at once, with exact means. What a body or a
vector costs is counted in the bytes that an ask would give the network, before any framing; figures from
the socket come from `shoal testnet up`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from shoal.methods import lockstep
from shoal.methods.base import Method
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Task


@dataclass(frozen=True, slots=True)
class Run(lockstep.Run):
    """What a run led to."""

    learners: list[TorchLearner]

    @property
    def accuracy(self) -> float:
        """The mean over the peers."""
        return fmean(
            learner.evaluate(state.params)["accuracy"]
            for learner, state in zip(self.learners, self.states, strict=True)
        )


def run(method: Method, tasks: Sequence[Task], rounds: int, seed: int) -> Run:
    """Run whole rounds from the first peer's initial model, which the seed decides."""
    learners = [TorchLearner(task, seed=seed) for task in tasks]
    done = lockstep.run(method, learners, learners[0].initial, rounds)
    return Run(done.states, done.reports, done.body_bytes, done.vector_bytes, learners)
