"""Serving: the donor's side of a state transfer.

    Want  --> pin the state --> Offer          pinned: copied piece by piece, kept while it is asked for
       '--no room--> Wait ... Offer
    Fetch --> line of fetchers --turn, rate, averaging first--> Chunk
                     '--nothing sent for a moment--> Wait

The current state lies in memory that is written anew two rounds later, and the one before it may be
overwritten at any moment; so what someone fetches is copied out, a chunk at a time, and each copy is checked
against its leaf hash. A state that was overwritten meanwhile is not held any more: nobody gets torn bytes.

Chunks leave in turns, one per fetcher; at most `fetchers` are served at a time, for `TURN` seconds while
others wait in line. They leave no faster than `rate`, and while this node exchanges with its group one a
second at most: averaging goes first. A peer that waits is told so, and does not take us for dead.

A base never changes. It is sent from its mapped file, block by block, and never copied; each block is checked
when it leaves, since a disk may rot.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.admission import Admission
from shoal.gossip.events import Data, Effects, Send, SetTimer, Timer
from shoal.gossip.messages import Chunk, Fetch, NotHeld, Offer, Wait, Want
from shoal.gossip.state.base_blocks import BaseBlocks
from shoal.gossip.state.tree_hash import CHUNK_BYTES, StateTree, Tree, leaf, leaf_of, leaves, root, span

PIN_SECONDS: Final = 20.0
"""A pinned state that nobody fetches is let go after this."""
SILENCE: Final = 60.0
"""Seconds after which a fetcher that asks for nothing more is forgotten."""
LONGEST_USE: Final = 300.0
"""Seconds for which a state that is being fetched keeps its place, though another is wanted."""
MAX_PINS: Final = 2
"""States pinned at once; the memory of a donor is bounded by this many copies."""
TURN: Final = 10.0
"""Seconds that a fetcher is served before one that waits in line takes its place."""
TELL_EVERY: Final = 0.5
"""Seconds between signs of life to those that wait; a quarter of the shortest time that anyone waits."""
TRICKLE: Final = 1.0
"""Seconds between chunks while this node exchanges: nobody who fetches starves where rounds never rest."""
BURST: Final = 0.05
"""Seconds of the rate that may be caught up after a late timer."""
AT_ONCE: Final = 16
"""Chunks copied or sent in one go; other events come in between."""


class ServingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a donor gives."""

    rate: float = float("inf")
    """Bytes of chunks per second, to all fetchers together."""
    fetchers: int = 4
    """Peers served at a time."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A state in memory that others write to."""

    round: int
    state: bytes
    previous: bytes
    data: memoryview
    leaves: bytes


@dataclass(slots=True)
class _Pin:
    """A state that is being fetched, as far as it is copied."""

    round: int
    previous: bytes
    leaves: bytes
    source: memoryview | None
    """Where the rest is copied from; nothing when all is here."""
    tree: Tree
    chunks: dict[int, bytes]
    missing: set[int]
    since: float
    expires: float = 0.0

    @property
    def is_base(self) -> bool:
        """Whether it never changes, so that nothing is copied."""
        return self.source is not None and not self.missing


@dataclass(slots=True)
class _Fetcher:
    """A peer that was offered a state, or waits for there to be room for it."""

    state: bytes
    heard: float
    since: float
    """Its turn began, or it came into the line."""
    told: float
    """When it heard of us last."""
    waits_for_room: bool = False
    turn: int = 0
    """Which of all chunks that we sent was its last."""
    queue: deque[int] = field(default_factory=deque)
    sent: set[int] = field(default_factory=set)
    """On their way, as far as we know."""

    @property
    def is_waiting(self) -> bool:
        """Whether it is owed anything."""
        return bool(self.queue or self.sent or self.waits_for_room)


