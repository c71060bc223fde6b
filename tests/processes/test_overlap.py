"""Training on while means travel, between real processes over links of 150 ms: beside runs that wait.

Steps take their time without needing the processor (tests/tasks/paced.py), so that the share of it that is
spent computing says something of the links and not of how many nodes a test machine can run at once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TASKS = Path(__file__).parents[1] / "tasks"
STEPS = 60
PAUSE = 0.03
"""Seconds a step: with these a round's work takes about twice as long as its exchange over such links."""
ROUNDS = 6
MOST_LOST = 0.1
"""Accuracy, which varies with when means arrive. What is lost: tests/methods/test_overlap_on_digits.py."""
UP = (
    sys.executable, "-P", "-m", "shoal.node", "testnet", "up", "--json", "--no-calm", "--timeout", "400",
    "--seeds", "0", "--nodes", "3", "--rounds", str(ROUNDS), "--latency", "150ms", "--network", "proxy",
    "--task", "paced:PacedDigits", "--task-option", f"pause={PAUSE}", "--task-option", "share={i}/{n}",
    "--method", "diloco", "--option", f"steps={STEPS}", "--option", "lr=0.1",
)  # fmt: skip


def run(directory: Path, delay: int) -> dict[str, Any]:
    words = [*UP, "--delay", str(delay), "--dir", str(directory)]
    environment = os.environ | {"PYTHONPATH": str(TASKS.parents[1] / "src")}
    ended = subprocess.run(words, cwd=TASKS, env=environment, text=True, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def test_over_slow_links_a_delay_keeps_trainers_busy_and_costs_little_accuracy(tmp_path: Path) -> None:
    waits, overlaps = (run(tmp_path / f"delay{delay}", delay) for delay in (0, 1))
    for name, result in (("delay 0", waits), ("delay 1", overlaps)):
        print(f"{name}: utilisation {result['utilisation']:.3f}, accuracy {result['accuracy_mean']:.3f}")
        assert result["verdict"]
        assert result["same_state_hash"]
        assert result["rounds"] == ROUNDS
        assert sum(node["failed_rounds"] for node in result["per_node"]) == 0
    assert overlaps["utilisation"] >= waits["utilisation"] + 0.15
    assert overlaps["accuracy_mean"] >= waits["accuracy_mean"] - MOST_LOST
