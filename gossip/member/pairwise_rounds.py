"""PairwiseRounds: the asks of a trainer where the run averages pairwise, and the mass that outlives them.

    working --the neighbours are ready, or late--> giving: k pushes, one after the other --> the estimate
       '------------------------ what others give is added at any time -----------------------'

A round is what the trainer did since the last estimate (push_sum.py: `move`), then `pushes_per_round` steps.
A node that holds too little to give waits a moment for what others give, which is on its way. And a node
waits for its neighbours to be ready before it gives, as it does before a group is formed (matchmaking.py,
with groups of one), so that nobody runs far ahead.

The last round of a run is another: what the peers hold is averaged in a group (all_reduce.py), so that all
that meet there end with one state, the mean of their mass.
"""

from typing import Final

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.push_sum import PushSum, PushSumConfig
from shoal.gossip.deadlines import LONGEST, SHORTEST_TIMEOUT, SLOWEST_LINE, Deadline, bulk_seconds
from shoal.gossip.events import Data, Effects, Notify, ProbeLink, SetTimer, Timer, Vector
from shoal.gossip.group import Exchanged
from shoal.gossip.member.commands import Averaged, Contribute
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.messages import PairingMessage
from shoal.gossip.sequence import Sequence

GRACE: Final = 0.5
"""Seconds at most for which a round with steps left waits to be given something to give; learned."""
PARTIAL: Final = "push that counted in part, or not"
TOO_SLOW: Final = "push that was given up, since nothing of it came any more"
SHORTEST_GRACE: Final = 0.05
EMPTY: Final[Vector] = np.empty(0, dtype=np.float32)


