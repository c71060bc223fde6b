"""Admission: what one node counts against its peers, and whom it links to, groups with and serves.

    a frame or message that no correct peer sends   counted, and a strike; at `MAX_STRIKES` the links are cut
    a frame too large for a link, or a bad hello    counted; the network cuts that link at once
    a core finds that the protocol is broken        counted, the links are cut, and the peer is banned
    a convener does not keep to what it offered     named, and the peer convenes nothing for some rounds
    it cuts this node out of an exchange at once    counted; after three in a row it is shut out
    a peer outside the roster                       is told nothing but who is there (roster.py)

A ban keeps a peer out of groups for a while, longer every time; it may be linked all the same, since news and
states must still flow. The network, the driver and the member of a node ask the same object, so that each
reason has one count.
"""

from collections import Counter
from collections.abc import Callable, Container, Hashable
from typing import Final

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.doors import Doors
from shoal.gossip.admission.marks import MAX_MARKED, Marks
from shoal.gossip.admission.mutes import Mutes
from shoal.gossip.admission.named_faults import NamedFaults
from shoal.gossip.admission.newcomer_waits import NewcomerWaits
from shoal.gossip.admission.roster import Roster

MAX_STRIKES: Final = 32
"""Malformed messages of one link after which it is closed; an honest peer sends none."""
MAX_BAN_DOUBLINGS: Final = 4
"""Few: a peer that is not averaged with is lost to the swarm, and a fault may be mended."""
MAX_UNFAIR_CUTS: Final = 3
"""In a row: from then on the peer is shut out of this node's groups."""
SHUT_OUT: Final = 60.0
"""Seconds; twice as many for every further one in a row, up to `LONGEST_SHUT_OUT`."""
LONGEST_SHUT_OUT: Final = 3600.0
TARDY: Final = "newcomer that was waited for and said nothing"
MAX_LINKS: Final = 64
MAX_FETCHERS: Final = 64
"""Peers that wait for a state at a time."""


class Kept:
    """The peers for whom places are held, whatever they say."""

    def __init__(self) -> None:
        """Nobody yet."""
        self.sources: dict[str, Callable[[], Container[PeerId]]] = {}

    def __contains__(self, peer: object) -> bool:
        """Tell whether a place is held for a peer."""
        return any(peer in peers() for peers in self.sources.values())


class Admission:
    """See the module's docstring."""

    def __init__(self, max_links: int = MAX_LINKS) -> None:
        """`max_links`: places for links; see `Doors`."""
        self.max_links = max_links
        self.counts: Counter[str] = Counter()
        """What was dropped or refused, by reason; of every layer."""
        self.roster: Roster | None = None
        """The roster of the run, where founders govern it."""
        self.refused: dict[PeerId, float] = {}
        """Peers that the user of this node refuses, and until when by the wall clock."""
        self.clock_offset = 0.0
        """Seconds from the node's own clock to the wall clock."""
        self._strikes: Counter[PeerId] = Counter()
        self.named_faults = NamedFaults()
        """What the person who runs this node is told of peers."""
        self.mutes = Mutes()
        """Who convenes no group with us for some rounds."""
        self.newcomer_waits = NewcomerWaits()
        """How long newcomers alone were waited for."""
        self._bans = Marks(MAX_BAN_DOUBLINGS)
        self._unfair_cuts: dict[PeerId, tuple[int, float]] = {}
        """By peer: how many in a row, and until when it is shut out for them."""
        self.kept = Kept()
        self.doors: Doors[Hashable] = Doors(max_links, self.kept)
        """Who may be linked, by connection."""
        self.is_invited: Callable[[PeerId, bytes], bool] = lambda peer, invite: False
        """Whether what a peer shows in its hello is a valid invite."""

    # --- what peers did ---------------------------------------------------------------------------

    def count(self, reason: str) -> None:
        """Count what is dropped or refused; `reason`: one of few."""
        self.counts[reason] += 1

    def strike(self, peer: PeerId) -> bool:
        """Take note of a malformed message; tells whether the peer's links are to be cut."""
        self._strikes[peer] += 1
        return self._strikes[peer] >= MAX_STRIKES

    def link_lost(self, peer: PeerId) -> None:
        """The last link to a peer is gone; strikes are of a link."""
        self._strikes.pop(peer, None)

    def ban(self, peer: PeerId, now: float) -> None:
        """Form no group for a while with a peer that broke the protocol; it may dial again at once."""
        self._bans.add(peer, now)

    def pardon(self, peer: PeerId, now: float) -> None:
        """Form groups with a peer again: it was in a group with us all the same, and broke nothing."""
        self._bans.end(peer, now)
        self._unfair_cuts.pop(peer, None)

    def note_unfair_cut(self, peer: PeerId, now: float) -> None:
        """Take note that a peer cut this node out of an exchange before it can have waited for it."""
        count = self._unfair_cuts.pop(peer, (0, 0.0))[0] + 1
        if len(self._unfair_cuts) >= MAX_MARKED:
            del self._unfair_cuts[next(iter(self._unfair_cuts))]
        more = count - MAX_UNFAIR_CUTS
        seconds = min(SHUT_OUT * 2 ** min(max(more, 0), 10), LONGEST_SHUT_OUT)
        self._unfair_cuts[peer] = (count, now + seconds if more >= 0 else 0.0)
        self.count("cut out too early")

    def note_tardy(self, newcomer: PeerId, round_: int, now: float) -> None:
        """Take note of a newcomer that was waited for in vain: it has no seat for some rounds."""
        self.named_faults.add(newcomer, TARDY, now)
        self.mutes.add(newcomer, round_)

    def use(self, roster: Roster | None) -> None:
        """Go by a roster from now on."""
        self.roster = roster
        self.set_clock(self.clock_offset)

    def set_clock(self, offset: float) -> None:
        """`offset`: seconds from the node's own clock to the wall clock, by which memberships end."""
        self.clock_offset = offset
        if self.roster is not None:
            self.roster.clock_offset = offset

    # --- what they may ----------------------------------------------------------------------------

    def keep_places(self, whose: str, peers: Callable[[], Container[PeerId]]) -> None:
        """Hold places for peers, such as colleagues; `peers` is asked each time."""
        self.kept.sources[whose] = peers

    def is_refused(self, peer: PeerId, now: float) -> bool:
        """Tell whether founders banned a peer, or the user of this node refuses it: then it gets no link."""
        if self.refused and self.refused.get(peer, -1.0) > now + self.clock_offset:
            return True
        return self.roster is not None and self.roster.is_banned(peer, now)

    def is_inside(self, peer: PeerId, now: float) -> bool:
        """Tell whether a peer takes part in the run: only then it averages, and is given a state."""
        if self.roster is None and not self.refused:
            return True
        is_in = self.roster is None or self.roster.may_take_part(peer, now)
        return is_in and not self.is_refused(peer, now)

    def may_group(self, peer: PeerId, now: float) -> bool:
        """Tell whether a peer may be averaged with."""
        return self.may_be_grouped(peer, now) and not self._bans.has(peer, now)

    def may_be_grouped(self, peer: PeerId, now: float) -> bool:
        """Tell whether a peer may be averaged with where others seat it: they may not know what it did to us.

        It is checked like all, and costs the group nothing when it fails again. To stay away costs a round.
        """
        is_shut_out = now < self._unfair_cuts.get(peer, (0, 0.0))[1]
        return self.is_inside(peer, now) and not is_shut_out

    def may_serve(self, n_fetchers: int) -> bool:
        """Tell whether another peer may fetch a state beside this many."""
        return n_fetchers < MAX_FETCHERS