class Serving:
    """What this node hands out."""

    def __init__(self, config: ServingConfig | None = None, admission: Admission | None = None) -> None:
        """Start with nothing to give."""
        self._admission = admission or Admission()
        self.config = config or ServingConfig()
        self.sent_bytes = 0
        """Of chunks, since the start."""
        self.is_yielding = False
        """Whether chunks wait for an exchange to end."""
        self._held: list[_Held] = []
        self._pins: dict[bytes, _Pin] = {}
        self._base: dict[bytes, _Pin] = {}
        """The base of the run, if this node has a file of it."""
        self._line: dict[PeerId, _Fetcher] = {}
        self._turns = 0
        self._free_at = self._trickle_at = 0.0

    # --- what is held -----------------------------------------------------------------------------

    def hold(
        self,
        round_: int,
        state: bytes,
        previous: bytes,
        data: memoryview,
        leaf_hashes: bytes = b"",
        *,
        keeps_former: bool = True,
    ) -> None:
        """Take note of the current state; the former one is answered for as long as its memory lasts.

        `leaf_hashes`: where they are known already. `keeps_former`: not where its memory is nobody else's.
        """
        now_held = _Held(round_, state, previous, data.cast("B"), leaf_hashes)
        former = [held for held in self._held if held.state != state][:1] if keeps_former else []
        self._held = [now_held, *former]

    def hold_base(self, base: BaseBlocks) -> None:
        """Hand out a base that lies here whole; one at a time."""
        assert len(base.leaves) == 32 * base.tree.n_chunks
        self._base = {base.name: _Pin(0, b"", base.leaves, base.data, base.tree, {}, set(), 0.0)}

    def known_chunks(self) -> dict[bytes, Data]:
        """Return the current state's chunks by leaf hash, where those are known; the bytes may change."""
        if not self._held:
            return {}
        held = self._held[0]
        count = len(held.leaves) // 32
        return {
            leaf_of(held.leaves, chunk): held.data[span(chunk, held.data.nbytes)] for chunk in range(count)
        }

    # --- messages ---------------------------------------------------------------------------------

    def want(self, peer: PeerId, message: Want, now: float) -> Effects:
        """Answer whether we hold a state, and pin it if so."""
        # It starts anew: what we sent it before may never have come.
        self._line.pop(peer, None)
        if not self._admission.may_serve(len(self._line)):
            return [Send(peer, NotHeld(message.state))]
        self._line[peer] = _Fetcher(message.state, now, now, now)
        return [*self._offer(peer, now), SetTimer(now, Timer.SERVING)]

    def _offer(self, peer: PeerId, now: float) -> Effects:
        """Offer a fetcher its state, or let it wait for room."""
        fetcher = self._line[peer]
        state = fetcher.state
        pin = self._given(state)
        if pin is None:
            pin = self._pin(state, now)
            if pin is None:
                del self._line[peer]
                return [Send(peer, NotHeld(state))]
            effects = self._make_room(now)
            if len(self._pins) >= MAX_PINS:
                fetcher.waits_for_room = True
                return [*effects, Send(peer, Wait(state))]
            self._pins[state] = pin
        fetcher.waits_for_room = False
        pin.expires = now + PIN_SECONDS
        return [Send(peer, Offer(state, pin.previous, pin.round, pin.tree.n_bytes), pin.leaves)]

    def fetch(self, peer: PeerId, message: Fetch, now: float, *, yields: bool = False) -> Effects:
        """Put a fetcher in line; `yields`: an exchange goes first."""
        pin = self._given(message.state)
        if pin is None:
            self._line.pop(peer, None)
            return [Send(peer, NotHeld(message.state))]
        count = pin.tree.n_chunks
        wanted = [chunk for chunk in dict.fromkeys(message.chunks) if chunk < count]
        if not wanted:
            self._line.pop(peer, None)
            return self.go_on(now, yields=yields)
        fetcher = self._line.get(peer)
        if fetcher is None or fetcher.state != message.state:
            if fetcher is None and not self._admission.may_serve(len(self._line)):
                return [Send(peer, NotHeld(message.state))]
            fetcher = self._line[peer] = _Fetcher(message.state, now, now, now)
        fetcher.heard = now
        fetcher.sent.intersection_update(wanted)
        fetcher.queue = deque(chunk for chunk in wanted if chunk not in fetcher.sent)
        pin.expires = now + PIN_SECONDS
        return self.go_on(now, yields=yields)

    def lost(self, peer: PeerId) -> None:
        """Forget a fetcher whose link is gone."""
        self._line.pop(peer, None)

    def expire(self, now: float) -> None:
        """Let go of what nobody asks for."""
        # A peer that waits for room has nothing to say, and goes with its link or with the state.
        silent = [p for p, each in self._line.items() if each.heard + SILENCE <= now]
        for peer in [peer for peer in silent if not self._line[peer].waits_for_room]:
            del self._line[peer]
        used = {fetcher.state for fetcher in self._line.values()}
        for state in [s for s, pin in self._pins.items() if pin.expires <= now and s not in used]:
            del self._pins[state]

    # --- giving -----------------------------------------------------------------------------------

    def go_on(self, now: float, *, yields: bool = False) -> Effects:
        """Send what may leave now, and copy some of what is not yet copied."""
        effects: Effects = []
        self.is_yielding = yields and any(fetcher.queue for fetcher in self._line.values())
        for _ in range(AT_ONCE):
            peer = self._next(now)
            if peer is None or now < self._free_at or (yields and now < self._trickle_at):
                break
            effects += self._send_chunk(peer, now)
        for peer in [peer for peer, fetcher in self._line.items() if fetcher.waits_for_room]:
            state = self._line[peer].state
            has_room = len(self._pins) < MAX_PINS or self._idle_pins(now)
            if has_room or state in self._pins or all(held.state != state for held in self._held):
                effects += self._offer(peer, now)
        effects += self._copy_on() + self._tell(now)
        at = self._next_time(now, yields=yields)
        return [*effects, SetTimer(at, Timer.SERVING)]

    def _next(self, now: float) -> PeerId | None:
        """Return whose turn it is; who was served goes behind the others that are being served."""
        served = [peer for peer, fetcher in self._line.items() if fetcher.queue or fetcher.sent]
        if len(served) > self.config.fetchers:
            for peer in served[: self.config.fetchers]:
                if self._line[peer].since + TURN <= now:
                    # To the end of the line.
                    fetcher = self._line.pop(peer)
                    fetcher.since = now
                    self._line[peer] = fetcher
                    served.remove(peer)
                    served.append(peer)
            for peer in served[self.config.fetchers :]:
                self._line[peer].since = now
            del served[self.config.fetchers :]
        ready = [peer for peer in served if self._line[peer].queue]
        return min(ready, key=lambda peer: self._line[peer].turn, default=None)

    def _send_chunk(self, peer: PeerId, now: float) -> Effects:
        fetcher = self._line[peer]
        pin = self._given(fetcher.state)
        assert pin is not None
        chunk = fetcher.queue.popleft()
        data = self._chunk_of(pin, chunk)
        if data is None:
            return self._forget(fetcher.state)
        fetcher.sent.add(chunk)
        fetcher.told = now
        self._turns += 1
        fetcher.turn = self._turns
        self.sent_bytes += len(data)
        self._free_at = max(self._free_at, now - BURST) + len(data) / self.config.rate
        # Blocks of a base are smaller than chunks: as many bytes a second.
        self._trickle_at = now + (TRICKLE * len(data) / CHUNK_BYTES if pin.is_base else TRICKLE)
        return [Send(peer, Chunk(fetcher.state, chunk), data)]

    def _chunk_of(self, pin: _Pin, chunk: int) -> Data | None:
        """Return a chunk to send, or nothing where it is not whole any more."""
        if pin.is_base:
            assert pin.source is not None
            block = pin.source[pin.tree.span(chunk)]
            return block if pin.tree.leaf(block) == leaf_of(pin.leaves, chunk) else None
        if chunk in pin.missing and not self._copy(pin, chunk):
            return None
        return pin.chunks[chunk]

    def _given(self, state: bytes) -> _Pin | None:
        """Return what is handed out by this name, if it is held or pinned."""
        return self._base.get(state) or self._pins.get(state)

    def _tell(self, now: float) -> Effects:
        """Show those that wait that we live."""
        effects: Effects = []
        for peer, fetcher in self._line.items():
            if fetcher.is_waiting and now >= fetcher.told + TELL_EVERY:
                fetcher.told = now
                effects.append(Send(peer, Wait(fetcher.state)))
        return effects

    def _next_time(self, now: float, *, yields: bool) -> float:
        times = [each.told + TELL_EVERY for each in self._line.values() if each.is_waiting]
        if any(pin.missing for pin in self._pins.values()):
            times.append(now)
        if self._next(now) is not None:
            times.append(max(now, self._free_at, self._trickle_at if yields else 0.0))
        return min(times, default=float("inf"))

    # --- pinning ----------------------------------------------------------------------------------

    def _pin(self, state: bytes, now: float) -> _Pin | None:
        held = next((held for held in self._held if held.state == state and state), None)
        if held is None:
            return None
        hashes = held.leaves or leaves(held.data)
        if root(hashes, held.data.nbytes) != state:
            return None
        tree = StateTree(held.data.nbytes)
        missing = set(range(tree.n_chunks))
        return _Pin(held.round, held.previous, hashes, held.data, tree, {}, missing, now)

    def _idle_pins(self, now: float) -> list[bytes]:
        """Return the states that may be let go for another, the first one first."""
        used = {fetcher.state for fetcher in self._line.values() if not fetcher.waits_for_room}
        idle = [s for s, pin in self._pins.items() if s not in used or pin.since + LONGEST_USE <= now]
        return sorted(idle, key=lambda state: self._pins[state].expires)

    def _make_room(self, now: float) -> Effects:
        idle = self._idle_pins(now) if len(self._pins) >= MAX_PINS else []
        return self._unpin(idle[0]) if idle else []

    def _copy(self, pin: _Pin, chunk: int) -> bool:
        """Copy a chunk out of memory that others write to; tells whether it was still whole."""
        assert pin.source is not None
        data = bytes(pin.source[pin.tree.span(chunk)])
        if leaf(data) != leaf_of(pin.leaves, chunk):
            return False
        pin.chunks[chunk] = data
        pin.missing.discard(chunk)
        if not pin.missing:
            pin.source = None
        return True

    def _copy_on(self) -> Effects:
        for state, pin in self._pins.items():
            for chunk in sorted(pin.missing)[:AT_ONCE]:
                if not self._copy(pin, chunk):
                    return self._forget(state)
        return []

    def _forget(self, state: bytes) -> Effects:
        """A state was overwritten before it was copied."""
        self._held = [held for held in self._held if held.state != state]
        return self._unpin(state)

    def _unpin(self, state: bytes) -> Effects:
        """Let a copy go; whoever fetches it looks elsewhere."""
        self._pins.pop(state, None)
        self._base.pop(state, None)
        gone = [
            peer
            for peer, fetcher in self._line.items()
            if fetcher.state == state and not fetcher.waits_for_room
        ]
        for peer in gone:
            del self._line[peer]
        return [Send(peer, NotHeld(state)) for peer in gone]
