"""Members under well-formed nonsense of a peer: nothing is raised, nothing grows, and the others go on."""

from random import Random
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import pytest
import trio
from memory import MemoryHost, MemoryNet
from trio.testing import MockClock
from workers import KEYS, Worker, codec

from shoal.crypto.keys import PeerId, peer_id_of
from shoal.gossip import messages
from shoal.gossip.member import commands
from shoal.gossip.messages import Presence, Record, Records
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id
from shoal.gossip.wire import BULK

ATTACKER: Final = peer_id_of(bytes(KEYS[3].verify_key))
SPEC: Final = RunSpec(method="fedavg", task="digits", tensors=(TensorSpec("w", "float32", (1000,)),))
KINDS: Final[tuple[type[Any], ...]] = tuple(
    kind for kind in get_args(messages.Wire) if kind is not messages.SealedRecords
)


class Maker:
    """Makes messages that pass every bound, of values that partly mean something."""

    def __init__(self, dice: Random, workers: list[Worker]) -> None:
        self.dice, self.workers = dice, workers

    def message(self) -> Any:
        kind = self.dice.choice(KINDS)
        return self.struct(kind)

    def struct(self, kind: Any) -> Any:
        hints = get_type_hints(kind, include_extras=True)
        return kind(*(self.value(hints[name], name) for name in kind.__struct_fields__))

    def value(self, hint: Any, name: str) -> Any:
        is_bound = get_origin(hint) is Annotated
        meta = get_args(hint)[1] if is_bound else msgspec.Meta()
        base = get_args(hint)[0] if is_bound else hint
        if base is int:
            return self.number(meta, name)
        if base is float:
            high = meta.le or 1e15
            return self.dice.choice([0.0, 1.0, self.dice.random() * high, high])
        if base is bytes:
            return self.some_bytes(meta)
        if get_origin(base) is Literal:
            return self.dice.choice(get_args(base))
        if get_origin(base) is tuple and Ellipsis not in get_args(base):
            return tuple(self.value(each, name) for each in get_args(base))
        if get_origin(base) is tuple:
            count = self.dice.randint(meta.min_length or 0, min(meta.max_length or 4, 5))
            return tuple(self.value(get_args(base)[0], name) for _ in range(count))
        if base is bool:
            return self.dice.random() < 0.5
        if base is str:
            return self.dice.choice(["", "x", "/memory/1/p2p/2", "x" * min(meta.max_length or 300, 300)])
        if isinstance(base, type) and issubclass(base, msgspec.Struct):
            return self.struct(base)
        assert base is PeerId, f"no value of {hint}"
        return self.dice.choice([*(worker.me for worker in self.workers), ATTACKER, "x"])

    def number(self, meta: msgspec.Meta, name: str) -> int:
        low = int(meta.ge or 0)
        high = int(meta.le if meta.le is not None else (meta.lt or 1 << 32) - 1)
        real = [worker.round for worker in self.workers] if name == "round" else [0, 0, 1, 2]
        return self.dice.choice(
            [*(each for each in real if low <= each <= high), low, high, self.dice.randint(low, high)]
        )

    def some_bytes(self, meta: msgspec.Meta) -> bytes:
        worker = self.dice.choice(self.workers)
        exchange = worker.driver.member.exchange
        known = [worker.hashes[-1], bytes(32), exchange.group.id if exchange is not None else bytes(16)]
        low, high = meta.min_length or 0, min(meta.max_length or 100, 300)
        fitting = [each for each in known if low <= len(each) <= high]
        return self.dice.choice([*fitting, self.dice.randbytes(self.dice.randint(low, high))])

    def data(self) -> bytes:
        value = self.dice.choice([0.0, 1.0, np.nan, np.inf, -1e30])
        count = self.dice.choice([0, 1, 250, 333, 334, 500, 1000])
        return np.full(count, value, dtype=np.float32).tobytes()

    def presence(self) -> Record:
        worker = self.dice.choice(self.workers)
        state = self.dice.choice([worker.hashes[-1], self.dice.randbytes(32), b""])
        run = self.dice.choice([run_id(SPEC), b"", self.dice.randbytes(32)])
        addresses = tuple(f"/memory/1/p2p/{self.dice.randrange(1000)}" for _ in range(self.dice.randrange(4)))
        return Record(
            ATTACKER,
            self.dice.randrange(1 << 40),
            Presence(
                run, "run", max(0, worker.round + self.dice.randint(-2, 5)), state, self.dice.randbytes(32),
                self.dice.choice(["working", "syncing", "finished", "?"]), 12.0, addresses,
            ),
        )  # fmt: skip


async def attack(host: MemoryHost, maker: Maker, count: int) -> None:
    """Send so many messages, ten to everyone every tenth of a second."""
    sender = codec(3)
    sender.run = run_id(SPEC)
    for _ in range(count // (10 * len(maker.workers))):
        for worker in maker.workers:
            host.net.link(host.me, worker.me)
            for _ in range(10):
                message, data = maker.message(), b""
                if maker.dice.random() < 0.03:
                    message = Records(((maker.presence(), maker.dice.random() * 20),), reply=True)
                elif isinstance(message, BULK):
                    data = maker.data()
                host.send_nowait(worker.me, sender.encode(message), data)
        await trio.sleep(0.1)


@pytest.mark.parametrize("seed", range(3))
def test_members_outlive_every_message_that_the_wire_lets_through(seed: int) -> None:
    async def main() -> list[Worker]:
        net = MemoryNet()
        workers = [Worker(net, number, SPEC, rounds=8, is_calm=False) for number in range(3)]
        host = net.host(ATTACKER)
        async with trio.open_nursery() as nursery:
            await nursery.start(net.run)
            for worker in workers:
                nursery.start_soon(worker.run)
            await trio.sleep(0.1)
            for worker in workers[1:]:
                worker.driver.command(commands.AddAddress(workers[0].host.addresses()[0], "bootstrap"))
            nursery.start_soon(attack, host, Maker(Random(seed), workers), 3000)
            with trio.fail_after(600):
                for worker in workers:
                    await worker.is_done.wait()
            print(f"{trio.current_time():.0f} s", [worker.contributors for worker in workers])
            nursery.cancel_scope.cancel()
        return workers

    workers = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert len({worker.hashes[-1] for worker in workers}) == 1
    for worker in workers:
        member = worker.driver.member
        assert len(member.table) < 10
        assert len(member.dial_plan.targets) <= 512
