"""In lockstep: a method on the tasks of several nodes, in one process and without a network.

For the author of a method: what a loss, an accuracy or a message comes to is known in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from shoal.methods.base import Method
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Task
from shoal.methods.lockstep import Run, run


@dataclass(frozen=True, slots=True)
class LockstepRun(Run):
    """What whole rounds led to."""

    learners: list[TorchLearner]
    """By peer."""

    @property
    def accuracy(self) -> float:
        """The mean over the peers; of a method whose peers have several models, as they report it."""
        return fmean(
            report.metrics.get("accuracy", learner.evaluate(state.params)["accuracy"])
            for learner, state, report in zip(self.learners, self.states, self.reports[-1], strict=True)
        )


def lockstep(method: Method, tasks: Sequence[Task], rounds: int, seed: int = 0) -> LockstepRun:
    """Run whole rounds, one peer for each task, from the first one's initial model.

    Every ask of all peers is answered at once, with exact means. `seed`: of the model and the batches.

    Raises:
        BadTask, BadOption: a task or an option does not fit the method.
        Mismatch: the peers asked for unlike things.
    """
    learners = [TorchLearner(task, seed=seed, method=method) for task in tasks]
    done = run(method, learners, learners[0].initial, rounds)
    return LockstepRun(done.states, done.reports, done.body_bytes, done.vector_bytes, learners)
