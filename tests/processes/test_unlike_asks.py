"""Two real nodes whose methods ask for unlike things: both are told at once, and nothing is mixed."""

from functools import partial
from pathlib import Path

import pytest
from swarm import TRAIN, Swarm

from shoal.node.status import Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def is_told(text: str, status: Status) -> bool:
    return any(text in problem for problem in status.problems)


def test_two_nodes_that_ask_for_unlike_things_are_both_told_and_mix_nothing(tmp_path: Path) -> None:
    flags = (*TRAIN, "--wait-for", "2")
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *flags)
        two = swarm.start("two", *flags, join=one, environ={"LIGHT_TAG": "delta"})
        for node, tag in ((one, "params"), (two, "delta")):
            wanted = f"ask 0 of the round is all_reduce {tag!r} here and something else at"
            status = node.wait(wanted, partial(is_told, wanted))
            assert (status.round, status.history[-1].outcome) == (0, "failed")
            assert status.history[-1].reason.startswith("Mismatch: ask 0 of the round")
