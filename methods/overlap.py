"""Overlap: local work goes on while the mean of what it led to last still travels.

    phase 0   θ0 --H steps--> x0           contribute x0; go on from x0 at once
    phase 1   x0 --j steps--> x0 + p       the mean of phase 0 arrives: the outer step leads from θ0 to θ1
              θ1 + p --H - j steps--> x1   contribute x1; go on from x1 at once
    phase 2   ...

One mean is on its way at most (a delay of one round), and it is made into the next state as if nobody had
gone on meanwhile: so all peers still hold the same bytes after every round. What changes is where local
work stands: it is carried over by `Moved`, so that each step's progress p is in exactly one contribution,
computed partly at a point that is one outer step old. A round that fails leaves θ as it is, and all progress
since θ is in the next contribution.

Outer steps that come late are studied in Douillard et al., "Streaming DiLoCo with Overlapping Communication",
2025, https://arxiv.org/abs/2501.18512, and Kale, Douillard, Donchev, "Eager Updates for Overlapped
Communication and Computation in DiLoCo", 2025, https://arxiv.org/abs/2502.12996. Here a model is not cut
into fragments, and nothing stands in for the mean before it is there: local work goes on from where it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Vector
from shoal.methods.base import Learner, State, Steps, Trained
from shoal.methods.errors import BadOption

MAX_DELAY: Final = 1


@dataclass(frozen=True, slots=True)
class Moved:
    """The mean has arrived: from where local work goes on."""

    agreed: Vector
    """The params that all peers hold now."""
    since: Vector
    """Our params when we contributed; what they changed by since then is progress that nobody has yet."""

    def apply(self, params: Vector) -> Vector:
        """Return where local work that stands at `params` goes on."""
        return np.add(self.agreed, np.subtract(params, self.since))


@runtime_checkable
class Overlaps(Protocol):
    """A method whose round is local work, then an exchange that needs nothing of it but its params."""

    def local(self, state: State, learner: Learner, round_: int) -> Trained:
        """Work from `state.params`, which with a delay are not those that all peers hold."""
        ...

    def outer(self, state: State, trained: Vector, weight: float) -> Steps[tuple[State, tuple[PeerId, ...]]]:
        """See `OuterMethod`."""
        ...


class Carrying(Learner, Protocol):
    """A learner whose local work can be carried over to a new state while it runs."""

    arrived: Callable[[], Moved | None]
    """Asked after every step: where to go on from, if a mean has come."""

    def carry(self, params: Vector, moved: Moved) -> Vector:
        """Return where work that stands at these params goes on."""
        ...


def check_delay(delay: int, method: Any, name: str) -> None:
    """Refuse a delay that a method cannot have; `name`: the method's.

    Raises:
        BadOption: the delay is too long, or the method asks its peers in the middle of its local work.
    """
    if not 0 <= delay <= MAX_DELAY:
        raise BadOption(f"delay = {delay}: choose 0 (wait for every mean) or {MAX_DELAY} (train meanwhile)")
    if delay and not isinstance(method, Overlaps):
        raise BadOption(
            f"delay = {delay}: {name} cannot train while a mean travels, since its next local work begins"
            " with it; leave out --delay, or take --method diloco, fedavg or fedprox"
        )
