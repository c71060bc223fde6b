"""Steps towards a router, answered without sockets."""

from collections.abc import Callable
from typing import Any

from shoal.gossip.reachability.steps import Datagram, Response, Step, Steps, T

Says = Callable[[Step], bytes | Response | None]
"""What a router says to a step; nothing, where it is silent."""


def play(steps: Steps[T], says: Says) -> tuple[T, list[Step]]:
    """Return what steps come to, and what they asked; a datagram is heard only if it fits, as by a socket."""
    asked: list[Step] = []
    said: Any = None
    while True:
        try:
            step = steps.send(said)
        except StopIteration as end:
            return end.value, asked
        asked.append(step)
        said = says(step)
        if isinstance(step, Datagram) and (said is None or not step.fits(said)):
            said = None
