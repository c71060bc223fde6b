"""Five hundred rounds, and the nodes are as large as before."""

import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from swarm import Node, Swarm, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROUNDS = 720
WARM_UP = 220
"""Rounds in which the history of 200, caches and the allocator's pools fill; five hundred are left."""
QUICK = (
    "--task",
    "light:Light",
    "--option",
    "steps=1",
    "--task-option",
    "pause=0.001",
    "--rounds",
    str(ROUNDS),
)
MOST_PER_ROUND = 4000.0
"""Bytes: noise of the allocator, two megabytes in all; a leaked vector would be fifty times this."""
NUMEL = 50_000


def has_few_descriptors(node: Node) -> bool:
    """Listener, links, log, database, lock, two control sockets, trio's own: 20 here."""
    assert node.process is not None
    return psutil.Process(node.process.pid).num_fds() <= 24


def test_memory_and_sockets_are_flat_over_five_hundred_rounds(tmp_path: Path) -> None:
    flags = (*QUICK, "--task-option", f"numel={NUMEL}", "--wait-for", "2")
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *flags)
        two = swarm.start("two", *flags, join=one)
        nodes = [one, two]
        samples: dict[str, list[tuple[int, int, int]]] = {node.name: [] for node in nodes}
        for node in nodes:
            node.wait("trains", lambda status: status.round > 0)
        began = time.monotonic()
        while True:
            statuses = [node.status for node in nodes]
            for node, status in zip(nodes, statuses, strict=True):
                process = psutil.Process(status.pid)
                samples[node.name].append(
                    (status.round, process.memory_info().rss, len(process.net_connections("all")))
                )
            if all(status.phase == "finished" for status in statuses):
                break
            assert time.monotonic() - began < 150, f"round {statuses[0].round} of {ROUNDS}"
            time.sleep(0.05)
        for node in nodes:
            late = np.array([sample for sample in samples[node.name] if sample[0] >= WARM_UP], dtype=float)
            assert len(late) > 20
            slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
            load = os.getloadavg()[0]
            print(f"{node.name}: {slope:+.0f} bytes per round of {late[-1, 1] / 1e6:.0f} MB, load {load:.0f}")
            assert slope < MOST_PER_ROUND
            third = len(late) // 3
            sockets = [float(np.median(part)) for part in (late[:third, 2], late[-third:, 2])]
            print(f"{node.name}: {sockets[0]:.0f} sockets at first, {sockets[1]:.0f} at last")
            assert sockets[1] <= sockets[0]
            assert {each.outcome for each in node.status.history} == {"averaged"}
        for node in nodes:
            # Our requests for a status leave sockets that close after a while.
            wait_until("the descriptors are few", partial(has_few_descriptors, node))
        print(f"{ROUNDS} rounds in {time.monotonic() - began:.0f} s")
