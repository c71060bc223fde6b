"""Outer steps: an optimizer, the same on all peers, whose gradient is what local work led to on average.

    w_k ← H local steps from θ                    each peer k on its own data
    g   ← Σ_k weight_k (θ − w_k)                  the pseudo-gradient
    θ   ← θ − step(g, memory)                     on every peer, from the same numbers

A method of this kind says what its memory is and what its step is: DiLoCo (diloco.py), FedAvgM
(fedavgm.py), FedAdam and FedYogi (fedadam.py, fedyogi.py). The memory is equal on all peers and belongs to
the shared state: a newcomer fetches it. Steps are computed by single float32 operations of numpy, each of
which IEEE 754 defines to the last bit, so that unlike machines end with the same bytes.

A model's buffers, such as the running variances of batch norm, are no params of an optimizer: they are
averaged as they are, without a step, since a variance that is stepped may become negative.

Where the step leads to the mean itself, the params travel in place of their change: FedAvg, bit for bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Vector
from shoal.methods.base import About, Learner, ModelSize, Report, State, Steps, Traffic, Trained, all_reduce
from shoal.methods.fedavg import FedAvgConfig

Memory = Mapping[str, Vector]

PIECE: Final = 65_536
"""Numbers that are stepped at a time."""


class OuterStepConfig(FedAvgConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of local work, and how peers count."""

    weighted: bool = True
    """Count peers by their examples; false: all alike."""


@dataclass(frozen=True, slots=True)
class OuterStep(ABC):
    """See `Method` and `OuterMethod`; subclasses have a config with the fields of `OuterStepConfig`."""

    # Pseudo-gradients from unlike θ, applied with unlike memories, mean nothing.
    mergeable: ClassVar[bool] = False
    asks: ClassVar[bool] = True
    one_exchange: ClassVar[bool] = True
    follows_any_loop: ClassVar[bool] = True
    about: ClassVar[About]

    config: Any

    @abstractmethod
    def memory(self, params: Vector) -> Memory:
        """Return the outer optimizer's memory before its first step."""

    @abstractmethod
    def step(self, gradient: Vector, memory: Memory) -> tuple[Vector, Memory]:
        """Return what is subtracted from the params, and the memory after it.

        It is given pieces of the vectors, float32 [k] each: no number may depend on another's place.
        """

    @property
    @abstractmethod
    def is_plain(self) -> bool:
        """Whether the step is the gradient itself, whatever the memory, and the params are to travel."""

    @property
    def averages_changes(self) -> bool:
        """See `Method`."""
        return not self.is_plain

    def init(self, params: Vector) -> State:
        """See `Method`."""
        return State(params, shared=self.memory(params))

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`."""
        return Traffic.one_mean(model.numel)

    def round(self, state: State, learner: Learner, round_: int) -> Steps[tuple[State, Report]]:
        """Take the local steps, then the outer one."""
        trained = self.local(state, learner, round_)
        after, contributors = yield from self.outer(state, trained.params, learner.examples)
        return after, Report.of(trained, contributors)

    def local(self, state: State, learner: Learner, round_: int) -> Trained:
        """Run the paper's client: FedAvg's."""
        c = self.config
        return learner.train(state.params, steps=c.steps, lr=c.lr, batch_size=c.batch_size, round_=round_)

    def outer(self, state: State, trained: Vector, weight: float) -> Steps[tuple[State, tuple[PeerId, ...]]]:
        """See `OuterMethod`."""
        weight = weight if self.config.weighted else 1.0
        if self.is_plain:
            mean = yield from all_reduce(trained, weight=weight)
            return replace(state, params=mean.vector), mean.contributors
        stepped = trained.size - state.buffers
        np.subtract(trained[:stepped], state.params[:stepped], out=trained[:stepped])
        mean = yield from all_reduce(trained, weight=weight, tag="delta")
        return self._after(state, mean.vector), mean.contributors

    def _after(self, state: State, mean: Vector) -> State:
        """Step from `state` by the mean change, piece by piece: what is in between stays in the cache."""
        room = state.room or State(mean, {name: np.empty_like(v) for name, v in state.shared.items()})
        stepped = mean.size - state.buffers
        for lo, hi in [*_pieces(0, stepped), *_pieces(stepped, mean.size)]:
            is_buffer = lo >= stepped
            gradient = np.zeros(hi - lo, np.float32) if is_buffer else np.negative(mean[lo:hi])
            step, memory = self.step(gradient, {name: v[lo:hi] for name, v in state.shared.items()})
            for name, vector in memory.items():
                room.shared[name][lo:hi] = vector
            if is_buffer:
                room.params[lo:hi] = mean[lo:hi]
            else:
                np.subtract(state.params[lo:hi], step, out=room.params[lo:hi])
        return replace(state, params=room.params, shared=room.shared)


def _pieces(start: int, end: int) -> Iterator[tuple[int, int]]:
    return ((lo, min(lo + PIECE, end)) for lo in range(start, end, PIECE))
