"""Outsiders that convene: groups of their making, for the rounds of others.

Each claims to train at the victims' state, so that they tell it when they are ready. It answers with a
proposal of its own, under a ballot that no honest node reaches. It has no data and trains nothing.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Data, Effects, Send
from shoal.gossip.matchmaking.proposals import group_id
from shoal.gossip.messages import (
    Accept,
    Alive,
    Commit,
    Decline,
    Done,
    Part,
    PeerMessage,
    Propose,
    Ready,
    Reduced,
)
from shoal.node.testnet.lies.sight import TOP_BALLOT, Sight

NO_BASE: Final = bytes(32)
CLAIM_EVERY: Final = 1.0
GHOSTS: Final = 2


@dataclass(frozen=True, slots=True)
class _Game:
    """A group that this outsider has committed with one victim."""

    victim: PeerId
    n_members: int


class Convene:
    """Take a victim into a group of two, own its whole vector, and hand a mean of one's own back."""

    ghosts: int = 0
    """Members besides, that never existed."""

    def __init__(self, sight: Sight) -> None:
        """Nothing is said yet."""
        self.sight = sight
        self._claimed = -CLAIM_EVERY
        self._claimed_for: tuple[int, bytes] = (-1, b"")
        self._offers: dict[tuple[PeerId, int], Commit] = {}
        """By victim and nonce."""
        self._games: dict[bytes, _Game] = {}
        self._said: dict[PeerId, tuple[int, bytes]] = {}

    def tick(self, now: float) -> Effects:
        """See `Program`."""
        victims = self.sight.victims()
        if not victims:
            return []
        ahead = max((each for _, each in victims), key=lambda each: each.round)
        effects: Effects = []
        if now >= self._claimed + CLAIM_EVERY or self._claimed_for != (ahead.round, ahead.state):
            self._claimed, self._claimed_for = now, (ahead.round, ahead.state)
            effects += self.sight.as_one_of_them(ahead)
        for peer, presence in victims:
            for base in (NO_BASE, presence.state):
                effects += self._propose(peer, presence.round, base)
        return effects

    def handle(self, peer: PeerId, message: PeerMessage, data: Data, now: float) -> Effects:
        """See `Program`."""
        match message:
            case Ready():
                self.sight.note("readies heard")
                said = self._say_ready(peer, message.round, message.base)
                return said + self._propose(peer, message.round, message.base)
            case Accept():
                return self._commit(peer, message)
            case Decline():
                self.sight.note("declined")
                return []
            case Part():
                return self._reduce(peer, message, data)
            case Alive() | Done():
                return self._end(peer, message)
            case _:
                return []

    def _say_ready(self, peer: PeerId, round_: int, base: bytes) -> Effects:
        """Say that we are ready too, and were long before: no proposal counts without."""
        said = (round_, base)
        if self._said.get(peer) == said:
            return []
        self._said[peer] = said
        return [Send(peer, Ready(round_, base, has_colleagues=True))]

    def _propose(self, peer: PeerId, round_: int, base: bytes) -> Effects:
        if len(base) != 32:
            return []
        nonce = self.sight.next() % (1 << 53)
        names = (f"12D3KooWGhost{number}{nonce}" for number in range(self.ghosts))
        members = (peer, self.sight.me, *map(PeerId, names))
        shares = (0, 1, *[0] * self.ghosts)
        ballot = min(TOP_BALLOT + len(self._offers) // 1000, (1 << 16) - 1)
        self._offers[peer, nonce] = Commit(round_, base, ballot, nonce, self.sight.me, members, shares)
        while len(self._offers) > 1000:
            del self._offers[next(iter(self._offers))]
        self.sight.note("proposed")
        return [Send(peer, Propose(round_, base, ballot, nonce, members, shares))]

    def _commit(self, peer: PeerId, message: Accept) -> Effects:
        commit = self._offers.get((peer, message.nonce))
        if commit is None:
            return []
        self.sight.note("accepted")
        self._games[group_id(self.sight.run, commit)] = _Game(peer, len(commit.members))
        return [Send(peer, commit)]

    def _reduce(self, peer: PeerId, message: Part, data: Data) -> Effects:
        game = self._games.get(message.group)
        if game is None:
            return []
        self.sight.note("means made")
        everyone = ((1 << game.n_members) - 1).to_bytes(8, "big")
        made = Reduced(message.group, message.index, message.part, message.chunk, message.ballot, everyone)
        return [Send(peer, made, lie_of(data))]

    def _end(self, peer: PeerId, message: Alive | Done) -> Effects:
        if message.group not in self._games:
            return []
        if isinstance(message, Done):
            self.sight.note("means believed")
        return [Send(peer, message)]


class FakeQuorum(Convene):
    """The same, with members that never existed: a quorum that is counted by ids is met."""

    ghosts = GHOSTS


class SilentProposals(Convene):
    """Propose to everyone, under ever higher ballots, and never commit."""

    def _commit(self, peer: PeerId, message: Accept) -> Effects:
        self.sight.note("accepted")
        return []


def lie_of(data: Data) -> bytes:
    """Return noise as large as what a victim gave; of another codec than float32, its bytes turned round."""
    raw = bytes(data)
    if len(raw) % 4:
        return raw[::-1]
    numbers = np.frombuffer(raw, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        size = float(np.sqrt(np.mean(np.square(numbers, dtype=np.float64)))) if numbers.size else 0.0
    return (np.random.default_rng(numbers.size).normal(size=numbers.size) * size).astype(np.float32).tobytes()
