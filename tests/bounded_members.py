"""Members of one all-reduce of params, and what liars among them make of what they send."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from core_net import Net, peers

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging import origin as origins_of
from shoal.gossip.averaging.all_reduce import AllReduce
from shoal.gossip.averaging.announcing import ExchangeConfig
from shoal.gossip.averaging.chunks import bounds
from shoal.gossip.averaging.origin import Origin
from shoal.gossip.events import Send, Vector
from shoal.gossip.group import Group
from shoal.gossip.messages import Announce
from shoal.gossip.run_spec import Combine

NUMEL, CHUNK = 40, 4
STATE = np.linspace(5, -5, NUMEL, dtype=np.float32)
Bend = Callable[[PeerId, Send], list[Send]]
Change = Callable[[Announce, PeerId], Announce]


class Members:
    """The members of one all-reduce of params, each a little away from the state that they started from."""

    def __init__(
        self,
        count: int,
        seed: int = 0,
        codec: str = "float32",
        buffers: int = 0,
        combine: Combine = "mean",
        discounts: Sequence[float] = (),
        lasts: Sequence[tuple[origins_of.Change | None, bytes]] = (),
    ) -> None:
        """`lasts`: the last change that each knows, and its name."""
        self.net, self.names = Net(seed), peers(count)
        self.group = Group(b"g" * 16, 0, tuple(self.names), (1,) * count)
        rng = np.random.default_rng(seed)
        self.given = [STATE + rng.normal(size=NUMEL).astype(np.float32) * 0.1 for _ in self.names]
        self.vectors: list[Vector] = [vector.copy() for vector in self.given]
        config = ExchangeConfig(
            silence_timeout=3.0,
            slow_timeout=9.0,
            chunk_numel=CHUNK,
            codec=codec,
            exact=buffers,
            combine=combine,
        )
        knows = lasts or [(None, b"")] * count
        origins = [Origin("params", b"s" * 32, False, STATE, (), *each) for each in knows]
        self.cores = {
            name: AllReduce(
                name, self.group, 0, self.vectors[i], 1.0, config, None, origins[i], discount=less
            )
            for i, (name, less) in enumerate(zip(self.names, discounts or [1.0] * count, strict=True))
        }
        for name, core in self.cores.items():
            self.net.join(name, core.handle, core.timer)

    def run(self, bend: Bend | None = None) -> None:
        self.net.bend = bend
        for name, core in self.cores.items():
            self.net.carry_out(name, core.begin(0.0))
        self.net.wait(40.0)

    def run_with_a_death(self, dead: int, steps: int) -> list[int]:
        """Let a member die after so many messages; returns the others, which all end with the same bytes."""
        for name, core in self.cores.items():
            self.net.carry_out(name, core.begin(0.0))
        for _ in range(steps):
            self.net.step()
        self.net.kill(self.names[dead])
        left = self.honest(dead)
        for i in left:
            self.net.carry_out(self.names[i], self.cores[self.names[i]].lost(self.names[dead], 0.0))
        self.net.wait(60.0)
        assert not self.net.dropped
        assert all(self.cores[self.names[i]].result is not None for i in left)
        assert len({self.vectors[i].tobytes() for i in left}) == 1
        return left

    def honest(self, liar: int) -> list[int]:
        return [i for i in range(len(self.names)) if i != liar]

    def longest(self, liar: int, part: int) -> float:
        """Return the largest norm of a part of what honest members gave."""
        lo, hi = self.edges(part)
        return max(float(np.linalg.norm(self.given[i][lo:hi] - STATE[lo:hi])) for i in self.honest(liar))

    def edges(self, part: int) -> tuple[int, int]:
        found = bounds(NUMEL, self.group.parts)
        return found[part], found[part + 1]

    def assert_bounded(self, liar: int) -> None:
        """No honest member moved a part further than an honest member would have, and none is blamed."""
        for i in self.honest(liar):
            for part in range(len(self.names)):
                lo, hi = self.edges(part)
                moved = float(np.linalg.norm(self.vectors[i][lo:hi] - STATE[lo:hi]))
                assert moved <= self.longest(liar, part) * 1.01
        blamed = {whom for who, whom, _ in self.net.dropped if who != self.names[liar]}
        assert blamed <= {self.names[liar]}


def times(liar: PeerId, factor: float, kind: type) -> Bend:
    def bend(sender: PeerId, effect: Send) -> list[Send]:
        if sender != liar or not isinstance(effect.message, kind):
            return [effect]
        numbers = np.frombuffer(bytes(effect.data), np.float32) * np.float32(factor)
        return [msgspec.structs.replace(effect, data=numbers.tobytes())]

    return bend


def announcing(liar: PeerId, change: Change, then: Bend | None = None) -> Bend:
    def bend(sender: PeerId, effect: Send) -> list[Send]:
        if sender == liar and isinstance(effect.message, Announce):
            return [msgspec.structs.replace(effect, message=change(effect.message, effect.peer))]
        return then(sender, effect) if then is not None else [effect]

    return bend


def with_norms(norms: bytes, announce: Announce, to: PeerId) -> Announce:
    return msgspec.structs.replace(announce, norms=norms)


def larger(announce: Announce, factor: float) -> Announce:
    norms = np.frombuffer(announce.norms, "<f4") * np.float32(factor)
    return msgspec.structs.replace(announce, norms=norms.astype("<f4").tobytes())
