"""Masking: what one ask of a method wants of its sum, whatever the run's policy says of others.

A run that is `secure` sums under masks whatever its method averages, and chooses how fine by what is given.
An ask that is masked by itself fixes that before: then nothing that is said in the open follows from data.
"""

from typing import Annotated, Final

import msgspec

MAX_LEVELS: Final = 16
"""Weights of sums under masks are whole numbers up to this."""


class Masking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sum under masks, on this grid. Equal on all members."""

    clip: Annotated[float, msgspec.Meta(gt=0, le=1e6)]
    """No number counts for more, and no mean is beyond it."""
    bits: Annotated[int, msgspec.Meta(ge=2, le=16)]
    """Of a number before the sum."""
    levels: Annotated[int, msgspec.Meta(ge=1, le=MAX_LEVELS)] = MAX_LEVELS
    """Weights are whole numbers up to this: each doubling costs a bit of every number; 1: all count alike."""

    @property
    def name(self) -> str:
        """Tell grids that do not add up from each other."""
        return f"{self.clip!r} {self.bits} {self.levels}"
