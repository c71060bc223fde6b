"""Serving: the donor's side of a state transfer.

The current state lives in memory that is written anew two rounds later, so a state that someone
fetches is pinned: copied once, kept while chunks of it are asked for, and let go after a while of silence.
"""

from dataclasses import dataclass
from typing import Final

from crypto.keys import PeerId
from gossip.core import Effects, Send
from gossip.messages import Chunk, Fetch, NotHeld, Offer, Want
from gossip.statehash import CHUNK_BYTES, leaves, n_chunks

PIN_SECONDS: Final = 20.0
"""A pinned state that nobody asks for is let go after this."""
MAX_PINS: Final = 2
"""States pinned at once; the memory of a donor is bounded by this many copies."""


@dataclass(slots=True)
class _Pin:
    round: int
    previous: bytes
    data: bytes
    leaves: bytes
    expires: float


class Serving:
    """What this node hands out."""

    def __init__(self) -> None:
        """Start with nothing to give."""
        self._state = b""
        self._round = 0
        self._previous = b""
        self._data = memoryview(b"")
        self._pins: dict[bytes, _Pin] = {}

    def hold(self, round_: int, state: bytes, previous: bytes, data: memoryview) -> None:
        """Take note of the current state."""
        self._round, self._state, self._previous, self._data = round_, state, previous, data

    def want(self, peer: PeerId, message: Want, now: float) -> Effects:
        """Answer whether we hold a state, and pin it if so."""
        pin = self._pins.get(message.state)
        if pin is None and message.state == self._state and self._state:
            while len(self._pins) >= MAX_PINS:
                del self._pins[min(self._pins, key=lambda state: self._pins[state].expires)]
            data = bytes(self._data.cast("B"))
            pin = _Pin(self._round, self._previous, data, leaves(memoryview(data)), 0.0)
            self._pins[message.state] = pin
        if pin is None:
            return [Send(peer, NotHeld(message.state))]
        pin.expires = now + PIN_SECONDS
        return [Send(peer, Offer(message.state, pin.previous, pin.round, len(pin.data)), pin.leaves)]

    def fetch(self, peer: PeerId, message: Fetch, now: float) -> Effects:
        """Send chunks of a pinned state."""
        pin = self._pins.get(message.state)
        if pin is None:
            return [Send(peer, NotHeld(message.state))]
        pin.expires = now + PIN_SECONDS
        view = memoryview(pin.data)
        return [
            Send(peer, Chunk(message.state, chunk), view[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES])
            for chunk in message.chunks
            if chunk < n_chunks(len(pin.data))
        ]

    def expire(self, now: float) -> None:
        """Let go of what nobody asks for."""
        for state in [state for state, pin in self._pins.items() if pin.expires <= now]:
            del self._pins[state]
