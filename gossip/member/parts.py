"""The parts of a member, and what is looked at from outside.

    admission   view (presence, lifecycle, colleagues)   dial plan, addresses   dissemination
    asks, search for a group, pairwise rounds            serving, state and base    calls, roster

Each is a core of its own. Who hears of what is said in own_round.py, neighbours.py and member.py.
"""

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.admission import Admission
from shoal.gossip.averaging.exchange import GroupExchange
from shoal.gossip.averaging.tensor_codecs import Feedback
from shoal.gossip.calls.calls import Calls
from shoal.gossip.deadlines import SLOWEST_LINE
from shoal.gossip.lifecycle import Phase
from shoal.gossip.member.ask_queue import AskQueue
from shoal.gossip.member.base_sync import BaseSync
from shoal.gossip.member.calling import Calling
from shoal.gossip.member.group_search import GroupSearch
from shoal.gossip.member.pairwise_rounds import PairwiseRounds
from shoal.gossip.member.roster_sync import RosterSync
from shoal.gossip.member.run_mismatch import RunMismatch
from shoal.gossip.member.state_sync import StateSync
from shoal.gossip.membership.colleagues import LEAST_ROUNDS, LEAST_SECONDS, Colleagues
from shoal.gossip.membership.company import Policy
from shoal.gossip.membership.dial_plan import DialPlan, Dice
from shoal.gossip.membership.dissemination import Dissemination
from shoal.gossip.membership.foreign_lineages import ForeignLineages
from shoal.gossip.membership.nearby import Nearby
from shoal.gossip.membership.presence import PresenceTable
from shoal.gossip.membership.swarm_view import SwarmView
from shoal.gossip.sequence import Sequence
from shoal.gossip.state.fetch import Fetching
from shoal.gossip.state.serve import Serving, ServingConfig


class MemberConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this node behaves among its peers."""

    patience: float = 15.0
    """Seconds without a sign of a wanted peer: what deadlines are at most, and until they are learned."""
    slowest_line: float = SLOWEST_LINE
    """Bytes per second: how slow a line may be, where it is not known yet how long exchanges take."""
    lease: float = 12.0
    """Seconds for which a presence record holds; a silent peer is forgotten after this."""
    beat: float = 3.0
    """Seconds between records when nothing changes: a quarter of the lease survives two losses."""
    wait_for: int = 1
    """Round 0 starts when this many trainers are ready, or after `wait_seconds`."""
    wait_seconds: float = 0.0
    """0: twice the patience."""
    alone: Policy = "wait"
    """What a node does whose company is gone: see company.py."""
    max_links: int = 64
    """No further peers are dialled above this many links; dial_plan.py says when fewer are enough."""
    serving: ServingConfig = ServingConfig()
    """What this node gives to those that fetch its state."""
    awaits_trainer: bool = False
    """Whether a trainer will attach, with a state of its own: meanwhile this node keeps nobody else's."""
    colleague_rounds: int = LEAST_ROUNDS
    """Finished rounds with this node that make a peer a colleague of it: see colleagues.py."""
    colleague_seconds: float = LEAST_SECONDS
    """And over how many seconds."""


class Parts:
    """What one member is made of. See the module's docstring."""

    def __init__(
        self,
        me: PeerId,
        config: MemberConfig,
        dice: Dice,
        sequence: int,
        *,
        admission: Admission | None = None,
    ) -> None:
        """`sequence`: larger than any this identity used before."""
        self.me, self.config, self._dice = me, config, dice
        self._has_left = False
        self.admission = admission or Admission(config.max_links)
        colleagues = Colleagues(me, config.colleague_rounds, config.colleague_seconds)
        self.view = SwarmView(me, config.lease, self.admission, config.alone, colleagues)
        self.dial_plan = DialPlan(me, dice, config.max_links)
        self.nearby = Nearby(me)
        self._numbers = Sequence(sequence)
        self.dissemination = Dissemination(self.view, dice, self._numbers, config.beat)
        self.serving = Serving(config.serving, self.admission)
        self.asks = AskQueue(self.view, config.patience, self.dissemination, config.slowest_line)
        self.state_sync = StateSync(self.view, self.serving, self.asks.wait, self.dissemination)
        self.base_sync = BaseSync(self.view, self.serving, self.asks.wait)
        self.pairwise = PairwiseRounds(self.view, config.patience, self._numbers, config.slowest_line)
        self.admission.keep_places("colleagues", self.view.colleagues.colleagues)
        self.admission.keep_places("named, or of the book", self.dial_plan.known)
        self.group_search = GroupSearch(
            self.view,
            dice,
            self.dial_plan,
            self.dissemination,
            self.nearby,
            patience=config.patience,
            wait_for=config.wait_for,
            wait_seconds=config.wait_seconds,
        )
        linked = self.view.table.connected
        self.calls = Calls(me, config.patience, config.lease, linked, self.admission)
        self.calling = Calling(self.view, self.group_search, self.calls)
        self.run_mismatch = RunMismatch(self.view)
        self.roster_sync = RosterSync(self.view, dice)
        self.foreign_lineages = ForeignLineages(self.view)
        self._next_beat = 0.0

    # --- what others look at ----------------------------------------------------------------------

    @property
    def table(self) -> PresenceTable:
        """The records of all peers that we know of."""
        return self.view.table

    @property
    def sequence(self) -> int:
        """The last number that we gave a word of ours."""
        return self._numbers.last

    @property
    def phase(self) -> Phase:
        """What the node is doing."""
        return self.view.phase

    @property
    def run(self) -> bytes:
        """The hash of our run spec; empty without a trainer."""
        return self.view.run

    @property
    def round(self) -> int:
        """How many rounds our state has behind it."""
        return self.view.round

    @property
    def state(self) -> bytes:
        """The hash of our state."""
        return self.view.state

    @property
    def previous(self) -> bytes:
        """The hash of the state that ours was made from."""
        return self.view.previous

    @property
    def exchange(self) -> GroupExchange | None:
        """The exchange that is under way, or the last of this round."""
        return self.asks.current

    @property
    def fetching(self) -> Fetching | None:
        """The fetch that is under way."""
        return self.state_sync.fetching

    @property
    def feedback(self) -> dict[int, Feedback]:
        """By ask of a round: what lossy codecs owe. The node keeps it over restarts."""
        return self.asks.feedback