class PairwiseRounds:
    """The pairwise side of one node. See the module's docstring."""

    def __init__(
        self, view: SwarmView, patience: float, epochs: Sequence, slowest_line: float = SLOWEST_LINE
    ) -> None:
        """`patience`: seconds, the upper bound of the learned deadline.

        `slowest_line`: see `MemberConfig`.
        """
        self._view, self._epochs = view, epochs
        self._patience, self._slowest_line = patience, slowest_line
        self.core: PushSum | None = None
        self._wait = Deadline(patience, floor=SHORTEST_TIMEOUT)
        self._usual = Deadline(LONGEST, floor=patience)
        self._since: Vector = EMPTY
        self._pending: Contribute | None = None
        self._steps_left = 0
        self._stepped_at: float | None = None
        self._grace = Deadline(GRACE, floor=SHORTEST_GRACE)
        self._grace_ends = 0.0
        self._asked_at = self._formed_at = 0.0

    @property
    def is_on(self) -> bool:
        """Whether the run averages pairwise."""
        return self._view.pattern.has_own_states

    # --- commands ---------------------------------------------------------------------------------

    def attach(self, now: float) -> None:
        """A trainer of a run is there; the mass of a run that goes on stays."""
        spec = self._view.spec
        if spec is None or not self.is_on:
            self.core = None
        elif self.core is None or self.core.run != self._view.run:
            config = PushSumConfig(codec=spec.codec, chunk_numel=spec.max_chunk_numel, exact=spec.buffers)
            self.core = PushSum(spec.params_numel, config, self._epochs, self._view.run)
            for peer in self._view.table.connected:
                self.core.found(peer, now)

    def note_state(self, data: Data) -> None:
        """The trainer goes on from these params."""
        numel = self.core.sums.size if self.core is not None else 0
        self._since = np.frombuffer(data, dtype=np.float32, count=numel)

    def begin(self, pending: Contribute, asked_at: float, now: float) -> Effects:
        """Add what the trainer did, and give."""
        core, spec = self.core, self._view.spec
        assert core is not None
        assert spec is not None
        self._pending, self._asked_at, self._formed_at = pending, asked_at, now
        core.givers = set()
        colleagues = self._view.colleagues.colleagues()
        named = colleagues | self._view.colleagues.named
        core.accounts.strangers = frozenset(self._view.table.connected - named if colleagues else ())
        self._add(core, pending)
        self._steps_left = spec.pushes_per_round
        self._stepped_at = None
        self._grace_ends = now + self._grace.seconds()
        return self._go_on([SetTimer(self._grace_ends, Timer.PUSH_SUM_GRACE)], now)

    def close(self, pending: Contribute) -> Contribute:
        """Add what the trainer did, and return our mass as a contribution to a group's mean.

        The mean of estimates, weighted by the mass they stand on, is the mean of all mass.
        """
        core = self.core
        assert core is not None
        self._add(core, pending)
        core.read(pending.vector)
        # Chunks differ in weight only where a link broke in the middle of a push.
        return Contribute(pending.index, pending.vector, float(core.weights.mean()), "params")

    def end(self) -> None:
        """Nobody waits for the ask any more; what was given is still asked about."""
        self._pending = None
        if self.core is not None:
            self.core.stop()

    # --- events -----------------------------------------------------------------------------------

    def handle(self, peer: PeerId, message: PairingMessage, data: Data, now: float) -> Effects:
        """Take a message of another that averages pairwise."""
        if self.core is None or not self._view.admission.may_group(peer, now):
            return []
        effects = self.core.handle(peer, message, data, now)
        self._note_partial(self.core, now)
        return self._go_on(effects, now)

    def arriving(self, peer: PeerId, n_bytes: int, now: float) -> Effects:
        """So many bytes have come of a bulk message of this peer."""
        if self.core is None or not self._view.admission.may_group(peer, now):
            return []
        return self.core.arriving(peer, n_bytes, now)

    def found(self, peer: PeerId, now: float) -> Effects:
        """A link to a peer is up."""
        return self.core.found(peer, now) if self.core is not None else []

    def lost(self, peer: PeerId, now: float, *, is_dead: bool = False) -> Effects:
        """A link is gone; `is_dead`: and the peer with it."""
        if self.core is None:
            return []
        if self.core.target == peer:
            self._stepped_at = None
        effects = self.core.lost(peer, now)
        if is_dead:
            self.core.forget(peer)
        return self._go_on(effects, now)

    def grace_ends(self, now: float) -> Effects:
        """Wait no longer for something to give."""
        return self._go_on([], now)

    def timer(self, now: float) -> Effects:
        """Ask about what was not acknowledged in time."""
        if self.core is None:
            return []
        target = self.core.target
        effects = self.core.timer(now)
        if target is not None and self.core.target is None:
            self._wait.miss()
            self._stepped_at = None
            self._view.note_unresponsive({target})
            effects = [*effects, ProbeLink(target)]
        self._note_given_up(self.core)
        return self._go_on(effects, now)

    # --- what came of it --------------------------------------------------------------------------

    @property
    def is_answered(self) -> bool:
        """Whether all that the trainer's ask gives is given, and the trainer is not told yet."""
        if self._pending is None or self.core is None:
            return False
        return not self._steps_left and self.core.target is None

    def answer(self, now: float) -> Effects:
        """Tell the trainer our estimate; once, when `is_answered`."""
        core, pending = self.core, self._pending
        assert core is not None
        assert pending is not None
        self._pending = None
        core.read(pending.vector)
        contributors = tuple(sorted(core.givers | {self._view.me}))
        times = (self._formed_at - self._asked_at, now - self._formed_at)
        exchanged = Exchanged((), contributors, 0)
        return [Notify(Averaged(self._view.round, pending.index, exchanged, *times))]

    # --- inside -----------------------------------------------------------------------------------

    def _note_given_up(self, core: PushSum) -> None:
        """Count pushes that were too slow, and wait longer for the next: nothing is learned of their time."""
        for peer in core.given_up:
            self._view.admission.count(TOO_SLOW)
            if peer == core.target:
                self._wait.miss()
                self._usual.miss()
                self._stepped_at = None
        core.given_up.clear()

    def _note_partial(self, core: PushSum, now: float) -> None:
        """Count what did not count, or in part, and name those that did what no correct peer does."""
        if not core.partial:
            return
        admission = self._view.admission
        admission.count(PARTIAL)
        for peer, fault in core.partial:
            if fault:
                admission.named_faults.add(peer, fault, now)
        core.partial.clear()

    def _add(self, core: PushSum, pending: Contribute) -> None:
        weight = pending.weight * pending.discount
        if core.share:
            core.move(np.subtract(pending.vector, self._since), weight)
        else:
            core.mint(pending.vector, weight)

    def _go_on(self, effects: Effects, now: float) -> Effects:
        """Go on giving once a step is over."""
        core = self.core
        if core is None or self._pending is None or core.target is not None:
            return effects
        self._learn(now)
        takers = self._view.takers(now)
        while self._steps_left and core.target is None:
            if core.is_poor and now < self._grace_ends and takers:
                return effects
            self._steps_left -= 1
            core.wait = self._wait.seconds()
            core.longest = bulk_seconds(core.push_bytes, self._slowest_line, self._usual, self._patience)
            effects = effects + core.step(takers, now)
        if core.target is not None:
            self._stepped_at = now
        return effects

    def _learn(self, now: float) -> None:
        """Take note of how long a step has taken that was acknowledged."""
        if self._stepped_at is not None:
            self._wait.observe(now - self._stepped_at)
            self._usual.observe(now - self._stepped_at)
            self._grace.observe(now - self._stepped_at)
            self._stepped_at = None
