"""A node is killed in each phase of a round: the others finish it, and the node comes back from its disk."""

import signal
from pathlib import Path

import pytest
from swarm import TORCH, TRAIN, Node, Swarm, averaged, wait_agreement, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# Parts of several chunks, so that a node can die in the middle of one.
LARGE = (*TRAIN, "--task-option", "numel=1600000")
PROMPT = 10.0
"""Seconds; a round in which a node dies must not wait for the patience of 15 s to end."""


def trainer_pid(node: Node) -> int:
    trainer = node.trainer
    assert trainer is not None
    return trainer.pid


def start_three(swarm: Swarm, *flags: str, die_at: str = "") -> tuple[Node, Node, Node]:
    one = swarm.start("one", *flags, "--wait-for", "3")
    two = swarm.start("two", *flags, "--wait-for", "3", join=one)
    victim = swarm.start(
        "victim", *flags, "--wait-for", "3", join=one, environ={"SHOAL_TESTING_DIE_AT": die_at}
    )
    return one, two, victim


def assert_nothing_lost(node: Node) -> None:
    """Every round of its history was averaged, and none is missing."""
    history = node.status.history
    assert {each.outcome for each in history} == {"averaged"}, history
    assert [each.round for each in history] == list(range(len(history))), history


def assert_back_in_time(node: Node, other: Node, least: int = 0) -> None:
    """It is in the round after the one that runs when it is up, or in the one after that."""
    node.wait("has its state from disk", lambda status: status.run is not None)
    running = other.status.round
    status = node.wait("averages again", lambda status: len(averaged(status)) > least)
    first = min(averaged(status))
    assert first <= running + 2, f"up in round {running}, back in round {first}"


PHASES = ["work", "matchmaking", "reduce-sender", "reduce-owner", "save"]


@pytest.mark.parametrize("delay", ["0", "1"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_round_in_which_a_node_is_killed_is_finished_by_the_others(
    tmp_path: Path, phase: str, delay: str
) -> None:
    flags = (*LARGE, "--delay", delay)
    with Swarm(tmp_path) as swarm:
        one, two, victim = start_three(swarm, *flags, die_at=f"{phase}:3")
        assert victim.wait_end() == -signal.SIGKILL
        trainers = [trainer_pid(one), trainer_pid(two)]
        wait_agreement([one, two], least=5)
        for node, trainer in zip((one, two), trainers, strict=True):
            assert_nothing_lost(node)
            assert trainer_pid(node) == trainer
            third = averaged(node.status)[3]
            waited = third.matchmaking_seconds + third.exchange_seconds
            print(f"{phase}: {node.name} round 3 with {third.contributors} waited {waited:.2f} s")
            assert waited < PROMPT
        swarm.start("victim", *flags, join=two)
        victim.wait_log("going on from round")
        assert_back_in_time(victim, two)
        wait_agreement([one, two, victim], least=max(averaged(victim.status)))
        for node in (one, two):
            assert_nothing_lost(node)


def test_a_node_that_is_killed_while_it_fetches_the_state_gets_it_later(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *LARGE, "--wait-for", "2")
        two = swarm.start("two", *LARGE, "--wait-for", "2", join=one)
        two.wait("is in the middle of the run", lambda status: status.round >= 2)
        victim = swarm.start("victim", *LARGE, join=two, environ={"SHOAL_TESTING_DIE_AT": "sync:0"})
        assert victim.wait_end() == -signal.SIGKILL
        swarm.start("victim", *LARGE, join=two)
        assert_back_in_time(victim, two)
        wait_agreement([one, two, victim])
        assert "took over the swarm's state" in victim.log
        for node in (one, two):
            assert_nothing_lost(node)


@pytest.mark.parametrize("delay", ["0", "1"])
def test_a_killed_trainer_is_started_again_while_its_node_stays(tmp_path: Path, delay: str) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *TORCH, "--wait-for", "2", "--delay", delay)
        two = swarm.start("two", *TORCH, "--wait-for", "2", "--delay", delay, join=one)
        two.wait("trains", lambda status: status.round >= 2)
        first = two.trainer
        assert first is not None
        first.kill()
        told = two.wait("says why", lambda status: "signal 9" in status.trainer)
        assert told.trainer == "trainer killed by signal 9, probably out of memory: lower --option batch_size"
        assert any(peer.link == "direct" for peer in told.peers)
        back = two.wait("has another trainer", lambda status: status.trainer == "running")
        second = wait_until("another trainer", lambda: two.trainer)
        assert second.pid != first.pid
        assert back.pid == told.pid
        two.wait("averages again", lambda status: max(averaged(status)) > told.round + 1)
        wait_agreement([one, two], least=two.status.round)
        assert {each.outcome for each in one.status.history} <= {"averaged", "alone"}
