"""Real nodes that combine by something other than the mean: they learn, and hold the same state."""

import os
from pathlib import Path

import pytest

from shoal.node.testnet import launcher
from shoal.node.testnet.nodes import Tools
from shoal.node.testnet.plan import Plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Silent:
    """A screen that shows nothing."""

    def show(self, *_: object) -> None:
        """See `launcher.Screen`."""

    def progress(self, *_: object) -> None:
        """See `launcher.Screen`."""

    def tell(self, line: str) -> None:
        """See `launcher.Screen`."""


def test_three_nodes_learn_by_the_median(tmp_path: Path) -> None:
    plan = Plan(nodes=3, combine="median", alpha=1.0, rounds=20, seeds=0, options={"steps": 20})
    tools = Tools(environ=dict(os.environ))
    result = launcher.up(plan, tmp_path, screen=Silent(), tools=tools, network="bare")
    assert result.rounds == 20
    assert result.same_state_hash
    assert result.accuracy_min is not None
    assert result.accuracy_min >= 0.85
