"""Five hundred rounds, and the nodes are as large as before."""

import os
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from swarm import Swarm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROUNDS = 500
WARM_UP = 120
"""Rounds in which histories, caches and the allocator's pools fill."""
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
"""Bytes: what a status row costs and no more, two megabytes in all; a leaked vector would be fifty times this."""
NUMEL = 50_000


def test_memory_and_descriptors_are_flat_over_five_hundred_rounds(tmp_path: Path) -> None:
    flags = (*QUICK, "--task-option", f"numel={NUMEL}", "--wait-for", "2")
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *flags)
        two = swarm.start("two", *flags, join=one)
        nodes = [one, two]
        samples: dict[str, list[tuple[int, int, int]]] = {node.name: [] for node in nodes}
        began = time.monotonic()
        while True:
            statuses = [node.status for node in nodes]
            for node, status in zip(nodes, statuses, strict=True):
                process = psutil.Process(status.pid)
                samples[node.name].append((status.round, process.memory_info().rss, process.num_fds()))
            if all(status.phase == "finished" for status in statuses):
                break
            assert time.monotonic() - began < 150, f"round {statuses[0].round} of {ROUNDS}"
            time.sleep(0.3)
        for node in nodes:
            late = np.array([sample for sample in samples[node.name] if sample[0] >= WARM_UP], dtype=float)
            assert len(late) > 10
            slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
            load = os.getloadavg()[0]
            print(f"{node.name}: {slope:+.0f} bytes per round of {late[-1, 1] / 1e6:.0f} MB, load {load:.0f}")
            assert slope < MOST_PER_ROUND
            assert late[-1, 2] <= late[0, 2] + 2, "descriptors"
            assert {each.outcome for each in node.status.history} == {"averaged"}
        print(f"{ROUNDS} rounds in {time.monotonic() - began:.0f} s")
