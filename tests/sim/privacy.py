"""Private runs of the simulator: what leaves a node is clipped, noisy, and on its ledger before it leaves.

The ledger is the shipped one, in a folder of each node that outlives its crashes. The oracle keeps a count of
its own of what every node gave in all its lives, and sees what the trainer gave before the noise.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from math import sqrt
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import pytest
from sim.checks import Oracle
from sim.world import Result, Scenario, Sim

from shoal.crypto.accounting import Release, epsilon_of
from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.secure.masked_sum import MaskedSum
from shoal.gossip.events import Vector
from shoal.gossip.member import commands
from shoal.gossip.policies.privacy import Privacy, on_grid, privacy_of, privatise, shrink_of
from shoal.gossip.run_spec import PrivacyKind, RunSpec
from shoal.node.privacy_ledger import PrivacyLedger
from shoal.node.private_asks import Budget, Given, PrivateAsks
from shoal.node.storage.files import write_whole
from shoal.node.trainer import ipc

if TYPE_CHECKING:
    from sim.checks import Grouping
    from sim.node import SimNode

NOTED: Final = "what leaves is on the ledger before it leaves"
BUDGETED: Final = "a spent node never contributes"
CLIPPED: Final = "what leaves is no longer than the clip norm and its noise"
NOISY: Final = "what leaves has the noise of its run"
FULL: Final = "a sum under masks has the noise of all that are in it"
PRIVATE: Final = frozenset({NOTED, BUDGETED, CLIPPED, NOISY, FULL})
GIVES: Final = 3
"""Contributions that every other node may make."""
FAULTS: Final = ("crash", "trainer")


class WatchedAsks(PrivateAsks):
    """Private asks that show the oracle what the trainer gave."""

    def __init__(self, folder: Path, budget: Budget) -> None:
        """`folder`: of the node."""
        super().__init__(folder, budget)
        self.folder = folder
        self.raw: tuple[Vector, Vector] | None = None
        """What was given last, and the state it was made of."""

    def give(self, spec: RunSpec, message: ipc.AskAllReduce, vector: Vector, state: Vector) -> Given:
        """See `PrivateAsks`."""
        self.raw = vector.copy(), state.copy()
        return super().give(spec, message, vector, state)


class PrivateOracle(Oracle):
    """Watches a private run as well."""

    def __init__(self, sim: PrivateSim) -> None:
        """Start knowing nothing."""
        super().__init__(sim)
        self.private = sim
        self.told: Counter[PeerId] = Counter()
        """What each gave, over all its lives."""
        self.squares, self.numbers = 0.0, 0
        """Of the noise of sums, in what was promised of each number; and how many numbers."""
        self._opened = set[tuple[bytes, int, int]]()

    def contributed(self, node: SimNode, event: commands.Contribute | commands.ContributeBody) -> None:
        """A node's member was given what goes out."""
        super().contributed(node, event)
        assert isinstance(event, commands.Contribute)
        asks = node.rounds.privacy
        assert isinstance(asks, WatchedAsks)
        if asks.raw is None:
            self.violate(NOTED, f"{node.me} gave what no private ask has seen")
            return
        (raw, state), asks.raw = asks.raw, None
        if event.weight == 0:
            if not np.array_equal(event.vector, state):
                self.violate(BUDGETED, f"{node.me} gave more than the state at no weight")
            return
        self.told[node.me] += 1
        told, on_disk = self.told[node.me], PrivacyLedger(asks.folder).count
        if on_disk < told:
            self.violate(NOTED, f"{node.me} gave {told} times, its disk knows of {on_disk}")
        if self.private.is_limited(node) and told > GIVES:
            self.violate(BUDGETED, f"{node.me} gave {told} times of {GIVES}")
        if self.private.privacy.kind == "local":
            self._check_noise(node, event.vector, raw, state)

    def _check_noise(self, node: SimNode, given: Vector, raw: Vector, state: Vector) -> None:
        privacy, size = self.private.privacy, given.size
        sigma = privacy.sigma(size) * privacy.step
        change = raw.astype(np.float64) - state
        clipped = change * min(1.0, privacy.clip_norm / float(np.linalg.norm(change)))
        noise = float(np.linalg.norm(given - state - clipped)) / (sigma * sqrt(size))
        if not 0.3 < noise < 3:
            # Of the norm of 26 Gaussians this is farther out than one of 10^11.
            self.violate(NOISY if noise <= 0.3 else CLIPPED, f"{node.me}: {noise:.2f} of the noise")

    def opened(self, seen: Grouping, node: SimNode, mean: Any) -> None:
        """Count the noise of a sum that opened, once."""
        exchange = node.member.exchange
        assert isinstance(exchange, MaskedSum)
        state = exchange.origin.state
        assert state is not None
        grid, privacy, members = exchange.numbers.noisy, self.private.privacy, len(exchange._adverts)
        assert grid is not None
        promised = privacy.sigma(mean.size, max(3, members - members // 3))
        places = np.arange(mean.size) % grid.n_words
        for part, contributors in enumerate(exchange._lists[: len(exchange._edges) - 1]):
            here = (places >= exchange._edges[part]) & (places < exchange._edges[part + 1])
            key = (exchange.group.id, exchange.index, part)
            if key in self._opened or not here.any():
                continue
            self._opened.add(key)
            peers = [exchange.group.members[number] for number in contributors]
            giving = [peer for peer in peers if seen.given[peer][1] > 0]
            sums = (mean.astype(np.float64) - state) * (max(1, len(giving)) / privacy.step)
            for peer in giving:
                vector = seen.given[peer][0]
                sums -= on_grid(vector, state, shrink_of(vector, state, privacy.clip_norm), privacy.step)
            self.squares += float((sums[here] ** 2).sum()) / (len(peers) * promised**2)
            self.numbers += int(here.sum())

    def finish(self) -> None:
        """Check what can only be told at the end."""
        super().finish()
        if self.numbers and self.squares / self.numbers < 1 - 6 * sqrt(2 / self.numbers):
            self.violate(FULL, f"{self.squares / self.numbers:.2f} of the variance, {self.numbers} numbers")


class PrivateSim(Sim):
    """A run with noise."""

    def __init__(self, scenario: Scenario, folder: Path, kind: PrivacyKind, noise: float) -> None:
        """`folder`: where the nodes' ledgers lie."""
        super().__init__(scenario)
        self.spec = msgspec.structs.replace(self.spec, privacy=kind, noise_multiplier=noise)
        self.privacy: Privacy = privacy_of(self.spec)
        self._folder = folder
        self._dice = Random(f"noise {scenario.seed}")
        limit = epsilon_of([Release(noise_multiplier=noise, count=GIVES)], 1e-5) * 1.0001
        self._budgets = (Budget(), Budget(limit, 1e-5))
        self.oracle: PrivateOracle = PrivateOracle(self)
        self.network.on_bulk = self.oracle.movements.leaves

    def is_limited(self, node: SimNode) -> bool:
        """Whether a node has a budget."""
        return node.number % 2 == 1

    def started(self, node: SimNode) -> None:
        """Start a node with the ledger that it has."""
        was_alive = node.is_alive
        super().started(node)
        if not was_alive and node.is_alive:
            folder = self._folder / str(node.number)
            folder.mkdir(exist_ok=True)
            node.rounds.privacy = WatchedAsks(folder, self._budgets[self.is_limited(node)])

    def run(self) -> Result:
        """Run to the end, with noise that the seed draws."""
        with pytest.MonkeyPatch.context() as patch:
            drawn = partial(privatise, entropy=self._dice.randbytes)
            patch.setattr("shoal.node.private_asks.privatise", drawn)
            # Nobody takes the power from the machine that simulates.
            quick = partial(write_whole, is_durable=False)
            patch.setattr("shoal.node.privacy_ledger.write_whole", quick)
            patch.setattr("sim.checks.check_opened", lambda oracle, *opened: self.oracle.opened(*opened))
            return super().run()


def private_sim(seed: int, folder: Path, kind: PrivacyKind = "local") -> PrivateSim:
    """Return the private run of a seed: nodes and trainers are killed between any two effects."""
    from sim.runs import draw

    dice = Random(f"private {seed}")
    nodes = dice.choice((5, 6)) if kind == "distributed" else dice.choice((3, 4))
    scenario = draw(seed, nodes, FAULTS)
    crashes = tuple(
        (round(dice.uniform(3.0, 20.0), 2), "crash", dice.randrange(nodes), dice.randrange(60), False, 2.0)
        for _ in range(2)
    )
    scenario = replace(
        scenario, helpers=0, group_size=16, quorum=1, asks="r", pushes=0, rounds=0, combine="mean", mode="",
        house=(), lacking=(), calls=False, secure=kind == "distributed", calm_rounds=3, wait_for=1,
        faults=tuple(sorted((*scenario.faults, *crashes))),
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    return PrivateSim(scenario, folder, kind, dice.choice((0.05, 0.5, 2.0)))
