"""Lockstep: the rounds of a method on N peers in one thread, without a network.

Every generator is advanced to its ask; when all wait, all are answered at once, with exact means. A
method cannot tell this from the real thing, except that here nothing is late or lost, and nothing rounded but
what a method itself asks to be summed under masks.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.crypto.keystream import KEY_BYTES, Keystream
from shoal.gossip.averaging.bounds import Stated, weights_of
from shoal.gossip.averaging.secure.integer_grid import Grid, factors_of
from shoal.gossip.errors import GossipError, Mismatch, TooFew
from shoal.gossip.events import Vector
from shoal.gossip.policies.masking import Masking
from shoal.gossip.run_spec import LEAST_SECURE
from shoal.methods.base import (
    AllReduce,
    Averaged,
    Exchange,
    Gather,
    Gathered,
    Here,
    Learner,
    Me,
    Method,
    OuterMethod,
    Report,
    State,
    Steps,
)
from shoal.methods.overlap import Carrying, Moved, Overlaps

T = TypeVar("T")


@dataclass
class Ended(Generic[T]):
    """What became of every generator."""

    results: dict[PeerId, T] = field(default_factory=dict)
    failed: dict[PeerId, GossipError] = field(default_factory=dict)
    """Peers whose round let a `GossipError` out."""
    asked: list[tuple[Exchange, ...]] = field(default_factory=list)
    """The asks of each turn, in peer order."""
    here: dict[PeerId, Me] = field(default_factory=dict)
    """What each peer was told of itself when it asked."""


def names(count: int) -> list[PeerId]:
    """Return peer ids in sorted order."""
    return [PeerId(f"peer{i:03}") for i in range(count)]


def run_round(
    generators: Mapping[PeerId, Steps[T]],
    *,
    drops: Mapping[PeerId, int] | None = None,
    failures: Mapping[tuple[PeerId, int], GossipError] | None = None,
    order: Sequence[PeerId] | None = None,
    here: Mapping[PeerId, Me] | None = None,
) -> Ended[T]:
    """Run generators until all have ended.

    `drops`: the peer dies when it makes its ask of this number, from 0; it is in no answer from then on.
    `failures`: this ask of this peer fails with this error, and its contribution is not counted.
    `order`: in which the peers go on; by their ids unless given. `here`: what peers are told of themselves;
    that it is round 0, and that they missed nothing, unless given.
    """
    ended: Ended[T] = Ended(here={peer: Me(peer, 0) for peer in generators} | dict(here or {}))
    waiting: dict[PeerId, Exchange] = {}
    running = {peer: generators[peer] for peer in order or sorted(generators)}
    for peer in running:
        _advance(ended, waiting, peer, running[peer], None)
    turn = 0
    while waiting:
        for peer, number in (drops or {}).items():
            if number == turn and waiting.pop(peer, None) is not None:
                running[peer].close()
        failing = {peer: (failures or {}).get((peer, turn)) for peer in waiting}
        asks = {peer: ask for peer, ask in waiting.items() if failing[peer] is None}
        ended.asked.append(tuple(waiting.values()))
        answers = answers_of(asks)
        peers, waiting = list(waiting), {}
        for peer in peers:
            _advance(ended, waiting, peer, running[peer], failing[peer] or answers[peer])
        turn += 1
    return ended


@dataclass(frozen=True, slots=True)
class Run:
    """What whole rounds led to, and what they told."""

    states: list[State]
    """The last, by peer."""
    reports: list[list[Report]]
    """Of every round, by peer."""
    body_bytes: float
    """Gathered bodies of a peer, per round."""
    vector_bytes: float
    """All-reduced vectors of a peer, per round, in float32; under masks the words of the grid."""

    @property
    def wire_bytes(self) -> float:
        """What a peer sends per round: its body to each other peer, and 2 (n - 1) / n of its vectors."""
        others = len(self.states) - 1
        return others * self.body_bytes + 2 * others / len(self.states) * self.vector_bytes


def train(
    method: Method,
    learners: Sequence[Learner],
    params: np.ndarray[Any, np.dtype[np.float32]],
    rounds: int,
) -> tuple[list[State], list[list[Report]]]:
    """Run whole rounds on every learner; returns the last states and the reports of every round."""
    done = run(method, learners, params, rounds)
    return done.states, done.reports


def run(
    method: Method,
    learners: Sequence[Learner],
    params: np.ndarray[Any, np.dtype[np.float32]],
    rounds: int,
) -> Run:
    """Run whole rounds on every learner, and count what they tell: asks, before any framing."""
    peers = names(len(learners))
    states = {
        peer: replace(method.init(params.copy()), buffers=_buffers(learner))
        for peer, learner in zip(peers, learners, strict=True)
    }
    reports = []
    body_bytes, vector_bytes = 0, 0
    for round_ in range(rounds):
        ended = run_round(
            {
                peer: method.round(states[peer], learner, round_)
                for peer, learner in zip(peers, learners, strict=True)
            },
            here={peer: Me(peer, round_) for peer in peers},
        )
        if ended.failed:
            raise next(iter(ended.failed.values()))
        states = {
            peer: replace(ended.results[peer][0], buffers=_buffers(learner))
            for peer, learner in zip(peers, learners, strict=True)
        }
        reports.append([ended.results[peer][1] for peer in peers])
        asks = [ask for turn in ended.asked for ask in turn]
        body_bytes += sum(len(ask.body) for ask in asks if isinstance(ask, Gather))
        vector_bytes += sum(map(_vector_bytes, ended.asked))
    turns = max(1, rounds * len(peers))
    return Run([states[peer] for peer in peers], reports, body_bytes / turns, vector_bytes / turns)


def train_overlapped(
    method: OuterMethod,
    learners: Sequence[Carrying],
    params: Vector,
    rounds: int,
    *,
    after: int,
    failing: Collection[int] = (),
) -> list[list[State]]:
    """Run rounds with a delay of one; returns what all hold after every round.

    `after`: the step of the next local work after which a mean arrives. `failing`: tries, counted from 0, of
    which nothing comes.
    """
    assert isinstance(method, Overlaps)
    peers = names(len(learners))
    agreed = {
        peer: replace(method.init(params.copy()), buffers=_buffers(learner))
        for peer, learner in zip(peers, learners, strict=True)
    }
    starts, moved = dict(agreed), dict[PeerId, Moved]()
    held: list[list[State]] = []
    attempt = 0
    while len(held) < rounds:
        trained = {}
        for peer, learner in zip(peers, learners, strict=True):
            arrival = learner.arrived = Arrival(moved.get(peer), after)
            worked = method.local(starts[peer], learner, attempt)
            late = arrival.take()
            trained[peer] = (
                worked if late is None else replace(worked, params=learner.carry(worked.params, late))
            )
            starts[peer] = State(trained[peer].params, agreed[peer].shared, worked.memory)
        moved = {}
        if attempt not in failing:
            bases = {peer: replace(agreed[peer], private=trained[peer].memory) for peer in peers}
            ended = run_round(
                {
                    peer: method.outer(bases[peer], trained[peer].params.copy(), learner.examples)
                    for peer, learner in zip(peers, learners, strict=True)
                }
            )
            agreed = {peer: replace(ended.results[peer][0], buffers=agreed[peer].buffers) for peer in peers}
            moved = {peer: Moved(agreed[peer].params, trained[peer].params) for peer in peers}
            held.append([agreed[peer] for peer in peers])
        attempt += 1
    return held


def _vector_bytes(turn: Sequence[Exchange]) -> int:
    """Return the bytes of all vectors of a turn: in float32, or on the grid of a sum under masks."""
    asks = {peer: ask for peer, ask in zip(names(len(turn)), turn, strict=True) if isinstance(ask, AllReduce)}
    masking = next((ask.masking for ask in asks.values()), None)
    if masking is None:
        return sum(ask.vector.nbytes for ask in asks.values())
    return len(asks) * 8 * masked_grid(asks, masking)[0].n_words


class Arrival:
    """What a learner is given as `arrived`: nothing, until so many steps are over."""

    def __init__(self, moved: Moved | None, after: int) -> None:
        """`moved`: what comes then."""
        self._moved, self._left = moved, after

    def __call__(self) -> Moved | None:
        """Count a step."""
        self._left -= 1
        return self.take() if self._left <= 0 else None

    def take(self) -> Moved | None:
        """Return what has not been taken, whether it is time or not."""
        moved, self._moved = self._moved, None
        return moved


def _advance(
    ended: Ended[T],
    waiting: dict[PeerId, Exchange],
    peer: PeerId,
    steps: Steps[T],
    answer: Averaged | Gathered | GossipError | None,
) -> None:
    try:
        ask = steps.throw(answer) if isinstance(answer, GossipError) else steps.send(answer)
        while isinstance(ask, Here):
            ask = steps.send(ended.here[peer])
        if not isinstance(ask, Exchange):
            raise TypeError(f"{type(ask).__name__} is for methods with roles: see methods/roles/lockstep.py")
        waiting[peer] = ask
    except StopIteration as stop:
        ended.results[peer] = stop.value
    except GossipError as error:
        ended.failed[peer] = error


def _buffers(learner: Learner) -> int:
    """Return how many of a learner's params are buffers; a learner on paper has none."""
    return int(getattr(learner, "buffers", 0))


