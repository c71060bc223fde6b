"""In lockstep: split learning among several nodes in one process, without a network.

Every node is a client with the data of its task; the first few are hosts as well, and the next one holds the
spare copy. See methods/roles/lockstep.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

from shoal.crypto.keys import PeerId
from shoal.methods.base import Me, Method, Report, State
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import Task
from shoal.methods.lockstep import names
from shoal.methods.mpsl.hosting import Hosting
from shoal.methods.roles.lockstep import Play, Played
from shoal.methods.roles.serves import Serves


class SplitMethod(Method, Serves, Protocol):
    """A method with hosts of each stage of a body and, as its further roles, spares of each."""


@dataclass
class SplitRun:
    """Nodes that learn by split learning; `rounds` goes on."""

    method: SplitMethod
    tasks: Sequence[Task]
    hosts: int = 1
    """How many of the nodes hold each stage; with several stages each stage has nodes of its own."""
    seed: int = 0
    lost: dict[PeerId, int] = field(default_factory=dict)
    silent: dict[PeerId, int] = field(default_factory=dict)
    played: list[Played[tuple[State, Report]]] = field(default_factory=list)
    """By round."""

    def __post_init__(self) -> None:
        """Make the learners, and let the hosts serve."""
        self.peers = names(len(self.tasks))
        self.learners = {
            peer: TorchLearner(task, seed=self.seed, method=self.method)
            for peer, task in zip(self.peers, self.tasks, strict=True)
        }
        first = self.learners[self.peers[0]]
        self.states = {peer: self.method.init(first.initial.copy()) for peer in self.peers}
        self.roles: dict[PeerId, list[str]] = {}
        stages = int(getattr(self.method.config, "stages", 1))
        for place, role in enumerate(self.method.roles):
            stage = place % stages
            holders = (
                range(stage * self.hosts, (stage + 1) * self.hosts)
                if place < stages
                else [stages * self.hosts + stage]
            )
            for each in holders:
                if each < len(self.peers):
                    self.roles.setdefault(self.peers[each], []).append(role)
        serving = {
            peer: {role: self.method.serve(self.learners[peer], role) for role in roles}
            for peer, roles in self.roles.items()
        }
        self.play: Play[tuple[State, Report]] = Play(
            {},
            serving,
            self.method.verbs(first),
            roles=self.method.roles,
            here=self._here(0),
            lost=self.lost,
            silent=self.silent,
        )

    def round(self) -> list[Report]:
        """Run a round; returns the reports of those that ended it, by peer."""
        round_ = len(self.played)
        played = self.play.rounds(
            {
                peer: self.method.round(self.states[peer], self.learners[peer], round_)
                for peer in self.peers
                if peer not in self.play.gone
            },
            self._here(round_),
        )
        self.states |= {peer: state for peer, (state, _) in played.results.items()}
        self.played.append(played)
        return [report for _, (_, report) in sorted(played.results.items())]

    def rounds(self, count: int) -> float:
        """Run so many rounds; returns the mean accuracy that the last one measured."""
        reports: list[Report] = []
        for _ in range(count):
            reports = self.round()
        return fmean(report.metrics["accuracy"] for report in reports)

    def hosting(self, peer: PeerId, stage: int = 0) -> Hosting:
        """Return what a node hosts."""
        learner: Any = self.learners[peer]
        found: Hosting = learner.split_hosted[stage]
        return found

    def _here(self, round_: int) -> dict[PeerId, Me]:
        return {peer: Me(peer, round_, hosts=tuple(self.roles.get(peer, ()))) for peer in self.peers}
