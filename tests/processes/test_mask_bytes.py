"""What a mask of DeltaMask costs between real nodes, in bits per weight on their sockets.

Bytes are counted over rounds in which all nodes took part and nobody fetched a state, from all that the
sockets sent, whatever for: presence, matchmaking, commitments, links' own framing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from meter import Meter
from swarm import Node, Swarm, wait_until

from shoal.node.status import Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG: Final = 400.0
"""Seconds: several nodes start torch and pre-train a body on two cores that others use too."""
WIDTH: Final = 8192
WEIGHTS: Final = 96 * WIDTH


def start_all(swarm: Swarm, count: int, *flags: str, options: Sequence[str] = ()) -> list[Node]:
    """Start nodes, of which each is told its share."""
    nodes: list[Node] = []
    for i in range(1, count + 1):
        share = ("--task-option", f"share={i}/{count}")
        more = [word for option in options for word in ("--task-option", option)]
        nodes.append(
            swarm.start(
                f"node{i}", *flags, *share, *more, "--wait-for", str(count), "--patience", "60",
                join=nodes[:1],
            )
        )  # fmt: skip
    return nodes


def test_a_mask_costs_a_tenth_of_a_bit_per_weight_on_the_socket(tmp_path: Path) -> None:
    flags = ("--task", "digits_body", "--method", "deltamask", "--option", "head_rounds=2", "--rounds", "16")
    with Swarm(tmp_path) as swarm:
        nodes = start_all(swarm, 3, *flags, options=[f"width={WIDTH}"])
        meter = Meter(nodes)

        def is_over() -> list[Status] | None:
            statuses = meter.look()
            return statuses if statuses and all(status.round == 16 for status in statuses) else None

        statuses = wait_until("all rounds", is_over, LONG)
        bits = 8 * meter.bytes_per_update(statuses, first=2) / WEIGHTS
        last = 8 * meter.bytes_per_update(statuses, first=12) / WEIGHTS
        body = [each.metrics["bits_per_weight"] for status in statuses for each in status.history[4:]
                if "bits_per_weight" in each.metrics]  # fmt: skip
        print(f"{bits:.3f} bits per weight on the socket, {last:.3f} in the last rounds,", end=" ")
        print(f"{sum(body) / len(body):.3f} in the updates")
        assert len({status.state_hash for status in statuses}) == 1
        assert bits <= 0.15
        assert last <= 0.11
