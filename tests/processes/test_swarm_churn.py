"""One of four nodes is killed and started again every third round: the others complete every round."""

import os
from functools import partial
from pathlib import Path

import pytest
from swarm import Swarm

from shoal.node.status import Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROUNDS = 20
# Rounds of a second and a half: in three of them a node starts, fetches the state and takes part again.
STEADY = (
    "--task",
    "light:Light",
    "--option",
    "steps=5",
    "--task-option",
    "pause=0.3",
    "--rounds",
    str(ROUNDS),
)


def has_reached(round_: int, status: Status) -> bool:
    return status.round >= round_


def test_twenty_of_twenty_rounds_complete_while_one_of_four_is_killed_every_third(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *STEADY, "--wait-for", "4")
        others = [
            one,
            *(swarm.start(name, *STEADY, "--wait-for", "4", join=one) for name in ("two", "three")),
        ]
        victim = swarm.start("victim", *STEADY, "--wait-for", "4", join=one)
        kills = 0
        for round_ in range(3, ROUNDS, 3):
            one.wait(f"is in round {round_}", partial(has_reached, round_))
            if victim.is_running:
                victim.kill()
                kills += 1
            swarm.start("victim", *STEADY, join=others)
        for node in others:
            node.wait("has finished", lambda status: status.phase == "finished")
        histories = [{each.round: each for each in node.status.history} for node in others]
        for history in histories:
            assert sorted(history) == list(range(ROUNDS))
            assert {each.outcome for each in history.values()} == {"averaged"}
        for round_ in range(ROUNDS):
            assert len({history[round_].state_hash for history in histories}) == 1
        fours = sum(each.contributors == 4 for each in histories[0].values())
        waits = [each.matchmaking_seconds + each.exchange_seconds for h in histories for each in h.values()]
        load = os.getloadavg()[0]
        print(
            f"{kills} kills, {fours} rounds with all four, waited {max(waits):.2f} s at most, load {load:.0f}"
        )
        assert kills == 6
        assert {each.contributors for each in histories[0].values()} <= {3, 4}
        assert fours >= kills, "it takes part again between its deaths"
        last = victim.wait("has the last state too", lambda status: status.phase == "finished")
        assert last.state_hash == one.status.state_hash
