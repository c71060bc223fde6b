"""Secure runs of the simulator: what a seed means, and what must hold of sums under masks.

The oracle sees what every member gave and every secret, so it can tell what was opened, by how many shares.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.crypto.masking import LEAST
from shoal.gossip.averaging.gather import Gather
from shoal.gossip.averaging.secure.masked_sum import MaskedSum, Stage

if TYPE_CHECKING:
    from sim.checks import Grouping, Oracle
    from sim.node import SimNode
    from sim.world import Scenario

SHARES: Final = "nobody opens with one share missing"
ONE_LIST: Final = "no share for a second list under one label"
LEFT: Final = "a round that fails leaves the state"
OPENED: Final = "a secure sum opens to what its contributors gave"
FAULTS: Final = ("crash", "freeze", "slow", "oneway", "trainer", "leave", "jump")
SLOWEST: Final = 400.0
"""Bytes per second of a line that is slowed down."""
LIES: Final = ("residues", "withholds", "two-lists", "deaf", "mute", "equivocate", "garbage", "cut")


def secure_scenario(seed: int) -> Scenario:
    """Return the secure run of a seed: five to seven that train, of whom some vanish and one may lie."""
    from sim.runs import draw

    dice = Random(f"secure {seed}")
    nodes = dice.choice((5, 6, 7))
    scenario = draw(seed, nodes, FAULTS)
    asks = dice.choice(("r", "r", "rr"))
    scenario = replace(scenario, helpers=0, group_size=16, quorum=1, asks=asks, pushes=0, rounds=0)
    scenario = replace(scenario, combine="mean", mode="", house=(), secure=True, calm_rounds=1)
    # A model here is smaller than the keys of a member, so that the slowest lines carry no secure sum.
    faults = tuple(fault for fault in scenario.faults if fault[1] != "slow" or fault[3] >= SLOWEST)
    scenario = replace(scenario, faults=faults)
    if dice.random() < 0.5:
        lie = (round(dice.uniform(0.5, 20.0), 2), "lie", dice.randrange(nodes), dice.choice(LIES), 9.0)
        # A secure sum has five times as many turns as a plain one. Two in a round, in slow weather and among
        # lies, take longer than a swarm has.
        scenario = replace(scenario, asks="r", faults=tuple(sorted((*scenario.faults, lie))))
    return scenario


def check_opened(oracle: Oracle, seen: Grouping, node: SimNode, mean: Any) -> None:
    """What a member was given is what the contributors gave, to a step of the grid, and honestly opened."""
    exchange = node.member.exchange
    if not isinstance(exchange, MaskedSum) or exchange._masks is None or oracle.is_liar(node.me):
        return
    members = len(exchange._masks.roster.members)
    revealed = exchange._exchanges[Stage.UNMASK]
    assert isinstance(revealed, Gather)
    if len(revealed.bodies) < (need := max(LEAST, members - members // 3)):
        oracle.violate(SHARES, f"{node.me} opened with {len(revealed.bodies)} of {need}")
    check_lists(oracle, seen)
    if seen.is_tainted:
        return
    grid, at = exchange.numbers.grids[0], 0
    base = exchange.origin.state if exchange.numbers.is_based else None
    state = np.zeros(mean.size) if base is None else base[: mean.size].astype(np.float64)
    lows = np.empty(mean.size, np.int64)
    for field in range(grid.fields):
        span = slice(field * grid.n_words, min((field + 1) * grid.n_words, grid.count))
        lows[span] = np.arange(grid.n_words)[: len(range(*span.indices(grid.count)))]
    for part, contributors in enumerate(exchange._lists[: len(exchange._edges) - 1]):
        here = (lows >= exchange._edges[part]) & (lows < exchange._edges[part + 1])
        given = [seen.given[exchange.group.members[number]][0] - state for number in contributors]
        clipped = np.clip(np.array(given, np.float64), -grid.clip, grid.clip)
        factors = [exchange.numbers.factors[number] for number in contributors]
        exact = state + np.average(clipped, axis=0, weights=factors)
        at += int(here.sum())
        if here.any() and np.abs(exact - mean)[here].max() > grid.step * 1.01 + 1e-4:
            oracle.violate(OPENED, f"{node.me}: part {part} of {sorted(contributors)}")
    if at != mean.size:
        oracle.violate(OPENED, f"{node.me}: {at} of {mean.size} numbers")


def check_lists(oracle: Oracle, seen: Grouping) -> None:
    """Honest members reveal shares for one list under one label."""
    lists = {
        exchange._masks._lists
        for peer, exchange in seen.exchanges.items()
        if isinstance(exchange, MaskedSum) and exchange._masks is not None and not oracle.is_liar(peer)
    }
    if len(lists - {None}) > 1:
        oracle.violate(ONE_LIST, f"{sorted(map(str, lists))}")


def check_left(oracle: Oracle, node: SimNode) -> None:
    """Who is told that a secure sum failed has what it gave, untouched."""
    exchange = node.member.exchange
    if not isinstance(exchange, MaskedSum):
        return
    seen = oracle.groups.get((exchange.group.id, exchange.index))
    if seen is None or node.me not in seen.given or exchange.outcome is not None:
        return
    check_lists(oracle, seen)
    if not np.array_equal(exchange._vector, seen.given[node.me][0]):
        oracle.violate(LEFT, f"{node.me} in round {exchange.group.round}")
