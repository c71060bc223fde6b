"""Nodes without processes: a driver, a real member, and the shortest trainer there is."""

from random import Random
from typing import Any

import numpy as np
import trio
from memory import MemoryNet

from shoal.crypto.keys import PeerId, key_from_seed, peer_id_of
from shoal.gossip.member import commands
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.net.driver import Driver
from shoal.gossip.run_spec import RunSpec, run_id
from shoal.gossip.state.tree_hash import state_hash
from shoal.gossip.wire import Codec

CONFIG = MemberConfig(patience=5.0, wait_for=3)
KEYS = [key_from_seed(bytes([number]) * 32) for number in range(4)]


def codec(number: int, swarm: str = "shoal") -> Codec:
    """Return the codec of one of the keys."""
    return Codec(KEYS[number], swarm, 100)


class Worker:
    """It adds its own number to the state, asks for the mean, and takes it for the next state."""

    def __init__(
        self,
        net: MemoryNet,
        number: int,
        spec: RunSpec,
        rounds: int,
        *,
        is_calm: bool = True,
        member_type: type[Member] = Member,
        config: MemberConfig = CONFIG,
    ) -> None:
        """`is_calm`: whether anything but means of the whole swarm fails the test."""
        self.me = peer_id_of(bytes(KEYS[number].verify_key))
        self.host = net.host(self.me)
        self.codec = codec(number)
        self.codec.run = run_id(spec)
        self.spec, self.rounds, self.number, self.is_calm = spec, rounds, number, is_calm
        self.round = 0
        self.state = np.zeros(spec.state_numel, dtype=np.float32)
        self.hashes = [state_hash(self.state.data)]
        """After every round; of those that were fetched only the last."""
        self.contributors: list[int] = []
        self.is_done = trio.Event()
        member = member_type(self.me, config, Random(number), 1000)
        self.driver = Driver(self.host, member, self.codec, self.notice)
        self._answer: commands.Averaged | commands.Failed | None = None
        self._synced: commands.Synced | None = None
        self._is_behind = False
        self._changed = trio.Event()

    async def run(self) -> None:
        """Work, round after round; serve the last state afterwards."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.driver.run)
            self.driver.command(commands.SetAddresses(tuple(self.host.addresses())))
            self.driver.command(commands.Attach(self.codec.run, self.spec, True))
            self._tell(b"")
            while self.round < self.rounds:
                await trio.sleep(1.0)
                await self._take_part()
                if self._is_behind:
                    await self._catch_up()
            self.is_done.set()
            await trio.sleep_forever()

    async def _take_part(self) -> None:
        vector = self.state + np.float32(self.number)
        self._answer = None
        self.driver.command(commands.Contribute(0, vector, 1.0, "params"))
        while self._answer is None:
            await self._changed.wait()
        if isinstance(self._answer, commands.Failed):
            if not self._is_behind:
                self.driver.command(commands.AbortRound())
            return
        self.contributors.append(len(self._answer.exchanged.contributors))
        previous = self.hashes[-1]
        self.state, self.round = vector, self.round + 1
        self.hashes.append(state_hash(self.state.data))
        self._tell(previous, self._answer.exchanged.contributors)

    async def _catch_up(self) -> None:
        while self._synced is None:
            await self._changed.wait()
        synced, self._synced, self._is_behind = self._synced, None, False
        if synced.vector.size:
            assert state_hash(synced.vector.data) == synced.state
            self.state, self.round = synced.vector, synced.round
            self.hashes.append(synced.state)
            self._tell(synced.previous)

    def _tell(self, previous: bytes, made_with: tuple[PeerId, ...] = ()) -> None:
        new = commands.NewState(
            self.round, self.hashes[-1], previous, self.state.data, contributors=made_with
        )
        self.driver.command(new)

    def notice(self, notice: Any) -> None:
        """Take note of what the member says."""
        calm = commands.Averaged | commands.FinishEarly | commands.PeerAddresses | commands.Acquainted
        assert not self.is_calm or isinstance(notice, calm), notice
        match notice:
            case commands.Averaged() | commands.Failed():
                self._answer = notice
            case commands.Behind():
                self._is_behind, self._synced = True, None
            case commands.Synced():
                self._synced = notice
        self._changed.set()
        self._changed = trio.Event()
