"""Private asks: what the trainer gives is clipped and noisy before the member sees it, and accounted for.

    ask  --> is there budget for one more release?  no  --> the state as it was, at weight 0: nothing is told
                                                    yes --> into the ledger, on the disk; then noise; then out

Under masks the noise is added in the exchange (gossip/averaging/secure/noisy_grid.py), and with `examples` it
is in what was trained. All of these count one, since how many examples a node has is of its data too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from shoal.crypto.accounting import Release, epsilon_of
from shoal.gossip.events import Vector
from shoal.gossip.policies.privacy import privacy_of, privatise
from shoal.gossip.run_spec import RunSpec
from shoal.node.errors import BadHome
from shoal.node.privacy_ledger import PrivacyLedger
from shoal.node.status import PrivacyStatus
from shoal.node.trainer import ipc

SPENT: Final = (
    "the privacy budget is spent: another round would come to epsilon {epsilon:.3g} of {budget:g} at delta"
    " {delta:g}. This node gives nothing more to the model and goes on receiving it; raise --privacy-budget"
    " if its data may tell more"
)


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a node's data may tell."""

    epsilon: float = 0.0
    """At most this in all; 0: no limit."""
    delta: float = 1e-5
    """The chance, about, with which epsilon says nothing."""


@dataclass(frozen=True, slots=True)
class Given:
    """What goes to the member in the place of what the trainer gave."""

    vector: Vector | None
    """float32 [n]; nothing where it stays as it is."""
    weight: float
    problem: str
    """What a person should see to."""
    failure: str = ""
    """Why nothing may go."""


class PrivateAsks:
    """See the module's docstring; one node's."""

    def __init__(self, state_dir: Path, budget: Budget) -> None:
        """Read nothing yet."""
        self.budget = budget
        self._state_dir = state_dir
        self._ledger: PrivacyLedger | None = None
        self._epsilon: tuple[int, float] | None = None
        self._is_spent = False

    def refusal(self, spec: RunSpec, message: ipc.AskAllReduce) -> str:
        """Say why an ask cannot be made private; empty if it can."""
        if message.kind == "statistic" or message.numel != spec.params_numel:
            return (
                f"privacy: method {spec.method} sends {message.tag!r}, which is no change of the model that"
                " could be clipped: take --method fedavg, or leave out --privacy"
            )
        if spec.buffers:
            return (
                "privacy: the model has buffers, such as those of BatchNorm, which are averages of a node's"
                " data: take GroupNorm in its place"
            )
        if spec.privacy == "examples" and not message.released:
            return (
                "privacy examples: this trainer added no noise to its steps: let the node start its trainer,"
                " or take --privacy local"
            )
        return ""

    def give(self, spec: RunSpec, message: ipc.AskAllReduce, vector: Vector, state: Vector) -> Given:
        """Return what may leave the node. `vector`, `state`: float32 [n], which are only read."""
        privacy = privacy_of(spec)
        more = message.released or (Release(noise_multiplier=privacy.noise_multiplier),)
        origin = state if message.kind == "params" else None
        try:
            ledger = self._opened()
            after = epsilon_of(ledger.having(more), self.budget.delta)
            self._is_spent = 0 < self.budget.epsilon < after
            if self._is_spent:
                nothing = np.zeros_like(vector) if origin is None else origin.copy()
                of = {"epsilon": after, "budget": self.budget.epsilon, "delta": self.budget.delta}
                return Given(nothing, 0.0, SPENT.format(**of))
            ledger.spend(more)
        except BadHome as error:
            return Given(None, 0.0, str(error), failure=str(error))
        self._epsilon = (ledger.count, after)
        if privacy.kind != "local":
            return Given(None, 1.0, "")
        noisy = vector.copy()
        privatise(noisy, origin, privacy)
        return Given(noisy, 1.0, "")

    def status(self, spec: RunSpec | None) -> PrivacyStatus | None:
        """Return how much this node's data has told; nothing where the run adds no noise.

        Nor where that cannot be read: a problem says so, and nothing is given.
        """
        if spec is None or spec.privacy == "none":
            return None
        try:
            ledger = self._opened()
        except BadHome:
            return None
        if self._epsilon is None or self._epsilon[0] != ledger.count:
            self._epsilon = (ledger.count, epsilon_of(ledger.releases, self.budget.delta))
        return PrivacyStatus(
            spec.privacy,
            spec.clip_norm,
            spec.noise_multiplier,
            self._epsilon[1],
            self.budget.delta,
            self.budget.epsilon,
            ledger.count,
            self._is_spent,
        )

    def _opened(self) -> PrivacyLedger:
        if self._ledger is None:
            self._ledger = PrivacyLedger(self._state_dir)
        return self._ledger
