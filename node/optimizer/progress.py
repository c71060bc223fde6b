"""Progress: where a training stood in its swarm, as it is kept beside a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from shoal.gossip.events import Vector
from shoal.gossip.state.tree_hash import state_hash
from shoal.methods.errors import BadOption


@dataclass(frozen=True, slots=True)
class RoundEnded:
    """What a step led to, where it ended a round."""

    round: int
    """The round that the model stands in now."""
    contributors: int
    """How many peers' work is in the mean, this one's included."""
    seconds: float
    """For which the loop waited for it."""


class Progress(msgspec.Struct, frozen=True):
    """What `Swarm.state_dict` holds."""

    round: int = 0
    steps: int = 0
    """Taken since that round began."""
    state: str = ""
    """The hash of the params that the round began from, as hex digits."""

    @classmethod
    def read(cls, state_dict: Mapping[str, Any]) -> "Progress":
        """Read what `Swarm.state_dict` returned.

        Raises:
            BadOption: it is none.
        """
        try:
            return msgspec.convert(dict(state_dict), cls)
        except (msgspec.ValidationError, TypeError, ValueError) as error:
            raise BadOption(
                f"resume holds no state of a Swarm ({error}): give what state_dict() returned"
            ) from None


def hash_of(params: Vector) -> str:
    """Return the hash of float32 [n] as hex digits."""
    return state_hash(np.ascontiguousarray(params).view(np.uint8).data).hex()
