"""Outsiders against honest members under a clock that jumps: nobody outside decides what the members hold."""

from random import Random
from typing import Final

import msgspec
import pytest
import trio
from memory import MemoryNet
from trio.testing import MockClock
from workers import KEYS, Worker, codec

from shoal.crypto.keys import peer_id_of
from shoal.gossip.averaging.plausible import NEWCOMERS
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.node.testnet.lies.outsider import PROGRAMS, Outsider
from shoal.node.testnet.lies.sight import Sight

SPEC: Final = RunSpec(
    method="fedavg", task="digits", tensors=(TensorSpec("w", "float32", (1000,)),), quorum=2
)
CONFIG: Final = MemberConfig(patience=5.0, wait_for=3, colleague_rounds=8, colleague_seconds=1.0)
OLD_ROUNDS: Final = 9
"""Rounds after which all three are colleagues of each other."""
ROUNDS: Final = 15
ATTACKER: Final = peer_id_of(bytes(KEYS[3].verify_key))


def attacked(
    name: str, *, begins: int = OLD_ROUNDS, rounds: int = ROUNDS, spec: RunSpec = SPEC
) -> tuple[list[Worker], Sight]:
    """Run three honest workers, and an outsider from some round on; without a name nobody attacks."""
    net = MemoryNet()
    workers = [Worker(net, number, spec, rounds, is_calm=False, config=CONFIG) for number in range(3)]
    sight = Sight(codec(3), ATTACKER, Random(1).randrange(1000, 2000))
    outsider = Outsider(net.host(ATTACKER), sight, PROGRAMS[name](sight, "shoal")) if name else None

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(net.run)
            for worker in workers:
                nursery.start_soon(worker.run)
            for worker in workers[1:]:
                worker.host.dial_nowait(workers[0].host.addresses()[0])
            with trio.fail_after(1000):
                while min(worker.round for worker in workers) < begins:
                    await trio.sleep(0.5)
                if outsider is not None:
                    nursery.start_soon(outsider.run, workers[0].host.addresses()[0])
                for worker in workers:
                    await worker.is_done.wait()
            nursery.cancel_scope.cancel()

    trio.run(run, clock=MockClock(autojump_threshold=0))
    return workers, sight


def check_that_nothing_was_lost(workers: list[Worker]) -> None:
    """Check that all three were in every mean that was made under attack, and hold the same state."""
    for worker in workers:
        assert worker.hashes[-1] == workers[0].hashes[-1]
        assert set(worker.contributors[OLD_ROUNDS:]) == {3}
        assert len(worker.contributors) == ROUNDS, "none was fetched in place of being made"


@pytest.mark.parametrize("name", ["convene", "fake-quorum", "silent-proposals"])
def test_who_has_no_turn_convenes_nothing_and_costs_no_round(name: str) -> None:
    workers, sight = attacked(name)
    assert sight.count["proposed"] > 100
    assert sight.count["readies heard"] > 0, "it was spoken to in a search"
    assert not sight.count.keys() & {"accepted", "means made", "means believed"}
    check_that_nothing_was_lost(workers)


@pytest.mark.parametrize("name", ["sybil-lineage", "nan-state"])
def test_no_number_of_made_up_identities_moves_colleagues_to_another_state(name: str) -> None:
    workers, sight = attacked(name)
    assert sight.count["records told"] > 10
    assert not sight.count.keys() & {"asked for its state", "nodes that held its state"}
    check_that_nothing_was_lost(workers)


def test_who_goes_on_pushing_slows_a_pairwise_run_by_no_more_than_it_may_bring() -> None:
    spec = msgspec.structs.replace(SPEC, exchange="pairwise", quorum=1)
    (peace, *_), _ = attacked("", spec=spec)
    workers, sight = attacked("heavy-push", spec=spec)
    assert sight.count["pushes"] > 100
    before, after = OLD_ROUNDS, float(peace.state.mean())
    for worker in workers:
        # Of the progress under attack that remains which is not thinned by the mass of newcomers.
        assert (worker.state >= before + (after - before) / (1 + NEWCOMERS) - 0.5).all()
        assert (worker.state <= after).all()
