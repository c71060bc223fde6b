"""Members that lie: what they contribute and say is bent as their lie says, and nothing else is."""

from random import Random
from typing import Final

import numpy as np
import pytest
import torch
import trio
from memory import MemoryNet
from trio.testing import MockClock
from workers import Worker

from shoal.crypto.keys import PeerId
from shoal.gossip.events import Vector
from shoal.gossip.member.commands import AbortRound, Attach, Contribute, NewState
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.messages import MAX_WEIGHT
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id
from shoal.gossip.state.tree_hash import state_hash
from shoal.methods.learning.task import Task
from shoal.node.testnet.lies.catalogue import LIES, NoSuchLie
from shoal.node.testnet.lies.members import CONTRIBUTIONS, MEANS, lying
from shoal.node.testnet.lies.trainer import flipped

SPEC: Final = RunSpec(method="fedavg", task="digits", tensors=(TensorSpec("w", "float32", (1000,)),))
HONEST: Final = 2
ROUNDS: Final = 6


def swarm_with(lie: str, rounds: int) -> list[Worker]:
    """Run two honest workers and a liar, the last, until the honest ones have made so many rounds."""
    net = MemoryNet()
    members: list[type[Member]] = [*[Member] * HONEST, lying(lie)]
    workers = [
        Worker(net, number, SPEC, rounds, is_calm=False, member_type=member)
        for number, member in enumerate(members)
    ]

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(net.run)
            for worker in workers:
                nursery.start_soon(worker.run)
            for worker in workers[1:]:
                worker.host.dial_nowait(workers[0].host.addresses()[0])
            with trio.fail_after(600):
                for worker in workers[:HONEST]:
                    await worker.is_done.wait()
            nursery.cancel_scope.cancel()

    trio.run(run, clock=MockClock(autojump_threshold=0))
    return workers


def contributed(lie: str, times: int = 1) -> tuple[list[Vector], float]:
    """Return what a liar gives in tries of its first round, in which it learned twos; and its weight."""
    member = lying(lie)(PeerId("liar"), MemberConfig(wait_for=2), Random(1), 1)
    state = np.ones(1000, np.float32)
    member.handle(Attach(run_id(SPEC), SPEC, True), 0.0)
    member.handle(NewState(0, state_hash(state.data), b"", state.data), 0.0)
    given, weight = [], 0.0
    for _ in range(times):
        vector = state + np.float32(2.0)
        member.handle(Contribute(0, vector, 1.0, "params"), 0.0)
        assert isinstance(member.asks.pending, Contribute)
        given.append(vector - state)
        weight = member.asks.pending.weight
        member.handle(AbortRound(), 0.0)
    return given, weight


@pytest.mark.parametrize(
    ("lie", "gives"),
    [
        ("sign-flip", -2.0),
        ("sign-flip-10", -20.0),
        ("scale-10", 20.0),
        ("scale-1000", 2000.0),
        ("weight", -2.0),
        ("zeros", 0.0),
        ("lying-owner", 2.0),
        ("cut", 2.0),
    ],
)
def test_what_a_member_learned_is_bent_as_its_lie_says(lie: str, gives: float) -> None:
    (vector,), weight = contributed(lie)
    np.testing.assert_allclose(vector, gives)
    assert weight == (MAX_WEIGHT if lie == "weight" else 1.0)


@pytest.mark.parametrize("lie", ["noise", "drift"])
def test_noise_and_drift_are_as_large_as_what_was_learned(lie: str) -> None:
    (vector, again), _ = contributed(lie, times=2)
    assert np.linalg.norm(vector) == pytest.approx(2.0 * np.sqrt(1000), rel=1e-4)
    assert np.unique(vector).size > 900
    assert np.allclose(vector, again) == (lie == "drift")


@pytest.mark.parametrize("lie", [lie.name for lie in LIES if lie.who != "outsider" and lie.name != "cut"])
def test_one_liar_of_three_moves_the_others_by_at_most_one_honest_step_a_round(lie: str) -> None:
    workers = swarm_with(lie, ROUNDS)
    honest = workers[:HONEST]
    for worker in honest:
        assert worker.round == ROUNDS
        assert worker.hashes[-1] == honest[0].hashes[-1]
    # The honest ones learn zeros and ones in every round: a step of this norm, or none.
    step = np.sqrt(1000)
    assert np.linalg.norm(honest[0].state) <= 1.01 * ROUNDS * step


def test_a_member_that_cuts_all_others_ends_no_round_of_theirs() -> None:
    *honest, _ = swarm_with("cut", ROUNDS)
    for worker in honest:
        assert len(worker.contributors) == ROUNDS, "each was made, none was fetched"
        assert min(worker.contributors) >= HONEST
        assert worker.hashes == honest[0].hashes


def test_every_lie_of_a_node_has_a_member_and_no_lie_of_an_outsider_has_one() -> None:
    bent = {*CONTRIBUTIONS, *MEANS, "label-flip", "cut", "silent-convener"}
    assert bent == {lie.name for lie in LIES if lie.who != "outsider"}
    for lie in LIES:
        if lie.who == "outsider":
            with pytest.raises(NoSuchLie, match=r"scripts/attacks.py"):
                lying(lie.name)
        else:
            assert lying(lie.name).lie == lie.name


class Labelled(Task):
    """Three examples."""

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Task`."""
        return torch.zeros(3, 1), torch.tensor([0, 4, 8])


def test_flipped_labels_are_nine_minus_the_right_ones() -> None:
    inputs, labels = flipped(Labelled()).train_data()
    assert inputs.shape == (3, 1)
    assert labels.tolist() == [9, 5, 1]
