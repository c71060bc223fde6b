"""Real nodes that add noise: one stops giving at its budget, goes on receiving, and no kill forgets it."""

from functools import partial
from pathlib import Path

import pytest
from swarm import TRAIN, Swarm, averaged, wait_agreement

from shoal.crypto.accounting import Release, epsilon_of
from shoal.node.status import Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
NOISE = 2.0
GIVEN = 3
BUDGET = epsilon_of([Release(noise_multiplier=NOISE, count=GIVEN)], 1e-5) * 1.001
PRIVATE = (*TRAIN, "--privacy", "local", "--noise-multiplier", str(NOISE), "--wait-for", "2")


def releases(status: Status) -> int:
    assert status.privacy is not None
    return status.privacy.releases


def has_averaged(past: int, status: Status) -> bool:
    return max(averaged(status), default=0) > past


def test_a_node_gives_up_to_its_budget_and_receives_after_it_whatever_kills_it(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *PRIVATE, "--privacy-budget", f"{BUDGET:.6f}")
        two = swarm.start("two", *PRIVATE, join=one)
        spent = one.wait("has spent its budget", lambda s: s.privacy is not None and s.privacy.is_spent)
        assert releases(spent) == GIVEN
        assert any("--privacy-budget" in problem for problem in spent.problems)
        one.wait("receives two rounds more", lambda status: status.round >= spent.round + 2)
        assert releases(one.status) == GIVEN
        wait_agreement([one, two], least=spent.round + 1)
        for node, join in ((one, two), (two, one)):
            before = node.status
            node.kill()
            flags = ("--privacy-budget", f"{BUDGET:.6f}") if node is one else ()
            node.start(*PRIVATE, *flags, "--join", join.address)
            after = node.wait("averages again", partial(has_averaged, before.round))
            told = releases(after)
            assert (told == GIVEN) if node is one else (told > releases(before))
