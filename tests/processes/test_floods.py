"""Floods of a real node, by the script that measures them: memory stays bounded, and others get in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.floods import PATIENCE

pytestmark = pytest.mark.slow
MEGABYTES = 200


@pytest.mark.parametrize("flood", ["half-open", "negotiation", "silent", "window", "unread", "idle-dht"])
def test_a_flood_fills_no_memory_and_keeps_nobody_out(flood: str) -> None:
    script = Path(__file__).parents[2] / "scripts" / "floods.py"
    ran = subprocess.run(
        [sys.executable, str(script), flood, "--seconds", "4", "--json"], capture_output=True, check=True
    )
    found = json.loads(ran.stdout)
    assert found["rss_peak_mb"] < MEGABYTES
    assert found["colleague_seconds"] < PATIENCE
    assert found["dht_seconds"] < PATIENCE