def answers_of(asks: Mapping[PeerId, Exchange]) -> dict[PeerId, Averaged | Gathered | GossipError]:
    """Return what each peer is told, of the asks that all of them make at once."""
    unlike = _mismatch(asks)
    return {peer: unlike or _answer(peer, asks) for peer in asks}


def _answer(me: PeerId, asks: Mapping[PeerId, Exchange]) -> Averaged | Gathered | GossipError:
    match asks[me]:
        case AllReduce(among=among, masking=masking):
            others = asks if not among else {peer: ask for peer, ask in asks.items() if peer in among}
            reduced = {peer: ask for peer, ask in others.items() if isinstance(ask, AllReduce)}
            return mean(reduced) if masking is None else masked_mean(reduced, masking)
        case Gather():
            bodies = tuple((peer, ask.body) for peer, ask in sorted(asks.items()) if isinstance(ask, Gather))
            return Gathered(bodies, me)


def _mismatch(asks: Mapping[PeerId, Exchange]) -> Mismatch | None:
    """Return what all peers are told if they ask for unlike things."""
    said = {f"{type(ask).__name__} {ask.tag!r}{_grid_of(ask)}": peer for peer, ask in asks.items()}
    for peer, ask in asks.items():
        among = ask.among if isinstance(ask, AllReduce) else ()
        others = [asks[each] for each in among if each in asks]
        if among and not (peer in among and all(getattr(each, "among", ()) == among for each in others)):
            return Mismatch(f"{peer} asks among {', '.join(among)}, and not all of them do")
    if len(said) < 2:
        return None
    return Mismatch("; ".join(f"{peer} asks for {what}" for what, peer in sorted(said.items())))


