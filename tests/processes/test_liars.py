"""Liars as real processes: outsiders with a fresh key, and nodes that lie among honest ones."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from scripts.attacks import Swarm, attack, old_swarm, plan_of
from shoal.gossip.admission.charter import Mode
from shoal.gossip.run_spec import Combine
from shoal.node.testnet import launcher
from shoal.node.testnet.nodes import Tools
from shoal.node.testnet.plan import Plan
from shoal.node.testnet.processes import Guard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SECONDS = 4.0


OUTSIDERS = ("convene", "fake-quorum", "sybil-lineage", "nan-state")


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """Honest nodes that have averaged for a while; each attacker comes with a key of its own."""
    directory = tmp_path_factory.mktemp("swarm")
    with closing(Guard()) as guard, old_swarm(plan_of(OUTSIDERS[0]), directory, guard) as made:
        yield made


@pytest.mark.parametrize("lie", OUTSIDERS)
def test_nothing_of_an_outsider_is_held_and_no_accuracy_is_lost(lie: str, swarm: Swarm) -> None:
    line = attack(swarm, lie, SECONDS, 1)
    print(line)
    assert line["did"].get("proposed", 0) + line["did"].get("records told", 0) > 0
    assert line["held"] == 0
    assert line["named"], "the statuses of the nodes say who it was and what it did"
    assert line["accuracy with"] >= line["accuracy without"] - 1.0


class Silent:
    """A screen that shows nothing."""

    def show(self, *_: object) -> None:
        """See `launcher.Screen`."""

    def progress(self, *_: object) -> None:
        """See `launcher.Screen`."""

    def tell(self, line: str) -> None:
        """See `launcher.Screen`."""


@pytest.mark.parametrize(
    ("lie", "mode", "combine", "rounds"),
    [
        ("sign-flip-10", "open", "clip", 30),
        ("weight", "open", "clip", 60),  # whose learning is slow, rather than wrong
        ("lying-owner", "open", "clip", 30),
    ],
)
def test_one_of_six_that_lies_does_not_keep_the_others_from_learning(
    lie: str, mode: Mode, combine: Combine, rounds: int, tmp_path: Path
) -> None:
    plan = Plan(
        nodes=6,
        liars=1,
        lie=lie,
        alpha=1.0,
        rounds=rounds,
        seeds=0,
        options={"steps": 20},
        mode=mode,
        combine=combine,
    )
    result = launcher.up(
        plan, tmp_path, screen=Silent(), tools=Tools(environ=dict(os.environ)), network="bare"
    )
    print(lie, result.accuracy_min, result.accuracy_mean)
    assert result.rounds == rounds
    assert result.same_state_hash
    assert result.accuracy_min is not None
    assert result.accuracy_min >= 0.85
