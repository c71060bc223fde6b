"""Pairwise averaging between real processes: five nodes that know each other in a ring learn digits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

UP = (
    sys.executable,
    "-P",
    "-m",
    "shoal.node",
    "testnet",
    "up",
    "--json",
    "--exchange",
    "pairwise",
    "--topology",
    "ring",
)


def test_five_nodes_in_a_ring_learn_together_and_end_as_one(tmp_path: Path) -> None:
    words = [*UP, "--nodes", "5", "--dir", str(tmp_path / "net"), "--timeout", "300", "--seeds", "0"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["accuracy_min"] >= 0.9
    assert result["models_apart"] <= 0.1
    names = [check["name"] for check in result["invariants"] if check["ok"]]
    assert "models within 10 % of their mean at the end" in names
