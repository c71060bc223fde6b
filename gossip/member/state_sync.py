"""StateSync: fetching the state that the swarm goes by, and keeping one for others.

A trainer that is behind fetches the agreed state from all that hold it (fetch.py). While it does, others
come to hold it and are asked too; the swarm may also go on to a newer state, and if most of the old one is
still missing, the newer is fetched instead, once. What was verified of a fetch that broke off is kept.

A helper, which has no state of its own, keeps that of the largest run, for newcomers whose donors fail. It
fetches none of round 0, which every trainer makes for itself. A node whose trainer is still to come is no
helper: it would fetch a whole state at every start, and throw it away when its trainer attaches.
"""

from typing import Final

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.marks import MAX_MARKED
from shoal.gossip.deadlines import Deadline
from shoal.gossip.events import Data, Effects, Notify
from shoal.gossip.lifecycle import Phase
from shoal.gossip.member.commands import Behind, ChunksVerified, Refused
from shoal.gossip.membership.dissemination import Dissemination
from shoal.gossip.membership.lineages import SwarmState, swarm_state
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.messages import FromDonor, Presence
from shoal.gossip.state.fetch import Fetching
from shoal.gossip.state.serve import Serving

HOLD_EVERY: Final = 10.0
"""Seconds between the states that a helper takes over: a spare copy, not a mirror of every round."""
TURN_BELOW: Final = 0.5
"""Share of a state that may be missing when a newer one is agreed; with more, the newer one is fetched."""


