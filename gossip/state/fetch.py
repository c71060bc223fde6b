"""Transfer: a state fetched from several donors at once, every chunk verified.

    asking --Offer: leaves hash to the state's name--> fetching --all chunks--> done
       '--------no donor left, or silence-----------------------------------> failed

The name of the state (gossip/state/tree_hash.py) comes from the signed records of many peers, so no
donor can make us take anything else: its leaf hashes must hash to the name, its chunks to the
leaves. A donor whose chunk does not verify is dropped by name.

Every donor is asked for as many chunks as it gives in `HORIZON` by the speed that was measured of it, so
fast donors carry more. A list names all that is wanted of a donor now: what came from elsewhere is taken off
it again. When all chunks are asked for, an idle donor is asked for those that it would bring sooner than
whoever owes them, so a slow donor does not hold up the end. What a lost donor owed is asked from the rest.

Chunks that are known already are not asked for, wherever they come from: what an earlier transfer had
verified when it broke off, what was kept on disk, and what did not change since our own state.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Final

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Data, Drop, Effects, Send, SetTimer, Timer, Vector
from shoal.gossip.messages import Chunk, Fetch, NotHeld, Offer, Wait, Want
from shoal.gossip.state.base_blocks import BaseBlocks
from shoal.gossip.state.tree_hash import LEAF_BYTES, StateTree, Tree, leaf_of

HORIZON: Final = 0.5
"""Seconds of work that a donor is asked for at once: more than a round trip, little to share out anew."""
MAX_OWED: Final = 16
"""Chunks asked for at once from the fastest donor."""
MAX_DONORS: Final = 4
MAX_SPARE: Final = 64
LONGEST_CHUNK: Final = 120.0
"""Seconds for a chunk from a donor that says that it lives; whoever needs longer is no help."""
ASK_AGAIN: Final = 20.0
"""Seconds without a chunk after which a donor is asked anew: a link that moved may have lost the last one."""
LOOK_EVERY: Final = 0.25
"""Seconds between looks at who is slow, while another donor has nothing to do."""
MAX_UNKNOWN_BYTES: Final = 256 << 20
"""The largest state that is fetched without knowing its run: a helper lends memory, but not all of it."""
FADE: Final = 0.8
"""Share of a donor's past that counts beside its last chunk."""


@dataclass(slots=True)
class _Donor:
    heard: float
    has_offered: bool = False
    is_doubted: bool = False
    """Whether it was asked anew since its last chunk."""
    owed: dict[int, float] = field(default_factory=dict)
    """What we asked it for and did not get yet, in this order, and when we asked."""
    moved: float = 0.0
    """When its last chunk came, or when it was asked after it owed nothing."""
    seen: float = 0.0
    """When bytes of a chunk came that was not here yet: on a slow line that is no reason to ask anew."""
    seconds: float = 0.0
    """Decayed seconds that the chunks took that it brought."""
    chunks: float = 0.0
    """Decayed number of those chunks (exponential average)."""

    @property
    def pace(self) -> float:
        """Seconds per chunk; 0 while nothing is known."""
        return self.seconds / self.chunks if self.chunks else 0.0

    @property
    def window(self) -> int:
        """Chunks that it may owe."""
        if not self.chunks:
            return 1
        return min(MAX_OWED, 1 + ceil(HORIZON / max(self.pace, 1e-6)))

    def note_chunk(self, asked: float, now: float) -> None:
        """Measure: it worked on this chunk since the one before, or since we asked."""
        self.seconds = FADE * self.seconds + max(0.0, now - max(asked, self.moved))
        self.chunks = FADE * self.chunks + 1
        self.moved = now
        self.is_doubted = False

    def eta(self, chunk: int, now: float) -> float:
        """Return the seconds until it brings a chunk that it owes, as far as can be told."""
        waited = now - self.moved
        due = self.pace * (1 + list(self.owed).index(chunk)) - waited
        # Overdue, or never seen at work: it takes as long again as it took so far.
        return due if self.chunks and due > 0 else waited


