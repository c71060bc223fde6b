"""What a secure sum costs beside an unmasked int8 round of the same members, in one process.

    python scripts/bench_secure.py [--peers 8] [--numel 1000000] [--drop 2] [--bits 6] [--json]

The members' cores hand each other every message in order, signed and checked as on the wire. Some vanish
after they have sent all their masked words. Prints whether the opened sums are the plain ones, and the
ratios of processor time and of bytes to those of an all-reduce with codec int8 in which nobody vanishes.
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "src")]

import msgspec  # noqa: E402  # the path comes first
import numpy as np  # noqa: E402
from nacl.utils import random  # noqa: E402

from shoal.crypto.keys import PeerId, key_from_seed, peer_id_of  # noqa: E402
from shoal.crypto.keystream import KEY_BYTES  # noqa: E402
from shoal.gossip.averaging.all_reduce import AllReduce  # noqa: E402
from shoal.gossip.averaging.announcing import ExchangeConfig  # noqa: E402
from shoal.gossip.averaging.exchange import GroupExchange  # noqa: E402
from shoal.gossip.averaging.origin import Origin  # noqa: E402
from shoal.gossip.averaging.secure.integer_grid import Words  # noqa: E402
from shoal.gossip.averaging.secure.masked_sum import MaskedSum, Stage  # noqa: E402
from shoal.gossip.events import Effects, Send, Vector  # noqa: E402
from shoal.gossip.group import Group  # noqa: E402
from shoal.gossip.messages import SECURE_INDEX, Part  # noqa: E402
from shoal.gossip.wire import Codec  # noqa: E402

HEAD_BYTES = 8
"""Of a frame, before its head."""


class Recorded(MaskedSum):
    """A masked sum that can make the words again that it hid, when the clock has stopped."""

    given: Vector
    """What the member gave, which the vector no longer holds in the end."""
    _drawn = b""

    def _encode(self) -> Words:
        self._drawn = self._drawn or self._entropy(KEY_BYTES)
        entropy, self._entropy = self._entropy, lambda size: self._drawn[:size]
        words = super()._encode()
        self._entropy = entropy
        return words

    def plain(self) -> Words:
        """Return the words that were hidden."""
        self._vector[:] = self.given
        return self._encode()

    def is_exact(self, plain: Mapping[int, Words]) -> bool:
        """Tell whether the opened sums are those of the plain words of members, by their number."""
        return all(
            np.array_equal(self._words[lo:hi], sum((plain[n][lo:hi] for n in some), np.uint64(0)))
            for lo, hi, some in zip(self._edges, self._edges[1:], self._lists, strict=False)
        )


class Members:
    """Members of one exchange that hand each other every message in order, over the real wire."""

    def __init__(self, count: int) -> None:
        """Make their keys."""
        keys = [key_from_seed(bytes([number + 1]) * 32) for number in range(count)]
        self.names = [peer_id_of(bytes(key.verify_key)) for key in keys]
        self.wires = {name: Codec(key, "bench", 1) for name, key in zip(self.names, keys, strict=True)}
        for wire in self.wires.values():
            wire.run = bytes(32)
        self.group = Group(bytes(16), 0, tuple(self.names), (1,) * count)
        self.cores: dict[PeerId, GroupExchange] = {}
        self.gone: set[PeerId] = set()
        self.n_bytes = 0
        self._queue: deque[tuple[PeerId, Send]] = deque()

    def run(self, leaves: Callable[[PeerId], bool]) -> float:
        """Let all begin, and deliver until nobody says more; returns the seconds of processor.

        `leaves`: asked when a member has nothing more to say for now, whether it vanishes.
        """
        begun = time.process_time()
        for name, core in self.cores.items():
            self._take(name, core.begin(0.0))
        while self._queue:
            sender, sent = self._queue.popleft()
            if sent.peer not in self.gone and sender not in self.gone and not sent.is_void:
                self._deliver(sender, sent)
            for name in [each for each in self.names if each not in self.gone and leaves(each)]:
                self._vanish(name)
        return time.process_time() - begun

    def _deliver(self, sender: PeerId, sent: Send) -> None:
        head, data = self.wires[sender].encode(sent.message), bytes(sent.data)
        self.n_bytes += HEAD_BYTES + len(head) + len(data)
        message = self.wires[sent.peer].decode(sender, head, len(data))
        self._take(sent.peer, self.cores[sent.peer].handle(sender, message, data, 0.0))  # type: ignore[arg-type]

    def _vanish(self, name: PeerId) -> None:
        self.gone.add(name)
        for other in [each for each in self.names if each not in self.gone]:
            self._take(other, self.cores[other].lost(name, 0.0))

    def _take(self, sender: PeerId, effects: Effects) -> None:
        self._queue.extend((sender, each) for each in effects if isinstance(each, Send))


def vectors(given: argparse.Namespace) -> tuple[Vector, list[Vector]]:
    """Return a state, and what each member makes of it; both float32 [numel]."""
    dice = np.random.default_rng(0)
    state = dice.normal(size=given.numel).astype(np.float32)
    return state, [
        state + dice.normal(size=given.numel, scale=0.01).astype(np.float32) for _ in range(given.peers)
    ]


def unmasked(given: argparse.Namespace) -> tuple[float, int]:
    """Return the seconds and bytes of a round with int8, in which nobody vanishes."""
    members = Members(given.peers)
    state, contributions = vectors(given)
    for name, vector in zip(members.names, contributions, strict=True):
        origin = Origin("params", bytes(32), mixes=False, state=state)
        config = ExchangeConfig(codec="int8")
        members.cores[name] = AllReduce(name, members.group, 0, vector, 1.0, config, origin=origin)
    seconds = members.run(lambda name: False)
    assert all(core.outcome is not None for core in members.cores.values())
    return seconds, members.n_bytes


def masked(given: argparse.Namespace) -> tuple[float, int, bool]:
    """Return the seconds and bytes of a secure sum some of whose members vanish, and whether it is exact."""
    members = Members(given.peers)
    state, contributions = vectors(given)
    cores: dict[PeerId, Recorded] = {}
    for name, vector in zip(members.names, contributions, strict=True):
        origin = Origin("params", bytes(32), mixes=False, state=state)
        config = ExchangeConfig(grid_bits=given.bits)
        cores[name] = Recorded(name, members.group, 0, vector, 1.0, config, origin, entropy=random)
        cores[name].given = vector.copy()
    members.cores = dict(cores)
    going = members.names[1 : 2 * given.drop : 2]
    sent: dict[PeerId, int] = dict.fromkeys(going, 0)
    deliver, words = members._deliver, given.peers - 1

    def watch(sender: PeerId, sent_: Send) -> None:
        if isinstance(sent_.message, Part) and sent_.message.index == Stage.SUM * SECURE_INDEX:
            sent[sender] = sent.get(sender, 0) + 1
        deliver(sender, sent_)

    members._deliver = watch  # type: ignore[method-assign, assignment]
    seconds = members.run(lambda name: name in going and sent[name] >= words)
    alive = {name: core for name, core in cores.items() if name not in members.gone}
    plain = {number: cores[name].plain() for number, name in enumerate(members.names)}
    is_exact = len(members.gone) == given.drop and all(
        core.outcome is not None and core.is_exact(plain) for core in alive.values()
    )
    return seconds, members.n_bytes, is_exact


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench_secure.py", description="Cost of a secure sum.")
    parser.add_argument("--peers", type=int, default=8, help="members of the group")
    parser.add_argument("--numel", type=int, default=1_000_000, help="numbers of the vector")
    parser.add_argument("--drop", type=int, default=2, help="members that vanish after they sent their words")
    parser.add_argument("--bits", type=int, default=6, help="bits of a number on the grid")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, of which the fastest counts")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    given = parser.parse_args()
    # By turns, so that what else the machine does slows both alike.
    both = [(unmasked(given), masked(given)) for _ in range(given.repeat)]
    plain_seconds, plain_bytes = min(plain for plain, _ in both)
    runs = [run for _, run in both]
    seconds, n_bytes, _ = min(runs)
    found = {
        "exact": all(is_exact for _, _, is_exact in runs),
        "ratio_time": round(seconds / plain_seconds, 3),
        "ratio_bytes": round(n_bytes / plain_bytes, 3),
        "seconds": round(seconds, 3),
        "seconds_unmasked": round(plain_seconds, 3),
        "bytes": n_bytes,
        "bytes_unmasked": plain_bytes,
    }
    text = "\n".join(f"{name:>18} {value}" for name, value in found.items())
    print(msgspec.json.encode(found).decode() if given.json else text)
    return 0 if found["exact"] else 1


if __name__ == "__main__":
    sys.exit(main())
