"""Throttle: how long to wait before more may be sent, so that a line keeps room for its owner. Pure.

A token bucket as a time: `_free_at` is when all that was sent so far would have left a line of this rate.
What was not used gives credit for `BURST` seconds at most. Reference: Turner, "New Directions in
Communications (or Which Way to the Information Age?)", IEEE Communications Magazine 24(10), 1986: the leaky
bucket.
"""

from typing import Final

BURST: Final = 0.25
"""Seconds of the rate that may leave at once after silence."""
PIECE: Final = 16 * 1024
"""Bytes that are sent between two waits: on a slow line the next is not far, and peers see that some come."""


class Throttle:
    """Of all bulk that one node sends."""

    def __init__(self, rate: float) -> None:
        """`rate`: bytes per second, above 0."""
        self.rate = rate
        self._free_at = float("-inf")

    def wait(self, n_bytes: int, now: float) -> float:
        """Count bytes that are to be sent, and return for how many seconds to wait before that."""
        begins = max(self._free_at, now - BURST)
        self._free_at = begins + n_bytes / self.rate
        return max(0.0, begins - now)
