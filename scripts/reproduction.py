"""What the reproduce_*.py scripts share: whole runs in one process, without a network, and what they cost.

A run has all its peers in lockstep: every ask is answered at once, with exact means. What a body or a
vector costs is counted in the bytes that an ask would give the network, before any framing; figures from
the socket come from `shoal testnet up`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lockstep import names, run_round

from crypto.keys import PeerId
from methods.base import AllReduce, Ask, Gather, Method, Report, State
from methods.learner import TorchLearner
from methods.task import Task


@dataclass(frozen=True)
class Run:
    """What a run led to."""

    learners: list[TorchLearner]
    states: list[State]
    reports: list[list[Report]]
    """Of every round, by peer."""
    body_bytes: float
    """Gathered bodies of a peer, per round."""
    vector_bytes: float
    """All-reduced vectors of a peer, per round, in float32."""

    @property
    def accuracy(self) -> float:
        """The mean over the peers."""
        return fmean(
            learner.evaluate(state.params)["accuracy"]
            for learner, state in zip(self.learners, self.states, strict=True)
        )

    @property
    def wire_bytes(self) -> float:
        """What a peer sends per round: its body to each other peer, and 2 (n - 1) / n of its vectors."""
        others = len(self.learners) - 1
        return others * self.body_bytes + 2 * others / len(self.learners) * self.vector_bytes


def run(method: Method, tasks: Sequence[Task], rounds: int, seed: int) -> Run:
    """Run whole rounds from the first peer's initial model, which the seed decides."""
    learners = [TorchLearner(task, seed=seed) for task in tasks]
    ids = names(len(learners))
    states: dict[PeerId, State] = {peer: method.init(learners[0].initial.copy()) for peer in ids}
    reports, asks = [], list[Ask]()
    for round_ in range(rounds):
        steps = {
            peer: method.round(states[peer], learner, round_)
            for peer, learner in zip(ids, learners, strict=True)
        }
        ended = run_round(steps)
        states = {peer: ended.results[peer][0] for peer in ids}
        reports.append([ended.results[peer][1] for peer in ids])
        asks += [ask for turn in ended.asked for ask in turn]
    turns = rounds * len(ids)
    return Run(
        learners,
        [states[peer] for peer in ids],
        reports,
        sum(len(ask.body) for ask in asks if isinstance(ask, Gather)) / turns,
        sum(ask.vector.nbytes for ask in asks if isinstance(ask, AllReduce)) / turns,
    )
