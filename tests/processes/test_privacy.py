"""Real nodes that add noise: one stops giving at its budget, goes on receiving, and no kill forgets it."""

import subprocess
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import msgspec
import pytest
from swarm import NODE, TASKS, TORCH, TRAIN, Node, Swarm, averaged, environment, wait_agreement

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


def check_shown(node: Node) -> None:
    """Look at epsilon of a node that gives nothing more, wherever its user looks."""
    told = node.status.privacy
    assert told is not None
    assert told.is_spent
    assert 0 < told.epsilon <= told.budget
    page = node.status.page.rstrip("/")
    with urlopen(f"{page}/status.json") as answer:
        assert msgspec.json.decode(answer.read())["privacy"] == msgspec.to_builtins(told)
    with urlopen(f"{page}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    assert f"shoal_privacy_epsilon {told.epsilon}" in lines
    command = [*NODE, "status", "--home", str(node.home)]
    shown = subprocess.run(
        command, cwd=TASKS, env=environment(COLUMNS="200"), check=True, capture_output=True, text=True
    ).stdout
    assert f"epsilon {told.epsilon:.3g} of {told.budget:g}" in shown


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


def test_under_masks_each_gives_its_share_of_the_noise_up_to_its_budget(tmp_path: Path) -> None:
    shares = (
        *(*TRAIN, "--secure", "--accept-unseen-updates", "--wait-for", "3", "--wait-seconds", "600"),
        *("--privacy", "distributed", "--noise-multiplier", str(NOISE)),
    )
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *shares, "--privacy-budget", f"{BUDGET:.6f}")
        nodes = [one, *(swarm.start(name, *shares, join=one) for name in ("two", "three"))]
        spent = one.wait("has spent its budget", lambda s: s.privacy is not None and s.privacy.is_spent)
        assert releases(spent) == GIVEN
        # The others go on, and it receives what they make.
        wait_agreement(nodes, least=spent.round + 1)
        check_shown(one)
        # No sum of two opens, so that both have given in every round that came to something.
        assert all(releases(node.status) > spent.round for node in nodes[1:])


def test_steps_with_noise_are_counted_up_to_a_budget(tmp_path: Path) -> None:
    steps = (
        *TORCH,
        "--privacy",
        "examples",
        "--noise-multiplier",
        "4",
        "--wait-for",
        "2",
        "--wait-seconds",
        "600",
    )
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *steps, "--privacy-budget", "2")
        two = swarm.start("two", *steps, join=one)
        spent = one.wait("has spent its budget", lambda s: s.privacy is not None and s.privacy.is_spent)
        assert releases(spent) > 0
        wait_agreement([one, two], least=spent.round + 1)
        check_shown(one)
        told = two.status.privacy
        assert told is not None
        assert told.releases > 0
        assert not told.is_spent
