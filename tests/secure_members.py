"""Members of one masked sum over queues, some of which vanish, and what must come of it."""

from collections.abc import Callable, Iterable
from functools import partial
from random import Random

import numpy as np
from core_net import Net, peers

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.announcing import ExchangeConfig
from shoal.gossip.averaging.origin import Origin
from shoal.gossip.averaging.secure.integer_grid import Words
from shoal.gossip.averaging.secure.masked_sum import MaskedSum, Stage
from shoal.gossip.events import Effects, Send, Timer, Vector
from shoal.gossip.group import Group
from shoal.gossip.messages import SECURE_INDEX

CONFIG = ExchangeConfig(silence_timeout=3.0, slow_timeout=9.0, chunk_numel=1 << 10)


class Recorded(MaskedSum):
    """A masked sum that keeps what it hides."""

    plain: Words

    def _encode(self) -> Words:
        words = super()._encode()
        self.plain = words.copy()
        return words

    @property
    def opened(self) -> Words:
        """The sums without masks."""
        return self._words

    def parts(self) -> list[tuple[int, int, frozenset[int]]]:
        """Return where each part lies in the words, and who is in it."""
        return list(zip(self._edges, self._edges[1:], self._lists, strict=False))


class Members:
    """Members of one masked sum; each gives a vector and a weight of its own."""

    def __init__(
        self,
        count: int,
        numel: int = 200,
        seed: int = 0,
        weights: Iterable[float] = (),
        config: ExchangeConfig = CONFIG,
        *,
        is_based: bool = True,
    ) -> None:
        self.net, self.names, dice = Net(seed), peers(count), np.random.default_rng(seed)
        self.state = dice.normal(size=numel).astype(np.float32)
        group = Group(b"g" * 16, seed, tuple(self.names), (1,) * count)
        self.weights = list(weights) or [1.0] * count
        self.given = {
            name: self.state + dice.normal(size=numel, scale=0.1).astype(np.float32) for name in self.names
        }
        self.vectors: dict[PeerId, Vector] = {name: self.given[name].copy() for name in self.names}
        self.cores: dict[PeerId, Recorded] = {}
        for name, weight in zip(self.names, self.weights, strict=True):
            state = self.state if is_based else None
            origin = Origin("params" if is_based else "statistic", b"s" * 32, mixes=False, state=state)
            entropy = Random(f"{seed} {name}").randbytes
            core = Recorded(name, group, 0, self.vectors[name], weight, config, origin, entropy=entropy)
            self.cores[name] = core
            self.net.join(name, core.handle, partial(every_timer, core))
        self.net.bend = self._watch
        self._plans: list[tuple[PeerId, Stage, int]] = []
        self._counts: dict[tuple[PeerId, Stage], int] = {}
        self.change: Callable[[PeerId, Send], Iterable[Send]] = lambda sender, sent: [sent]

    def kill_at(self, name: PeerId, stage: Stage, n_sent: int) -> None:
        """Let a member vanish when it has sent so many messages of a stage."""
        self._plans.append((name, stage, n_sent))

    def _watch(self, sender: PeerId, sent: Send) -> Iterable[Send]:
        stage = Stage(sent.message.index // SECURE_INDEX)  # type: ignore[union-attr]
        count = self._counts[sender, stage] = self._counts.get((sender, stage), 0) + 1
        if sender in self.net.dead:
            return []
        if any(name == sender and at == stage and count > most for name, at, most in self._plans):
            self.net.dead.add(sender)
            return []
        return self.change(sender, sent)

    def run(self, seconds: float = 120.0) -> None:
        for name, core in self.cores.items():
            self.net.carry_out(name, core.begin(self.net.now))
        self.net.wait(seconds)

    @property
    def alive(self) -> list[PeerId]:
        return [name for name in self.names if name not in self.net.dead]

    def expected(self, contributors: Iterable[PeerId]) -> Vector:
        """Return the mean that honest contributors come to, without a grid."""
        some = list(contributors)
        weights = [self.weights[self.names.index(name)] for name in some]
        rows = np.array([self.given[name] for name in some], np.float64)
        return np.asarray(np.average(rows, axis=0, weights=weights), np.float32)

    def check(self) -> tuple[PeerId, ...]:
        """Check that all that live hold the same, opened from the plain sums; returns the contributors."""
        cores = [self.cores[name] for name in self.alive]
        assert [core.failure for core in cores if core.stage is not Stage.DONE] == []
        assert len({self.vectors[name].tobytes() for name in self.alive}) == 1
        first = cores[0]
        for lo, hi, contributors in first.parts():
            plain = [self.cores[self.names[number]].plain[lo:hi] for number in contributors]
            assert np.array_equal(first.opened[lo:hi], np.sum(plain, axis=0, dtype=np.uint64))
        assert first.outcome is not None
        return first.outcome.contributors


def every_timer(core: MaskedSum, now: float) -> Effects:
    return [*core.fire(Timer.ALL_REDUCE, now), *core.fire(Timer.GATHER, now)]
