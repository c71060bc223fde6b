"""Members that lie: the same member as in every node, which bends what it contributes or what it says.

What a member contributes is bent before its honest core sees it; what owners and conveners say is bent on its
way out. An owner bends its own copy too, so that it ends with the state that it made the others take.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Final, TypeAlias

import numpy as np
from msgspec.structs import replace

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.chunks import bounds
from shoal.gossip.events import Effect, Effects, Received, Send, Vector
from shoal.gossip.group import Group
from shoal.gossip.matchmaking.search import place
from shoal.gossip.member.commands import Contribute, Event, NewState
from shoal.gossip.member.member import Member
from shoal.gossip.messages import MAX_WEIGHT, Accept, Commit, Cut, Part, Propose, Ready, Reduced
from shoal.node.testnet.lies.catalogue import lie_of_node

Bend: TypeAlias = Callable[[Vector, np.random.Generator], Vector]
FASTEST: Final = 1 << 30
"""kB/s: the fastest line that a peer may claim."""
TOP_BALLOT: Final = 60_000


def flip(delta: Vector, dice: np.random.Generator) -> Vector:
    """Return the opposite."""
    return -delta


def noise(delta: Vector, dice: np.random.Generator) -> Vector:
    """Return noise of the same norm."""
    return _as_large(dice.normal(size=delta.size).astype(np.float32), delta)


def drift(delta: Vector, dice: np.random.Generator) -> Vector:
    """Return the same direction in every round, of the same norm."""
    return _as_large(np.random.default_rng(1).normal(size=delta.size).astype(np.float32), delta)


def _as_large(direction: Vector, as_: Vector) -> Vector:
    return direction * np.float32(np.linalg.norm(as_) / max(1e-30, float(np.linalg.norm(direction))))


def times(factor: float) -> Bend:
    """Return a lie that multiplies."""
    return lambda delta, dice: delta * np.float32(factor)


CONTRIBUTIONS: Final[dict[str, Bend]] = {
    "sign-flip": flip,
    "sign-flip-10": times(-10.0),
    "scale-10": times(10.0),
    "scale-1000": times(1000.0),
    "weight": flip,
    "zeros": times(0.0),
    "noise": noise,
    "drift": drift,
}
MEANS: Final[dict[str, Bend]] = {
    "turned-owner": flip,
    "greedy-uplink": flip,
    "lying-owner": times(-10.0),
    "greedy-convener": times(0.0),
}


class LyingMember(Member):
    """A member that tells one lie; see `lying`."""

    lie: ClassVar[str] = ""
    _base: Vector = np.empty(0, np.float32)
    """The state that this round began with."""
    _vector: Vector = np.empty(0, np.float32)
    """What this node contributes: the exchange writes the mean into it."""
    _is_params: bool = False

    def handle(self, event: Event, now: float) -> Effects:
        """See `Member`."""
        if isinstance(event, NewState):
            self._base = np.frombuffer(event.data, np.float32).copy()
        if isinstance(event, Contribute):
            event = self._bend_contribution(event)
        return [bent for effect in super().handle(event, now) for bent in self._bend(effect)]

    def _bend_contribution(self, event: Contribute) -> Contribute:
        self._vector, self._is_params = event.vector, event.kind == "params"
        if (bend := CONTRIBUTIONS.get(self.lie)) is not None:
            base = self._base_of(slice(0, event.vector.size))
            event.vector[:] = base + bend(event.vector - base, self._numpy_dice())
        weight = MAX_WEIGHT if self.lie == "weight" else event.weight
        return dataclasses.replace(event, weight=weight, discount=1.0)

    def _base_of(self, here: "slice[int, int, None]") -> Vector:
        """Return what the numbers here were before the round: zero where a method gives no params."""
        return self._base[here] if self._is_params else np.zeros(here.stop - here.start, np.float32)

    def _numpy_dice(self) -> np.random.Generator:
        return np.random.default_rng(int(self._dice.random() * (1 << 53)))

    def _bend(self, effect: Effect) -> Effects:
        if not isinstance(effect, Send):
            return [effect]
        match effect.message:
            case Reduced() if self.lie in MEANS and self.exchange is not None:
                return [self._bend_mean(effect, effect.message, self.exchange.group)]
            case Ready() if self.lie == "greedy-uplink":
                return [Send(effect.peer, replace(effect.message, uplink=FASTEST))]
            case Part() if self.lie == "cut":
                return [
                    Send(effect.peer, Cut(effect.message.group, effect.message.index, effect.peer)),
                    effect,
                ]
            case Commit() if self.lie == "silent-convener" and effect.message.convener == self.me:
                return []
        return [effect]

    def _bend_mean(self, effect: Send, message: Reduced, group: Group) -> Send:
        lo = bounds(self._vector.size, group.parts)[message.part] + message.chunk * group.chunk_numel
        made = np.frombuffer(bytes(effect.data), np.float32)
        here = slice(lo, lo + made.size)
        base = self._base_of(here)
        told = (base + MEANS[self.lie](made - base, self._numpy_dice())).astype(np.float32)
        self._vector[here] = told
        return Send(effect.peer, message, told.tobytes())


class GreedyConvener(LyingMember):
    """Convenes out of turn, under a ballot that nobody reaches, and gives every share to itself."""

    lie = "greedy-convener"
    _offer: Propose | None = None
    _accepted: frozenset[PeerId] = frozenset()

    def handle(self, event: Event, now: float) -> Effects:
        """See `Member`."""
        match event:
            case Received(message=Accept(nonce=nonce)) if self._offer and nonce == self._offer.nonce:
                return self._accept(event.peer, now)
        effects = super().handle(event, now)
        search = self.group_search.under_way
        if search is None:
            self._offer = None
            return effects
        others = sorted(set(search.ready) - {self.me})
        if others and (self._offer is None or set(self._offer.members) != {self.me, *others}):
            effects += self._propose([self.me, *others])
        return effects

    def _propose(self, peers: list[PeerId]) -> Effects:
        members = tuple(sorted(peers, key=lambda peer: place(self.run, peer)))
        shares = tuple(int(peer == self.me) for peer in members)
        nonce = int(self._dice.random() * (1 << 53))
        self._offer = Propose(self.round, self.view.base, TOP_BALLOT, nonce, members, shares)
        self._accepted = frozenset({self.me})
        return [Send(peer, self._offer) for peer in members if peer != self.me]

    def _accept(self, peer: PeerId, now: float) -> Effects:
        offer = self._offer
        assert offer is not None
        self._accepted |= {peer}
        if self._accepted != set(offer.members):
            return []
        self._offer = None
        form = (offer.round, offer.base, offer.ballot, offer.nonce)
        commit = Commit(*form, self.me, offer.members, offer.shares)
        effects: Effects = [Send(each, commit) for each in offer.members if each != self.me]
        # Its own core is told as any other member is.
        effects += super().handle(Received(self.me, offer), now)
        effects += super().handle(Received(self.me, commit), now)
        return [effect for effect in effects if not isinstance(effect, Send) or effect.peer != self.me]


def lying(name: str) -> type[LyingMember]:
    """Return the member that tells a lie.

    Raises:
        NoSuchLie: there is none, or it is told by outsiders.
    """
    lie_of_node(name)
    parent = GreedyConvener if name == GreedyConvener.lie else LyingMember
    return type("Lying", (parent,), {"lie": name})
