"""A group's all-reduce in one thread: the real cores, and every message handed on in order.

So the bytes are those that a socket would carry, but for frames, and a lossy codec loses what it would lose.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip import messages
from shoal.gossip.averaging.all_reduce import AllReduce
from shoal.gossip.averaging.announcing import ExchangeConfig
from shoal.gossip.averaging.tensor_codecs import Feedback
from shoal.gossip.events import Drop, Effects, Send, Vector
from shoal.gossip.group import Group
from shoal.methods import base
from shoal.methods.base import Averaged, Method, State, largest_exchange
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.lockstep import names


class Exchange:
    """Members that hand each other every message in order."""

    def __init__(
        self,
        vectors: Sequence[Vector],
        weights: Sequence[float],
        codec: str,
        feedback: Sequence[Feedback] | None = None,
        chunk_numel: int = 4096,
        exact: int = 0,
    ) -> None:
        """The vectors become the means, in place."""
        peers = tuple(PeerId(f"p{i}") for i in range(len(vectors)))
        group = Group(bytes(16), 0, peers, (1,) * len(peers))
        config = ExchangeConfig(codec=codec, chunk_numel=chunk_numel, exact=exact)
        self.members = {
            name: AllReduce(
                name, group, 0, vectors[i], weights[i], config, feedback[i] if feedback is not None else None
            )
            for i, name in enumerate(peers)
        }
        self.queue: deque[tuple[PeerId, Send]] = deque()
        self.bytes_sent = 0
        self.drops: list[Drop] = []

    def take(self, sender: PeerId, effects: Effects) -> None:
        """Keep what a member sends."""
        for effect in effects:
            if isinstance(effect, Send):
                self.queue.append((sender, effect))
                self.bytes_sent += len(effect.data)
            elif isinstance(effect, Drop):
                self.drops.append(effect)

    def run(self) -> None:
        """Let all begin, and deliver until nobody says anything more."""
        for name, member in self.members.items():
            self.take(name, member.begin(0.0))
        self.deliver()

    def deliver(self, but_not_to: PeerId | None = None) -> None:
        """Hand on what was sent, and what is said in answer."""
        while self.queue:
            sender, sent = self.queue.popleft()
            if sent.peer != but_not_to and not sent.is_void:
                data = bytes(sent.data)
                assert isinstance(sent.message, messages.Exchange)
                self.take(sent.peer, self.members[sent.peer].handle(sender, sent.message, data, 0.0))


class CodedRun:
    """Rounds of a method with one all-reduce each, whose numbers travel in a codec."""

    def __init__(
        self,
        method: Method,
        learners: Sequence[TorchLearner],
        codec: str,
        *,
        has_feedback: bool = True,
        chunk_numel: int = 4096,
    ) -> None:
        """All begin with the first one's model."""
        self.method, self.learners, self.codec = method, learners, codec
        self.chunk_numel = chunk_numel
        start = learners[0].initial
        self.states: Mapping[PeerId, State] = {
            peer: replace(method.init(start.copy()), buffers=learners[0].buffers)
            for peer in names(len(learners))
        }
        numel = largest_exchange(method, start.size)
        self.feedback = [Feedback(numel) for _ in learners] if has_feedback else None
        self.bytes_sent = 0
        """By all of them together: encoded numbers, without headers."""

    def run(self, rounds: int) -> None:
        """Run so many rounds."""
        for round_ in range(rounds):
            self._round(round_)

    @property
    def accuracy(self) -> float:
        """Of the state that all hold."""
        first, *others = self.states.values()
        assert all(other.params.tobytes() == first.params.tobytes() for other in others)
        return self.learners[0].evaluate(first.params)["accuracy"]

    def _round(self, round_: int) -> None:
        steps = {
            peer: self.method.round(state, learner, round_)
            for (peer, state), learner in zip(self.states.items(), self.learners, strict=True)
        }
        asks = {peer: next(each) for peer, each in steps.items()}
        assert all(isinstance(ask, base.AllReduce) for ask in asks.values())
        vectors = [np.array(ask.vector) for ask in asks.values()]  # type: ignore[union-attr]
        weights = [float(ask.weight) for ask in asks.values()]  # type: ignore[union-attr]
        exchange = Exchange(
            vectors, weights, self.codec, self.feedback, self.chunk_numel, exact=self.learners[0].buffers
        )
        exchange.run()
        self.bytes_sent += exchange.bytes_sent
        states = {}
        for (peer, each), vector in zip(steps.items(), vectors, strict=True):
            try:
                each.send(Averaged(vector, tuple(steps)))
            except StopIteration as end:
                states[peer] = end.value[0]
        self.states = states