class StateSync:
    """The fetches of one node. See the module's docstring."""

    def __init__(
        self, view: SwarmView, serving: Serving, wait: Deadline, dissemination: Dissemination
    ) -> None:
        """`wait`: how long a donor may be silent."""
        self._view, self._serving, self._wait = view, serving, wait
        self._dissemination = dissemination
        self.fetching: Fetching | None = None
        self._half_fetched: dict[bytes, Data] = {}
        """Verified chunks of a fetch that broke off, by leaf hash."""
        self._has_turned = False
        """Whether this fetch has turned to a newer state already."""
        self._paces: dict[PeerId, float] = {}
        """Seconds per chunk of those we fetched from."""
        self._hold_next = 0.0
        self._served: tuple[PeerId, ...] = ()
        """Who gave the state that was fetched last."""

    def has_state(self) -> None:
        """The node has a state: nothing is fetched, and nothing half-fetched is of use."""
        self.fetching = None
        self._half_fetched = {}

    def stop(self) -> None:
        """Fetch nothing any more."""
        self.fetching = None

    def begin(self, target: SwarmState, now: float) -> Effects:
        """Fetch a state."""
        spec = self._view.spec
        assert spec is not None
        known = self._serving.known_chunks() | self._half_fetched
        self.fetching = Fetching(
            target.state,
            target.round,
            4 * spec.state_numel,
            target.holders + self._helpers_with(target.state),
            self._wait.seconds(),
            known=known,
            paces=self._paces,
        )
        begun: Effects = [Notify(Behind(target.round)), *self._dissemination.push(now)]
        return begun + self._note_arrived(self.fetching.begin(now))

    # --- events -----------------------------------------------------------------------------------

    def handle(self, peer: PeerId, message: FromDonor, data: Data, now: float) -> Effects:
        """Take a donor's message."""
        if self.fetching is None:
            return []
        return self._note_arrived(self.fetching.handle(peer, message, data, now))

    def know(self, chunks: dict[bytes, Data], now: float) -> Effects:
        """Take verified chunks that the node has found on its disk."""
        return [] if self.fetching is None else self._note_arrived(self.fetching.know(chunks, now))

    def lost(self, peer: PeerId, now: float) -> Effects:
        """A peer is gone."""
        return [] if self.fetching is None else self._note_arrived(self.fetching.lost(peer, now))

    def arriving(self, peer: PeerId, now: float) -> None:
        """Bytes have come of a chunk that is on its way."""
        if self.fetching is not None:
            self.fetching.arriving(peer, now)

    def timer(self, now: float) -> Effects:
        """Look at who is silent."""
        return [] if self.fetching is None else self._note_arrived(self.fetching.timer(now))

    def look_for_donors(self, now: float) -> Effects:
        """While a state is fetched: ask those too that came to hold it, or turn to a newer one."""
        fetching = self.fetching
        if fetching is None or self._view.phase is not Phase.SYNCING:
            return []
        target = self._view.agreed_state(now)
        is_newer = target is not None and target.round > fetching.round and target.holders
        if target is not None and is_newer and not self._has_turned and fetching.share_missing > TURN_BELOW:
            # Once: where rounds are shorter than a fetch, one that turned every time would never end.
            self._has_turned = True
            self._half_fetched = fetching.known_chunks()
            self._remember(fetching.paces())
            return [*fetching.end(), *self.begin(target, now)]
        holders = [
            peer
            for peer in sorted(self._view.table.connected)
            if (entry := self._view.table.get(peer)) is not None
            and fetching.state in (entry.presence.state, entry.presence.previous)
        ]
        return self._note_arrived(fetching.add(holders, now))

    def hold_for_others(self, now: float) -> Effects:
        """Keep the state of the run with the most trainers, for newcomers whose donors fail."""
        view = self._view
        runs: dict[bytes, list[tuple[PeerId, Presence]]] = {}
        for peer, entry in view.table:
            if entry.presence.run and entry.presence.state:
                runs.setdefault(entry.presence.run, []).append((peer, entry.presence))
        if not runs or self.fetching is not None or now < self._hold_next:
            return []
        largest = max(runs, key=lambda run: (len(runs[run]), run))
        nothing = msgspec.structs.replace(view.presence(), state=b"", previous=b"")
        target = swarm_state(runs[largest], view.me, nothing, view.table.connected)
        if target is None or not target.holders or target.round == 0 or target.state == view.state:
            return []
        self._hold_next = now + HOLD_EVERY
        self.fetching = Fetching(target.state, target.round, None, target.holders, self._wait.seconds())
        return self._note_arrived(self.fetching.begin(now))

    # --- what came of it --------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether the fetch has come to an end that nobody has acted on."""
        return self.fetching is not None and self.fetching.is_over

    def take_result(self, now: float) -> tuple[Fetching, Effects]:
        """Return the fetch that is over, and notices of donors that lied; once, when `is_over`."""
        fetching = self.fetching
        assert fetching is not None
        self.fetching, self._has_turned = None, False
        self._remember(fetching.paces())
        self._half_fetched = {} if fetching.is_done else fetching.known_chunks()
        self._served = tuple(fetching.served)
        for peer in fetching.failed:
            entry = self._view.table.get(peer)
            # One that went on to its next state while we asked has claimed nothing wrong.
            if entry is not None and entry.presence.state == fetching.state:
                self._view.doubts.distrust(peer, now)
        reason = "it sent bytes of the state that do not verify"
        return fetching, [Notify(Refused(peer, reason)) for peer in fetching.liars]

    def take_served(self) -> tuple[PeerId, ...]:
        """Return who gave the state that was fetched last; once."""
        served, self._served = self._served, ()
        return served

    # --- inside -----------------------------------------------------------------------------------

    def _note_arrived(self, effects: Effects) -> Effects:
        """Tell the node what has come, which it keeps on disk."""
        fetching = self.fetching
        if fetching is None or not fetching.arrived or self._view.phase is not Phase.SYNCING:
            return effects
        arrived = ChunksVerified(fetching.state, fetching.n_bytes, fetching.take_arrived())
        return [*effects, Notify(arrived)]

    def _remember(self, paces: dict[PeerId, float]) -> None:
        self._paces = dict(list(paces.items())[-MAX_MARKED:])

    def _helpers_with(self, state: bytes) -> tuple[PeerId, ...]:
        """Linked nodes without a trainer that hold this state."""
        return tuple(
            peer
            for peer, entry in self._view.table
            if not entry.presence.run and entry.presence.state == state and peer in self._view.table.connected
        )