def _grid_of(ask: Exchange) -> str:
    masking = ask.masking if isinstance(ask, AllReduce) else None
    return "" if masking is None else f" on grid {masking.name}"


def masked_mean(asks: Mapping[PeerId, AllReduce], masking: Masking) -> Averaged | TooFew:
    """Return what a sum under masks opens to: the numbers of the grid, without the masks."""
    if len(asks) < LEAST_SECURE:
        return TooFew(f"{len(asks)} of at least {LEAST_SECURE} peers were ready for a secure sum")
    grid, factors = masked_grid(asks, masking)
    words = np.zeros(grid.n_words, np.uint64)
    for peer, factor in factors.items():
        # Each rounds by dice of its own. Here they follow from what it gives: a run can be made again.
        seed = blake2b(asks[peer].vector.tobytes() + peer.encode(), digest_size=KEY_BYTES).digest()
        words += grid.encode(asks[peer].vector, factor, Keystream(seed))
    opened = np.empty(grid.count, np.float32)
    grid.decode(words, 0, grid.total, opened)
    return Averaged(opened, tuple(factors))


def masked_grid(asks: Mapping[PeerId, AllReduce], masking: Masking) -> tuple[Grid, dict[PeerId, int]]:
    """Return the grid of a sum under masks, and by how much each peer counts."""
    claims = [Stated(asks[peer].weight, 0.0, False, asks[peer].discount) for peer in sorted(asks)]
    factors = dict(zip(sorted(asks), factors_of(weights_of(claims), masking.levels), strict=True))
    count = next(iter(asks.values())).vector.size
    return Grid(count, masking.clip, masking.bits, sum(factors.values())), factors


def mean(asks: Mapping[PeerId, AllReduce]) -> Averaged:
    """Return the exact weighted mean, added in float64 in the order of the peer ids."""
    weights = {peer: asks[peer].weight * asks[peer].discount for peer in sorted(asks)}
    total = sum(weights.values())
    vector = np.zeros(next(iter(asks.values())).vector.shape, np.float64)
    for peer in sorted(asks):
        assert asks[peer].vector.dtype == np.float32
        vector += weights[peer] * asks[peer].vector.astype(np.float64)
    return Averaged((vector / total).astype(np.float32), tuple(sorted(asks)))