class Fetching:
    """The fetching side of one state."""

    def __init__(
        self,
        state: bytes,
        round_: int,
        n_bytes: int | None,
        donors: tuple[PeerId, ...],
        silence_timeout: float,
        *,
        known: Mapping[bytes, Data] | None = None,
        paces: Mapping[PeerId, float] | None = None,
        base: BaseBlocks | None = None,
    ) -> None:
        """`n_bytes`: the size our run spec demands, nothing for a run that is not ours.

        `silence_timeout`: seconds until a silent donor is given up. `known`: chunks by leaf hash; they
        are verified before they are used. `paces`: seconds per chunk of donors that we know; the fastest are
        asked first. `base`: what is fetched is no state but a base, and this is where it goes.
        """
        self.state, self.round = state, round_
        self.previous = b""
        self.leaves = b""
        self._missing: set[int]
        self._timer = Timer.FETCH if base is None else Timer.BASE
        self._is_size_known = n_bytes is not None
        self.vector: Vector = np.empty((n_bytes or 0) // 4 if base is None else 0, dtype=np.float32)
        if base is None:
            self._lay_out(StateTree(n_bytes or 0), self.vector.view(np.uint8).data)
        else:
            self._lay_out(base.tree, base.data)
            self.leaves, self._missing = base.leaves, self._missing - base.have
            self._todo = deque(sorted(self._missing))
        self.is_done = False
        self.failure = ""
        self.served: dict[PeerId, int] = {}
        self.reused = 0
        """Chunks that nobody had to send."""
        self.failed: list[PeerId] = []
        """Donors that did not give what they claim to have."""
        self.liars: list[PeerId] = []
        """Those of them that gave something else."""
        self.arrived: list[int] = []
        """Chunks verified since whoever keeps them looked; see `take_arrived`."""
        self._known = dict(known or {})
        self._paces = dict(paces or {})
        ranked = sorted(donors, key=lambda peer: self._paces.get(peer, 0.0))
        self._donors = {peer: _Donor(0.0) for peer in ranked[:MAX_DONORS]}
        self._spare = ranked[MAX_DONORS : MAX_DONORS + MAX_SPARE]
        self._silence_timeout = silence_timeout
        self._next_check = float("inf")

    def _lay_out(self, tree: Tree, view: memoryview) -> None:
        self._tree, self._view = tree, view
        self.n_bytes = tree.n_bytes
        self._missing = set(range(tree.n_chunks))
        self._todo = deque(range(tree.n_chunks))

    # --- what comes in ----------------------------------------------------------------------------

    def begin(self, now: float) -> Effects:
        """Ask the donors."""
        effects: Effects = []
        for peer, donor in self._donors.items():
            donor.heard = donor.moved = now
            effects.append(Send(peer, Want(self.state)))
        return effects + self._go_on(now)

    def add(self, peers: Iterable[PeerId], now: float) -> Effects:
        """Take on further donors: they came to hold the state, or their links are back."""
        effects: Effects = []
        for peer in peers:
            if self.is_over or peer in self._donors or peer in self._spare or peer in self.failed:
                continue
            if len(self._donors) < MAX_DONORS:
                effects += self._take_on(peer, now)
            elif len(self._spare) < MAX_SPARE:
                self._spare.append(peer)
        return effects + (self._go_on(now) if effects else [])

    def end(self) -> Effects:
        """Tell the donors that they need not keep the state for us."""
        return [Send(peer, Fetch(self.state, ())) for peer in self._donors]

    def know(self, chunks: Mapping[bytes, Data], now: float) -> Effects:
        """Take chunks that were kept on disk."""
        if self.is_over:
            return []
        self._known |= chunks
        return self._use_known() + self._go_on(now)

    def handle(
        self, peer: PeerId, message: Offer | NotHeld | Wait | Chunk, data: Data, now: float
    ) -> Effects:
        """A donor answered."""
        donor = self._donors.get(peer)
        if donor is None or message.state != self.state or self.is_over:
            return []
        donor.heard = now
        match message:
            case NotHeld():
                return self._fail(peer, now)
            case Wait():
                return []
            case Offer():
                return self._handle_offer(peer, donor, message, bytes(data), now)
            case Chunk():
                return self._handle_chunk(peer, donor, message, data, now)

    def arriving(self, peer: PeerId, now: float) -> None:
        """Bytes of a donor have come: a chunk is on its way."""
        if (donor := self._donors.get(peer)) is not None:
            donor.heard = donor.seen = now

    def lost(self, peer: PeerId, now: float) -> Effects:
        """Go on without a donor."""
        if peer in self._spare:
            self._spare.remove(peer)
        donor = self._donors.pop(peer, None)
        if donor is None or self.is_over:
            return []
        self._give_back(donor.owed)
        effects = self._take_on(self._spare.pop(0), now) if self._spare else []
        return effects + self._go_on(now)

    def timer(self, now: float) -> Effects:
        """Give up on silent donors, and look who is slow."""
        effects: Effects = []
        if now > self._next_check + self._silence_timeout / 2:
            # Our own process slept: that is nobody's silence.
            for donor in self._donors.values():
                donor.heard = donor.moved = now
        for peer, donor in list(self._donors.items()):
            still = now - donor.moved if self._waits(donor) else 0.0
            if self._waits(donor) and (now >= donor.heard + self._silence_timeout or still >= LONGEST_CHUNK):
                effects += self._fail(peer, now)
            elif still >= ASK_AGAIN <= now - donor.seen and donor.owed and not donor.is_doubted:
                donor.is_doubted = True
                lists = (Fetch(self.state, ()), Fetch(self.state, tuple(donor.owed)))
                effects += [Send(peer, each) for each in lists]
        return effects + self._go_on(now)

    # --- what came of it --------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.is_done or bool(self.failure)

    @property
    def missing(self) -> frozenset[int]:
        """The chunks that are not here yet."""
        return frozenset(self._missing)

    def ask_again(self) -> None:
        """Let those be asked once more that did not have it: they may have come to hold it since."""
        self.failed = [peer for peer in self.failed if peer in self.liars]

    @property
    def share_missing(self) -> float:
        """How much of the state is not here yet."""
        return len(self._missing) / max(1, self._tree.n_chunks) if self.leaves else 1.0

    def known_chunks(self) -> dict[bytes, Data]:
        """Return what is verified so far, by leaf hash, for whoever fetches after us."""
        if not self.leaves:
            return dict(self._known)
        have = sorted(set(range(self._tree.n_chunks)) - self._missing)
        return self._known | {leaf_of(self.leaves, c): self._view[self._tree.span(c)] for c in have}

    def paces(self) -> dict[PeerId, float]:
        """Return the seconds per chunk that were measured."""
        return self._paces | {peer: each.pace for peer, each in self._donors.items() if each.chunks}

    def take_arrived(self) -> list[tuple[int, memoryview]]:
        """Return the chunks that donors sent since the last call."""
        taken = [(chunk, self._view[self._tree.span(chunk)]) for chunk in self.arrived]
        self.arrived = []
        return taken

    # --- inside -----------------------------------------------------------------------------------

    def _take_on(self, peer: PeerId, now: float) -> Effects:
        self._donors[peer] = _Donor(now, moved=now)
        return [Send(peer, Want(self.state))]

    def _waits(self, donor: _Donor) -> bool:
        return not donor.has_offered or bool(donor.owed)

    def _fail(self, peer: PeerId, now: float) -> Effects:
        self.failed.append(peer)
        return self.lost(peer, now)

    def _lied(self, peer: PeerId, reason: str, now: float) -> Effects:
        self.liars.append(peer)
        return [Drop(peer, reason), *self._fail(peer, now)]

    def _give_back(self, chunks: Iterable[int]) -> None:
        """Ask somebody else for these, first of all."""
        owed = set().union(*(donor.owed for donor in self._donors.values()))
        back = [chunk for chunk in chunks if chunk in self._missing and chunk not in owed]
        self._todo.extendleft(reversed(back))

    def _handle_offer(
        self, peer: PeerId, donor: _Donor, message: Offer, leaves: bytes, now: float
    ) -> Effects:
        n_bytes = message.n_bytes
        if not self._is_size_known and (n_bytes > MAX_UNKNOWN_BYTES or n_bytes % 4):
            return self._fail(peer, now)
        tree = self._tree if self._is_size_known else StateTree(n_bytes)
        if (
            n_bytes != tree.n_bytes
            or len(leaves) != LEAF_BYTES * tree.n_chunks
            or tree.root(leaves) != self.state
        ):
            return self._lied(peer, "offer does not hash to the state", now)
        if not self._is_size_known:
            self.vector = np.empty(n_bytes // 4, dtype=np.float32)
            self._lay_out(tree, self.vector.view(np.uint8).data)
            self._is_size_known = True
        # The round is not in the hash; it comes from the records of many and is only checked here.
        if message.round == self.round and not self.previous:
            self.previous = message.previous
        donor.has_offered, self.leaves = True, leaves
        return self._use_known() + self._go_on(now)

    def _use_known(self) -> Effects:
        """Take what is known already, and take it off the donors' lists."""
        if not self.leaves or not self._known:
            return []
        view, tree = self._view, self._tree
        for chunk in sorted(self._missing):
            data, where = self._known.get(leaf_of(self.leaves, chunk)), tree.span(chunk)
            if data is None or len(data) != where.stop - where.start:
                continue
            view[where] = data
            # It may lie in memory that is being written to.
            if tree.leaf(view[where]) == leaf_of(self.leaves, chunk):
                self._missing.discard(chunk)
                self.reused += 1
        self._known = {}
        self._todo = deque(chunk for chunk in self._todo if chunk in self._missing)
        return self._cancel(set())

    def _handle_chunk(self, peer: PeerId, donor: _Donor, message: Chunk, data: Data, now: float) -> Effects:
        chunk = message.chunk
        asked = donor.owed.get(chunk)
        if asked is None:
            return []
        where = self._tree.span(chunk)
        if len(data) != where.stop - where.start or self._tree.leaf(data) != leaf_of(self.leaves, chunk):
            return self._lied(peer, "chunk of a state does not verify", now)
        donor.note_chunk(asked, now)
        effects = self._give_up_overtaken(peer, donor, chunk)
        del donor.owed[chunk]
        if chunk not in self._missing:
            return effects + self._go_on(now)
        self._missing.remove(chunk)
        self._view[where] = data
        self.served[peer] = self.served.get(peer, 0) + 1
        self.arrived.append(chunk)
        return effects + self._cancel({peer}) + self._go_on(now)

    def _give_up_overtaken(self, peer: PeerId, donor: _Donor, chunk: int) -> Effects:
        """Order is kept between two peers: what should have come before this chunk was lost on its way."""
        overtaken = list(donor.owed)[: list(donor.owed).index(chunk)]
        if not overtaken:
            return []
        for before in overtaken:
            del donor.owed[before]
        self._give_back(overtaken)
        # The donor has to know that we asked for them no more, before we ask again.
        return [Send(peer, Fetch(self.state, tuple(donor.owed)))]

    def _cancel(self, spared: set[PeerId]) -> Effects:
        """Take what is here already off the donors' lists; those spared get a new list anyway."""
        effects: Effects = []
        for peer, donor in self._donors.items():
            needless = [chunk for chunk in donor.owed if chunk not in self._missing]
            for chunk in needless:
                del donor.owed[chunk]
            if needless and peer not in spared:
                effects.append(Send(peer, Fetch(self.state, tuple(donor.owed))))
        return effects

    def _go_on(self, now: float) -> Effects:
        if self.is_over:
            return []
        if not self._missing and self.leaves:
            self.is_done = True
            return [*self.end(), SetTimer(float("inf"), self._timer)]
        if not self._donors:
            self.failure = "no peer that holds the swarm's state answered"
            return [SetTimer(float("inf"), self._timer)]
        effects: Effects = []
        for peer, donor in sorted(self._donors.items(), key=lambda known: known[1].pace):
            if donor.has_offered and len(donor.owed) <= donor.window // 2 and self._ask_more(donor, now):
                effects.append(Send(peer, Fetch(self.state, tuple(donor.owed))))
        return [*effects, SetTimer(self._plan_check(now), self._timer)]

    def _ask_more(self, donor: _Donor, now: float) -> bool:
        """Put chunks on a donor's list; tells whether there were any."""
        before = len(donor.owed)
        if not donor.owed:
            donor.moved = donor.heard = now
        while len(donor.owed) < donor.window:
            chunk = self._todo.popleft() if self._todo else self._overdue(donor, now)
            if chunk is None:
                break
            donor.owed[chunk] = now
        return len(donor.owed) > before

    def _overdue(self, helper: _Donor, now: float) -> int | None:
        """Return what another donor owes and this one would bring sooner, if there is such a chunk."""
        soonest: dict[int, float] = {}
        for donor in self._donors.values():
            for chunk in donor.owed:
                soonest[chunk] = min(donor.eta(chunk, now), soonest.get(chunk, float("inf")))
        open_ = [chunk for chunk in soonest if chunk not in helper.owed and chunk in self._missing]
        latest = max(open_, key=lambda chunk: soonest[chunk], default=None)
        mine = (helper.pace or 2 * LOOK_EVERY) * (1 + len(helper.owed))
        return latest if latest is not None and soonest[latest] > mine else None

    def _plan_check(self, now: float) -> float:
        waiting = [donor for donor in self._donors.values() if self._waits(donor)]
        at = min((donor.heard for donor in waiting), default=now) + self._silence_timeout
        self._next_check = at
        has_idle = any(donor.has_offered and not donor.owed for donor in self._donors.values())
        if has_idle and any(donor.owed for donor in waiting):
            self._next_check = min(at, now + LOOK_EVERY)
        return self._next_check
