"""Exchange: what a member asks of any exchange in a group, whatever is exchanged.

A new one is a file beside this one, and a line in `shoal.gossip.member.ask_queue` that begins it.
"""

from typing import Protocol

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Data, Effects, Timer
from shoal.gossip.group import Bodies, Exchanged, Group
from shoal.gossip.messages import ExchangeMessage


class GroupExchange(Protocol):
    """One member's side of one exchange."""

    group: Group
    index: int
    """Of the ask within the round, from 0."""
    lost_members: list[PeerId]
    """Members that the exchange went on without, in the order in which they were lost."""
    unlike: list[PeerId]
    """Members that ask for something else: nothing was exchanged with them."""
    failure: str
    """Why a member was lost first, in words; empty while none is."""
    unfair_cuts: list[PeerId]
    """Members that cut this node before they can have waited for it."""

    @property
    def newcomers_took(self) -> float:
        """Seconds for which newcomers alone were waited for, that gave what they had to."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether nothing more is waited for."""
        ...

    @property
    def outcome(self) -> Exchanged | Bodies | None:
        """What it came to; nothing while it goes on, and where the others went on without this node."""
        ...

    def owns(self, index: int) -> bool:
        """Tell whether messages of this index are for this exchange."""
        ...

    def begin(self, now: float) -> Effects:
        """Give what this member gives."""
        ...

    def handle(self, peer: PeerId, message: ExchangeMessage, data: Data, now: float) -> Effects:
        """Take a message of this exchange."""
        ...

    def arriving(self, peer: PeerId, n_bytes: int, now: float) -> None:
        """Take note of as many bytes of a peer's bulk message that is not here yet."""
        ...

    def fire(self, timer: Timer, now: float) -> Effects:
        """Take note that a timer of exchanges has fired."""
        ...

    def lost(self, peer: PeerId, now: float) -> Effects:
        """Go on without a member whose link is gone."""
        ...

    def heard_elsewhere(self, peer: PeerId, now: float, *, is_ahead: bool) -> Effects:
        """Take note that a member speaks in an earlier exchange of the group, or, `is_ahead`, in a later."""
        ...

    def abandon(self) -> Effects:
        """Tell the others not to wait for this node."""
        ...
