"""Peers that average pairwise, over links that lose, copy, reorder and break: who holds what mass, exactly.

What is sent lies in one heap, and a seed says what is next. A frame of a link that broke may still arrive
after the link is back: the worst that a network can do.
"""

from collections.abc import Iterable
from random import Random
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.push_sum import LEAST_HELD, PushSum, PushSumConfig
from shoal.gossip.events import Drop, Effects, Send, SetTimer
from shoal.gossip.sequence import Sequence

WAIT: Final = 1.0
Edges = Iterable[tuple[int, int]]
Floats = npt.NDArray[np.float64]


def ring(size: int) -> list[tuple[int, int]]:
    """Return a ring with both directions."""
    return directed_ring(size) + [(b, a) for a, b in directed_ring(size)]


def directed_ring(size: int) -> list[tuple[int, int]]:
    """Return a ring on which mass goes one way round."""
    return [(number, (number + 1) % size) for number in range(size)]


def line(size: int) -> list[tuple[int, int]]:
    """Return a line."""
    one_way = [(number, number + 1) for number in range(size - 1)]
    return one_way + [(b, a) for a, b in one_way]


def star(size: int) -> list[tuple[int, int]]:
    """Return a star around peer 0."""
    return [(0, leaf) for leaf in range(1, size)] + [(leaf, 0) for leaf in range(1, size)]


class Pairs:
    """See the module's docstring."""

    def __init__(
        self,
        edges: Edges,
        vectors: Floats,
        weights: list[float],
        *,
        seed: int = 0,
        chunk_numel: int = 4,
        codec: str = "float32",
        loss: float = 0.0,
        copies: float = 0.0,
        least_held: float = LEAST_HELD,
    ) -> None:
        """`edges`: who gives to whom; links carry messages both ways. `loss` and `copies`: of 1."""
        self.dice = Random(seed)
        self.now = 0.0
        self.loss, self.copies = loss, copies
        self.names = [PeerId(f"peer{number:03d}") for number in range(len(vectors))]
        self.targets = {
            name: {self.names[b] for a, b in edges if self.names[a] == name} for name in self.names
        }
        self.links = {frozenset((self.names[a], self.names[b])) for a, b in edges}
        self.dropped: list[tuple[PeerId, str]] = []
        self.lives = 0
        self._config = PushSumConfig(chunk_numel=chunk_numel, codec=codec, least_held=least_held)
        self._numel = vectors.shape[1]
        self.cores: dict[PeerId, PushSum] = {}
        self._heap: list[tuple[PeerId, PeerId, Any, bytes]] = []
        self._due: dict[PeerId, float] = {}
        for name, vector, weight in zip(self.names, vectors, weights, strict=True):
            self.start(name).mint(vector.astype(np.float32), weight)
        for link in sorted(map(sorted, self.links)):
            self.connect(*link)

    def start(self, name: PeerId) -> PushSum:
        """Begin a peer's life, its first or another one."""
        self.lives += 1
        epochs = Sequence((self.lives << 32) - 1)
        core = self.cores[name] = PushSum(self._numel, self._config, epochs)
        core.wait = WAIT
        return core

    # --- links ------------------------------------------------------------------------------------

    def connect(self, one: PeerId, other: PeerId) -> None:
        """A link is up."""
        for near, far in ((one, other), (other, one)):
            self.carry_out(near, self.cores[near].found(far, self.now))

    def disconnect(self, one: PeerId, other: PeerId) -> None:
        """A link is gone; what is under way may arrive all the same."""
        for near, far in ((one, other), (other, one)):
            self.carry_out(near, self.cores[near].lost(far, self.now))

    # --- running ----------------------------------------------------------------------------------

    def step(self, name: PeerId) -> None:
        """Let a peer give half, unless it is still at it."""
        self.carry_out(name, self.cores[name].step(self.targets[name], self.now))

    def round(self) -> None:
        """Let everyone give half at the same time."""
        for name in self.names:
            self.step(name)
        self.run()

    def settle(self) -> None:
        """Let time pass until nobody waits for anything, over links that work."""
        self.loss = 0.0
        for _ in range(20):
            self.run()
            self.wait(WAIT)
        for core in self.cores.values():
            assert core.target is None

    def carry_out(self, name: PeerId, effects: Effects) -> None:
        """Queue what a core wants sent."""
        for effect in effects:
            match effect:
                case Send():
                    frame = (name, effect.peer, effect.message, bytes(effect.data))
                    copies = 1 + (self.dice.random() < self.copies)
                    self._heap += [frame] * (0 if self.dice.random() < self.loss else copies)
                case SetTimer():
                    self._due[name] = effect.at
                case Drop():
                    self.dropped.append((effect.peer, effect.reason))

    def deliver(self, *, in_order: bool = True) -> bool:
        """Deliver one frame; tells whether there was one."""
        if not self._heap:
            return False
        number = self.dice.randrange(len(self._heap))
        if in_order:
            lane = self._heap[number][:2]
            number = next(i for i, frame in enumerate(self._heap) if frame[:2] == lane)
        sender, to, message, data = self._heap.pop(number)
        self.carry_out(to, self.cores[to].handle(sender, message, data, self.now))
        return True

    def run(self, *, in_order: bool = True) -> None:
        """Deliver what there is, and what follows from it."""
        while self.deliver(in_order=in_order):
            pass

    def wait(self, seconds: float) -> None:
        """Let time pass; timers fire."""
        self.now += seconds
        for name, at in list(self._due.items()):
            if at <= self.now:
                self._due[name] = float("inf")
                self.carry_out(name, self.cores[name].timer(self.now))

    # --- what there is ----------------------------------------------------------------------------

    def mass(self) -> tuple[Floats, Floats]:
        """Return the sums and weights of all peers, and of what was given and not applied."""
        sums: Floats = np.zeros(self._numel)
        weights: Floats = np.zeros(len(next(iter(self.cores.values())).weights))
        for name, core in self.cores.items():
            sums += core.sums
            weights += core.weights
            for peer, given in core._given.items():
                applied = self.cores[peer]._applied.get(name, (-1, -1))[1]
                if given.sent and not min(given.sent) - 1 <= applied <= max(given.sent):
                    continue  # It was given to a life that is over.
                for id_, (chunk, weight, numbers) in given.sent.items():
                    if id_ > applied:
                        sums[core._slice(chunk)] += numbers
                        weights[chunk] += weight
        return sums, weights

    def estimates(self) -> Floats:
        """Return everyone's estimate of the mean."""
        found = np.empty((len(self.names), self._numel), dtype=np.float32)
        for row, name in zip(found, self.names, strict=True):
            self.cores[name].read(row)
        return found.astype(np.float64)
