"""What is saved of a running node, and when."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import trio
import trio.testing

from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.gossip.state.tree_hash import leaves, state_hash
from shoal.node.daemon import saver as module
from shoal.node.daemon.saver import Saver
from shoal.node.storage.checkpoint import Checkpoint, Overwritten

SPEC = RunSpec(method="fedavg", task="digits", tensors=(TensorSpec("w", "float32", (1000,)),))
SMALL, LARGE = np.ones(1000, np.float32), np.ones(module.LARGE // 4, np.float32)


def made(round_: int, vector: Any = LARGE) -> Checkpoint:
    hashes = leaves(vector.data)
    return Checkpoint(bytes(32), round_, state_hash(vector.data), b"", vector, leaves=hashes)


class Disk:
    """Notes when which state is saved, and whose memory it was."""

    def __init__(self) -> None:
        self.saved: list[tuple[int, float]] = []
        self.is_copy: list[bool] = []
        self.fails: set[int] = set()

    async def save(self, checkpoint: Checkpoint, spec: RunSpec) -> None:
        await trio.lowlevel.checkpoint()
        if checkpoint.round in self.fails:
            raise Overwritten("chunk 0 was overwritten while it was saved")
        self.saved.append((checkpoint.round, trio.current_time() - self.began))
        self.is_copy.append(checkpoint.vector is not LARGE)

    began = 0.0


def play(work: Callable[[Saver, Disk], Any], seconds: float = 60.0) -> Disk:
    disk = Disk()

    async def run() -> None:
        disk.began = trio.current_time()
        saver = Saver(disk.save, seconds)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(saver.run)
            await work(saver, disk)
            await trio.sleep(1000)
            nursery.cancel_scope.cancel()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    return disk


async def rounds(saver: Saver, count: int, vector: Any, *, is_urgent: bool = False) -> None:
    for number in range(count):
        saver.soon(made(number, vector), SPEC, is_urgent=is_urgent)
        await trio.sleep(10)


def test_large_states_are_saved_now_and_then_and_the_newest_counts() -> None:
    disk = play(lambda saver, _: rounds(saver, 10, LARGE), seconds=55.0)
    assert disk.saved == [(0, 0.0), (5, 55.0), (9, 110.0)]
    assert disk.is_copy == [False, False, False]


def test_small_states_are_saved_after_every_round_from_a_copy() -> None:
    disk = play(lambda saver, _: rounds(saver, 3, SMALL))
    assert [number for number, _ in disk.saved] == [0, 1, 2]
    assert all(disk.is_copy)


def test_urgent_states_and_those_of_a_setting_of_zero_are_not_waited_with() -> None:
    urgent = play(lambda saver, _: rounds(saver, 3, LARGE, is_urgent=True))
    every = play(lambda saver, _: rounds(saver, 3, LARGE), seconds=0.0)
    assert [number for number, _ in urgent.saved] == [number for number, _ in every.saved] == [0, 1, 2]


def test_a_state_that_waits_is_saved_at_once_when_its_trainer_is_gone() -> None:
    async def work(saver: Saver, disk: Disk) -> None:
        await rounds(saver, 2, LARGE)
        saver.hurry()

    assert play(work).saved == [(0, 0.0), (1, 20.0)]


def test_after_a_state_was_overwritten_the_next_is_saved_from_a_copy() -> None:
    async def work(saver: Saver, disk: Disk) -> None:
        disk.fails = {0}
        await rounds(saver, 2, LARGE)
        while not disk.saved:  # the copy is made in a thread, beside the clock
            await trio.lowlevel.checkpoint()

    disk = play(work)
    assert [number for number, _ in disk.saved] == [1]
    assert disk.is_copy == [True]


def test_what_was_not_saved_can_be_taken_once() -> None:
    saver = Saver(Disk().save, math.inf)
    saver.soon(made(3, SMALL), SPEC, is_urgent=False)
    taken = saver.take()
    assert taken is not None
    assert taken[0].round == 3
    assert saver.take() is None
