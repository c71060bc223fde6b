"""RoleTable: who holds which role of the run, as its peers say, and whether this node should take one.

Each node tells its linked peers what it holds and would take, at every beat and when that changes; what it
said ends with its lease. A role that nobody has held for two deadlines goes to the ablest of the willing:
each node computes that from what it was told, and takes the role if it is the ablest itself. Two may do so
when they see different peers. Both then hold it, as replicas do.
"""

from collections import OrderedDict
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from shoal.crypto.keys import PeerId
from shoal.gossip.deadlines import SHORTEST_TIMEOUT
from shoal.gossip.messages import RoleOffer, Roles

MAX_PEERS: Final = 128
MAX_LEASE: Final = 60.0
"""Seconds: nothing is believed for longer, whatever its author asks for."""
DEADLINES: Final = 2
"""For so many deadlines a role is held by nobody before it is taken."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What a peer said last, and until when it holds."""

    roles: Roles
    until: float


class RoleTable:
    """See the module's docstring."""

    def __init__(self, me: PeerId, lease: float, linked: AbstractSet[PeerId]) -> None:
        """`lease`: seconds of what we say; `linked`: the peers with links, as they are at any time."""
        self._me, self._lease, self._linked = me, lease, linked
        self._said: OrderedDict[PeerId, _Said] = OrderedDict()
        self.of_run: tuple[str, ...] = ()
        """The roles that the run needs."""
        self.held: frozenset[str] = frozenset()
        """Those that this node holds."""
        self.is_willing = False
        self._takes = frozenset[str]()
        self._ability = 0.0
        self._vacant_since: dict[str, float] = {}
        self._was_held: set[str] = set()

    def attach(
        self,
        roles: tuple[str, ...],
        ability: float,
        now: float,
        *,
        is_willing: bool,
        takes: frozenset[str] = frozenset(),
    ) -> None:
        """A trainer of a run is there. `takes`: roles that it has at once; then it does nothing else."""
        self.of_run, self._ability = roles, ability
        self.is_willing, self._takes = is_willing, takes
        self.held, self._vacant_since, self._was_held = frozenset(), dict.fromkeys(roles, now), set()

    def detach(self) -> None:
        """The trainer is gone."""
        self.of_run, self.held, self._takes = (), frozenset(), frozenset()

    def leave(self, role: str) -> None:
        """The trainer serves a role no longer, and is not to take any."""
        self.held -= {role}
        self.is_willing, self._takes = False, frozenset()

    @property
    def only_hosts(self) -> bool:
        """Whether this node has no part in a run but its roles."""
        return bool(self._takes)

    def ours(self) -> Roles:
        """Return what we say of ourselves."""
        offers = tuple(
            RoleOffer(role, role in self.held) for role in self.of_run if role in self.held or self.is_willing
        )
        return Roles(offers, self._ability, self.only_hosts, self._lease)

    def told(self, peer: PeerId, message: Roles, now: float) -> None:
        """Take note of what a linked peer says of itself."""
        self._said.pop(peer, None)
        self._said[peer] = _Said(message, now + min(message.lease, MAX_LEASE))
        if len(self._said) > MAX_PEERS:
            self._said.popitem(last=False)

    def lost(self, peer: PeerId) -> None:
        """A peer is gone, or said no more to be one of the run."""
        self._said.pop(peer, None)

    def holders(self, role: str, now: float) -> list[tuple[PeerId, float]]:
        """Return who holds a role, with their ability; this node among them."""
        found = [(peer, said.roles.ability) for peer, said in self._live(now) if _holds(said.roles, role)]
        return [*found, (self._me, self._ability)] if role in self.held else found

    def only_host(self, now: float) -> set[PeerId]:
        """Return the peers without data, for whom nobody waits who only hosts himself."""
        return {peer for peer, said in self._live(now) if said.roles.only_hosts}

    def to_take(self, deadline: float, now: float) -> list[str]:
        """Return the roles that this node takes now, and hold them. `deadline`: seconds, as learned."""
        taken = [role for role in self.of_run if role in self._takes - self.held]
        self.held |= self._takes
        for role in self.of_run:
            if self.holders(role, now):
                self._was_held.add(role)
                self._vacant_since.pop(role, None)
                continue
            since = self._vacant_since.setdefault(role, now)
            # Where nobody has held it since we are here, there is no deadline to go by.
            wait = DEADLINES * (deadline if role in self._was_held else SHORTEST_TIMEOUT)
            if now >= since + wait and self._is_ablest(role, now):
                self.held |= {role}
                taken.append(role)
        return taken

    def _is_ablest(self, role: str, now: float) -> bool:
        if not self.is_willing:
            return False
        # Of several roles, such as stages of one body, nobody takes a second while others have none.
        ours = (-len(self.held), self._ability, self._me)
        others = [
            (-sum(each.holds for each in said.roles.roles), said.roles.ability, peer)
            for peer, said in self._live(now)
            if _offers(said.roles, role)
        ]
        return all(ours > other for other in others)

    def _live(self, now: float) -> list[tuple[PeerId, _Said]]:
        return [
            (peer, said) for peer, said in self._said.items() if now < said.until and peer in self._linked
        ]


def _holds(roles: Roles, role: str) -> bool:
    return any(each.role == role and each.holds for each in roles.roles)


def _offers(roles: Roles, role: str) -> bool:
    return any(each.role == role for each in roles.roles)
