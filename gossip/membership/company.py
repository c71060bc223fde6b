"""Alone: what a node does that has trained with others, and finds none of them any more.

    in company  --nobody of the run is linked-->  alone  --somebody is-->  in company
        '-- all others said goodbye, with `wait-for-lost` --> as if it had never had company

A state that several peers agreed on is worth more than what one of them makes of it alone, from the data of
one device. So who had company makes no round by itself: it keeps the agreed state, with the contribution to
the next round, until somebody is there (`wait`). `go-on` trains on alone. A node that never had company, as
the first of a run, always trains on.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Effects, Notify

Policy: TypeAlias = Literal["wait", "wait-for-lost", "go-on"]
MAX_GONE: Final = 128
"""Peers whose goodbye is remembered."""
FIRST_AGAIN: Final = 60.0
"""Seconds alone after which a node says so again; then after twice as long, and so on."""


@dataclass(frozen=True, slots=True)
class Alone:
    """Of those with whom we trained nobody is linked; said again after longer and longer."""

    round: int
    seconds: float
    """For so long."""
    rounds: int
    """Made alone since."""
    waits: bool
    """Whether we wait for company, and make no round."""


@dataclass(frozen=True, slots=True)
class InCompany:
    """After so many seconds and rounds alone somebody is linked again, or nobody is to be waited for."""

    seconds: float
    rounds: int


class Company:
    """Whether one node has company, and whether it waits for it. See the module's docstring."""

    def __init__(self, policy: Policy) -> None:
        """Start as a node that never had company."""
        self.policy = policy
        self.is_known = False
        """Whether our state was made by several peers, or comes from others."""
        self.since: float | None = None
        """When we were found to be alone; by the node's clock."""
        self.round = 0
        """The round in which we were left alone."""
        self.rounds = 0
        """Rounds made alone since we last had company."""
        self._others: frozenset[PeerId] = frozenset()
        """With whom our state was made, but for those that said goodbye since."""
        self._gone: dict[PeerId, None] = {}
        """Peers that said goodbye and have not been linked since, the oldest first."""
        self._again_at = 0.0

    @property
    def is_awaited(self) -> bool:
        """Whether no round may be made alone."""
        return self.is_known and self.policy != "go-on"

    def attach(self, *, had_company: bool) -> None:
        """A trainer is there; `had_company`: whether the state on disk was made with others."""
        # A node that waits only for the lost cannot tell from the disk who of the others said goodbye. Where
        # only its trainer was away, it need not.
        self.is_known = had_company and (self.policy != "wait-for-lost" or bool(self._others))
        self.since, self.rounds = None, 0

    def note_state(self, contributors: Iterable[PeerId], me: PeerId, *, is_fetched: bool) -> None:
        """We have a new state, made with these, or fetched while these trainers were linked."""
        others = frozenset(contributors) - {me}
        # A goodbye may be here before the state is that its sender took part in.
        left = others & self._gone.keys()
        if others - left or is_fetched or (left and self.policy != "wait-for-lost"):
            self.is_known = True
            self._others = (others - left) or self._others
        elif left:
            self.is_known, self._others = False, frozenset()
        elif self.is_known:
            self.rounds += 1

    @property
    def n_others(self) -> int:
        """With how many others our state was made, as far as they have not left or failed us since."""
        return len(self._others)

    def note_failure(self) -> None:
        """The last round came to nothing, which may be since all others are gone."""
        self._others = frozenset()

    def found(self, peer: PeerId) -> None:
        """A peer is linked."""
        self._gone.pop(peer, None)

    def left(self, peer: PeerId) -> None:
        """A peer said goodbye."""
        self._gone[peer] = None
        if len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]
        self._wait_no_more(peer)

    def stopped(self, helpers: Iterable[PeerId]) -> None:
        """Tell of linked peers without a trainer: one that trained with us may have ended for good.

        It says no goodbye, and its trainer may be back over the same link.
        """
        for peer in self._others & frozenset(helpers):
            if self.policy == "wait-for-lost":
                self._wait_no_more(peer)

    def _wait_no_more(self, peer: PeerId) -> None:
        self._others -= {peer}
        if not self._others and self.policy == "wait-for-lost":
            self.is_known = False

    def look(self, others: int, round_: int, now: float) -> Effects:
        """Say when we are alone, now and again, and when we are no more; `others`: linked trainers."""
        if others or not self.is_known:
            since, self.since = self.since, None
            rounds, self.rounds = self.rounds, 0
            return [Notify(InCompany(now - since, rounds))] if since is not None else []
        if self.since is None:
            self.since, self.round, self._again_at = now, round_, now + FIRST_AGAIN
        elif now < self._again_at:
            return []
        else:
            self._again_at = self.since + 2 * (now - self.since)
        return [Notify(Alone(round_, now - self.since, self.rounds, waits=self.is_awaited))]
