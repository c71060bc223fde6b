"""Outsiders with states of their making: lineages of made-up identities, and pushes of absurd weight."""

from typing import Final

import numpy as np
from nacl.signing import SigningKey

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Data, Effects, Send
from shoal.gossip.messages import (
    Applied,
    Fetch,
    Offer,
    PeerMessage,
    Presence,
    Push,
    Record,
    Records,
    Settle,
    Want,
)
from shoal.gossip.run_spec import CHUNK_NUMEL
from shoal.gossip.state.serve import Serving
from shoal.gossip.state.tree_hash import leaves, state_hash
from shoal.node.testnet.lies.sight import Sight, sealed_by

TELL_EVERY: Final = 0.5
AHEAD: Final = 3
"""Rounds by which the made-up lineage is ahead."""
LEASE: Final = 60.0
RECORDS_AT_ONCE: Final = 8
HEAVY: Final = 1e10


class SybilLineage:
    """Claim a later state, with many made-up identities behind it, and serve it to whoever asks."""

    identities: int = 20
    value: float = 0.3
    """What the numbers of the state are drawn around: noise of this size, or what is no number."""

    def __init__(self, sight: Sight, swarm: str) -> None:
        """`swarm`: the name of the swarm, which is signed with every record."""
        self.sight, self._swarm = sight, swarm
        self._keys = [SigningKey.generate() for _ in range(self.identities)]
        self._serving = Serving()
        self._n_bytes = 0
        self._state = self._previous = b""
        self._round = 0
        self._numbers = np.empty(0, np.float32)
        self._told = -TELL_EVERY
        self._held: set[PeerId] = set()

    @property
    def states(self) -> frozenset[bytes]:
        """The states that are of this outsider's making."""
        return frozenset({self._state} - {b""})

    def tick(self, now: float) -> Effects:
        """See `Program`."""
        self._serving.expire(now)
        effects = _sends(self._serving.go_on(now))
        victims = self.sight.victims()
        if not victims or now < self._told + TELL_EVERY:
            return effects
        self._told = now
        if not self._n_bytes:
            return [*effects, *(Send(peer, Want(each.state)) for peer, each in victims if each.state)]
        top = max((each.round for _, each in victims if each.state != self._state), default=-1)
        if self._round < top + 1:
            self._make(top + AHEAD)
        for peer, each in victims:
            if each.state == self._state and peer not in self._held:
                self._held.add(peer)
                self.sight.note("nodes that held its state")
        return effects + self._tell()

    def handle(self, peer: PeerId, message: PeerMessage, data: Data, now: float) -> Effects:
        """See `Program`."""
        match message:
            case Offer():
                self._n_bytes = self._n_bytes or message.n_bytes
                return [Send(peer, Fetch(message.state, ()))]
            case Want():
                self.sight.note("asked for its state", int(message.state == self._state))
                return _sends(self._serving.want(peer, message, now))
            case Fetch():
                return _sends(self._serving.fetch(peer, message, now))
            case _:
                return []

    def _make(self, round_: int) -> None:
        dice = np.random.default_rng(round_)
        self._numbers = (dice.normal(size=self._n_bytes // 4) * self.value).astype(np.float32)
        self._round = round_
        self._state = state_hash(self._numbers.data)
        self._previous = self._previous or bytes(31) + b"\x01"
        self._serving.hold(
            round_, self._state, self._previous, self._numbers.data, leaves(self._numbers.data)
        )

    def _tell(self) -> Effects:
        name = next(each.run_name for _, each in self.sight.victims())
        body = (self.sight.run, name, self._round, self._state, self._previous, "working", LEASE, (), True)
        own = Record(self.sight.me, self.sight.next(), Presence(*body))
        crowd = [sealed_by(key, self._swarm, self.sight.next(), Presence(*body)) for key in self._keys]
        told = [own, *crowd]
        effects: Effects = []
        for at in range(0, len(told), RECORDS_AT_ONCE):
            some = tuple((record, 0.0) for record in told[at : at + RECORDS_AT_ONCE])
            effects += [Send(peer, Records(some)) for peer in sorted(self.sight.linked)]
        self.sight.note("records told", len(told))
        return effects


class NanState(SybilLineage):
    """The same with few identities, and a state that is no number."""

    identities = 4
    value = float("nan")


class HeavyPush:
    """Give mass of absurd weight to every node of a run that averages pairwise."""

    def __init__(self, sight: Sight) -> None:
        """Nothing is said yet."""
        self.sight = sight
        self._numel = 0
        self._epoch: dict[PeerId, int] = {}
        self._told = -TELL_EVERY

    def tick(self, now: float) -> Effects:
        """See `Program`."""
        victims = self.sight.victims()
        if now < self._told + TELL_EVERY:
            return []
        self._told = now
        if not self._numel:
            return [Send(peer, Want(each.state)) for peer, each in victims if each.state]
        effects: Effects = []
        for peer, _ in victims:
            self._epoch[peer] = self.sight.next()
            effects.append(Send(peer, Settle(self._epoch[peer])))
        if victims:
            effects += self.sight.as_one_of_them(victims[0][1])
        return effects

    def handle(self, peer: PeerId, message: PeerMessage, data: Data, now: float) -> Effects:
        """See `Program`."""
        match message:
            case Offer():
                self._numel = self._numel or message.n_bytes // 4
                return [Send(peer, Fetch(message.state, ()))]
            case Applied() if message.epoch == self._epoch.get(peer):
                return self._push(peer, message)
            case Want():
                return []
            case _:
                return []

    def _push(self, peer: PeerId, message: Applied) -> Effects:
        del self._epoch[peer]
        dice = np.random.default_rng(0)
        effects: Effects = []
        chunks = range(-(-self._numel // CHUNK_NUMEL))
        for number, chunk in enumerate(chunks, message.id + 1):
            size = min(CHUNK_NUMEL, self._numel - chunk * CHUNK_NUMEL)
            numbers = (dice.normal(size=size) * 0.3 * HEAVY).astype(np.float32)
            effects.append(Send(peer, Push(message.epoch, number, chunk, HEAVY), numbers.tobytes()))
        self.sight.note("pushes")
        return effects


def _sends(effects: Effects) -> Effects:
    """Return what is said of what a core wants done: an outsider looks after no timers."""
    return [effect for effect in effects if isinstance(effect, Send)]
