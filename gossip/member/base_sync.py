"""BaseSync: a node without the frozen base of its run fetches it from peers, before its trainer attaches.

    FetchBase --> ask linked peers --blocks--> BaseArriving ... BaseFetched
                        '--nobody left that has it--> asked again at every beat

The name of the base is told by the user, and is in the name of the run; so nobody can give another one.
Blocks are fetched as those of a state are (fetch.py). Here a fetch never fails for good: what is verified
stays in the file, and whoever comes to hold the base is asked for the rest.
"""

from dataclasses import replace

from shoal.crypto.keys import PeerId
from shoal.gossip.deadlines import Deadline
from shoal.gossip.events import Data, Effects, Notify
from shoal.gossip.member.commands import BaseArriving, BaseFetched, Refused
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.messages import FromDonor
from shoal.gossip.state.base_blocks import BaseBlocks
from shoal.gossip.state.fetch import Fetching
from shoal.gossip.state.serve import Serving


class BaseSync:
    """The fetch of a base, if there is one. See the module's docstring."""

    def __init__(self, view: SwarmView, serving: Serving, wait: Deadline) -> None:
        """`wait`: how long a donor may be silent."""
        self._view, self._serving, self._wait = view, serving, wait
        self._base: BaseBlocks | None = None
        self._fetching: Fetching | None = None

    def begin(self, base: BaseBlocks, now: float) -> Effects:
        """Fetch what is not here yet of a base, into its place."""
        self._base, self._fetching = base, None
        return self.beat(now)

    def is_of(self, name: bytes) -> bool:
        """Tell whether this names what is fetched here, and no state."""
        return self._base is not None and self._base.name == name

    def beat(self, now: float) -> Effects:
        """Ask those too that did not have it, or were not there."""
        if self._fetching is not None:
            self._fetching.ask_again()
        return self.look(now)

    def look(self, now: float) -> Effects:
        """Ask whoever is linked, those with a trainer first."""
        base = self._base
        if base is None:
            return []
        donors = self._donors()
        if self._fetching is not None:
            return self._after(self._fetching.add(donors, now), now)
        if not donors and len(base.have) < base.tree.n_chunks:
            return []
        self._fetching = Fetching(base.name, 0, base.tree.n_bytes, donors, self._wait.seconds(), base=base)
        return self._after(self._fetching.begin(now), now)

    # --- events -----------------------------------------------------------------------------------

    def handle(self, peer: PeerId, message: FromDonor, data: Data, now: float) -> Effects:
        """Take a donor's message."""
        if self._fetching is None:
            return []
        return self._after(self._fetching.handle(peer, message, data, now), now)

    def lost(self, peer: PeerId, now: float) -> Effects:
        """A peer is gone."""
        return [] if self._fetching is None else self._after(self._fetching.lost(peer, now), now)

    def arriving(self, peer: PeerId, now: float) -> None:
        """Bytes have come of a block that is on its way."""
        if self._fetching is not None:
            self._fetching.arriving(peer, now)

    def timer(self, now: float) -> Effects:
        """Look at who is silent."""
        return [] if self._fetching is None else self._after(self._fetching.timer(now), now)

    # --- inside -----------------------------------------------------------------------------------

    def _donors(self) -> tuple[PeerId, ...]:
        table = self._view.table
        trains = {peer for peer, entry in table if entry.presence.run}
        return tuple(sorted(table.connected, key=lambda peer: (peer not in trains, peer)))

    def _after(self, effects: Effects, now: float) -> Effects:
        """Tell what has come, and act on the end of the fetch."""
        fetching, base = self._fetching, self._base
        assert fetching is not None
        assert base is not None
        if fetching.arrived:
            fetching.arrived = []
            told = BaseArriving(base.name, fetching.leaves, len(fetching.missing), tuple(fetching.served))
            effects = [*effects, Notify(told)]
        if not fetching.is_over:
            return effects
        reason = "it sent bytes of the base that do not verify"
        effects = [*effects, *(Notify(Refused(peer, reason)) for peer in fetching.liars)]
        have = frozenset(range(base.tree.n_chunks)) - fetching.missing
        base = replace(base, leaves=fetching.leaves, have=have)
        self._fetching = None
        self._base = None if fetching.is_done else base
        if fetching.is_done:
            self._serving.hold_base(base)
            effects.append(Notify(BaseFetched(base.name, base.leaves, fetching.served)))
        return effects
